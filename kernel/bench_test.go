package kernel_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"weft/kernel"
	"weft/kernel/netnstest"
	"weft/overlay"
	"weft/port"
)

// BenchmarkAttach compares the kernel's part of an attach with the least that it can be, in turns.
func BenchmarkAttach(b *testing.B) {
	s := newSite(b)
	near := newRaw(b, s.space())
	defer near.close()
	bridge := index(b, s.space(), "br0")
	var ours, least []time.Duration
	for i := 0; b.Loop(); i++ {
		p := s.port(b, i%50_000+10)
		ops := s.attach(p)
		at := time.Now()
		must(b, s.k, ops)
		ours = append(ours, time.Since(at))
		must(b, s.k, []kernel.Op{{Verb: kernel.Del, Obj: ops[0].Obj}})

		q := s.port(b, i%50_000+10)
		least = append(least, rawAttach(b, near, bridge, q))
	}
	report(b, ours, least, "raw")
}

// BenchmarkAttachBeside compares attaches while 50 ports of the same network go with quiet ones. The ports are deleted, or go with their
// sandboxes' namespaces.
func BenchmarkAttachBeside(b *testing.B) {
	b.Run("deletes", func(b *testing.B) {
		beside(b, func(s *site, del []kernel.Op) error { return errors.Join(s.k.Apply(context.Background(), del)...) })
	})
	b.Run("ends", func(b *testing.B) {
		beside(b, func(_ *site, del []kernel.Op) (err error) {
			for _, o := range del {
				err = errors.Join(err, kernel.RemoveNetns(o.Obj.Spec.(kernel.Veth).Peer.NS))
			}
			return err
		})
	})
}

func beside(b *testing.B, end func(*site, []kernel.Op) error) {
	s := newSite(b)
	other := open(b, s.ns, s.set.NetnsDir)
	attach := func(p port.Port) (time.Duration, kernel.Op) {
		ops := s.attach(p)
		at := time.Now()
		must(b, s.k, ops)
		return time.Since(at), kernel.Op{Verb: kernel.Del, Obj: ops[0].Obj}
	}
	var busy, quiet, ends []time.Duration
	for b.Loop() {
		var del, clean []kernel.Op
		for i := range 50 {
			_, op := attach(s.port(b, 1000+i))
			del = append(del, op)
		}
		ports := make([]port.Port, 20)
		for i := range ports {
			ports[i] = s.port(b, 2000+i)
		}
		for _, p := range ports[:10] {
			d, op := attach(p)
			quiet, clean = append(quiet, d), append(clean, op)
		}
		done := make(chan error, 1)
		at := time.Now()
		go func() {
			err := end(s, del)
			for { // a namespace's end is not waited for; to look all the time would disturb what is measured
				<-time.After(20 * time.Millisecond)
				have, rerr := other.Read(context.Background(), []string{s.space()})
				if _, there := have[del[len(del)-1].Obj.Key]; err != nil || rerr != nil || !there {
					done <- errors.Join(err, rerr)
					return
				}
			}
		}()
		for _, p := range ports[10:] {
			d, op := attach(p)
			clean = append(clean, op)
			if len(done) > 0 {
				break // this one may have seen the end of it
			}
			busy = append(busy, d)
			<-time.After(3 * time.Millisecond) // spread over the time that it takes
		}
		if err := <-done; err != nil {
			b.Fatal(err)
		}
		ends = append(ends, time.Since(at))
		must(b, s.k, clean)
	}
	report(b, busy, quiet, "quiet")
	b.ReportMetric(float64(busy[len(busy)*9/10].Microseconds()), "p90-µs")
	b.ReportMetric(float64(quiet[len(quiet)*9/10].Microseconds()), "quiet-p90-µs")
	b.ReportMetric(float64(median(ends).Milliseconds()), "all-gone-ms")
}

// BenchmarkRemoteEndpoints programs 1,000 endpoints of another host: 3,000 entries.
func BenchmarkRemoteEndpoints(b *testing.B) {
	s := newSite(b)
	want := kernel.State{}
	for i := range 1000 {
		for _, o := range overlay.RemotePort(s.set, s.net, s.remote(i+100)) {
			want.Add(o)
		}
	}
	var del []kernel.Op
	for _, o := range want {
		del = append(del, kernel.Op{Verb: kernel.Del, Obj: o})
	}
	var took []time.Duration
	for b.Loop() {
		at := time.Now()
		must(b, s.k, kernel.Missing(want, nil))
		took = append(took, time.Since(at))
		must(b, s.k, del)
	}
	b.ReportMetric(float64(len(want)), "entries")
	b.ReportMetric(float64(median(took).Microseconds()), "median-µs")
}

// BenchmarkRead reads a network of 3,334 remote endpoints: 10,000 entries.
func BenchmarkRead(b *testing.B) {
	s := newSite(b)
	want := kernel.State{}
	for i := range 3334 {
		for _, o := range overlay.RemotePort(s.set, s.net, s.remote(i+100)) {
			want.Add(o)
		}
	}
	must(b, s.k, kernel.Missing(want, nil))
	var took []time.Duration
	for b.Loop() {
		at := time.Now()
		have, err := s.k.Read(context.Background(), []string{s.space()})
		if err != nil || len(have) < len(want) {
			b.Fatalf("%d objects, %v", len(have), err)
		}
		took = append(took, time.Since(at))
	}
	b.ReportMetric(float64(median(took).Microseconds()), "median-µs")
}

func report(b *testing.B, ours, others []time.Duration, name string) {
	if len(ours) == 0 || len(others) == 0 {
		return
	}
	x, y := median(ours), median(others)
	b.ReportMetric(float64(x.Microseconds()), "median-µs")
	b.ReportMetric(float64(y.Microseconds()), name+"-µs")
	b.ReportMetric(float64(x)/float64(y), "ratio")
}

func median(ds []time.Duration) time.Duration {
	slices.Sort(ds)
	return ds[len(ds)/2]
}

// raw is the least that an attach can be: one message that makes the pair, and one batch of up, address and route, by hand.
type raw struct {
	fd  int
	buf []byte
}

func newRaw(t testing.TB, ns string) *raw {
	t.Helper()
	r := &raw{fd: -1, buf: make([]byte, 64<<10)}
	netnstest.In(t, ns, func() (err error) {
		if r.fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE); err != nil {
			return err
		}
		return unix.Bind(r.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	})
	return r
}

func (r *raw) close() { _ = unix.Close(r.fd) }

// send sends messages in one go; only the last is acknowledged.
func (r *raw) send(reqs ...*nl.NetlinkRequest) error {
	var out []byte
	for i, q := range reqs {
		q.Seq = uint32(i + 1)
		if i == len(reqs)-1 {
			q.Flags |= unix.NLM_F_ACK
		}
		out = append(out, q.Serialize()...)
	}
	if err := unix.Sendto(r.fd, out, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	n, _, err := unix.Recvfrom(r.fd, r.buf, 0)
	if err != nil {
		return err
	}
	if n < 20 {
		return fmt.Errorf("%d bytes: %w", n, unix.EBADMSG)
	}
	if code := int32(binary.NativeEndian.Uint32(r.buf[16:])); code != 0 {
		return unix.Errno(-code)
	}
	return nil
}

func rawPair(name string, index, master, ns int) *nl.NetlinkRequest {
	q := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	m := nl.NewIfInfomsg(unix.AF_UNSPEC)
	m.Index, m.Flags, m.Change = int32(index), unix.IFF_UP, unix.IFF_UP // veth(4) takes the peer's index only beside one of its own
	q.AddData(m)
	q.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	q.AddData(nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(1450)))
	q.AddData(nl.NewRtAttr(unix.IFLA_MASTER, nl.Uint32Attr(uint32(master))))
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, []byte("veth"))
	peer := info.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(nl.VETH_INFO_PEER, nil)
	far := nl.NewIfInfomsg(unix.AF_UNSPEC)
	far.Index = int32(index)
	peer.AddChild(far)
	peer.AddRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated("eth0"))
	peer.AddRtAttr(unix.IFLA_ADDRESS, []byte{2, 0x42, 10, 1, 0, 9})
	peer.AddRtAttr(unix.IFLA_MTU, nl.Uint32Attr(1450))
	peer.AddRtAttr(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(ns)))
	q.AddData(info)
	return q
}

func rawConfigure(index int, addr netip.Addr) []*nl.NetlinkRequest {
	up := nl.NewNetlinkRequest(unix.RTM_NEWLINK, 0)
	m := nl.NewIfInfomsg(unix.AF_UNSPEC)
	m.Index, m.Flags, m.Change = int32(index), unix.IFF_UP, unix.IFF_UP
	up.AddData(m)
	a := nl.NewNetlinkRequest(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	am := nl.NewIfAddrmsg(unix.AF_INET)
	am.Index, am.Prefixlen = uint32(index), 16
	a.AddData(am)
	a.AddData(nl.NewRtAttr(unix.IFA_LOCAL, addr.AsSlice()))
	r := nl.NewNetlinkRequest(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	rm := nl.NewRtMsg()
	rm.Family = unix.AF_INET
	r.AddData(rm)
	r.AddData(nl.NewRtAttr(unix.RTA_GATEWAY, []byte{10, 1, 0, 1}))
	r.AddData(nl.NewRtAttr(unix.RTA_OIF, nl.Uint32Attr(uint32(index))))
	return []*nl.NetlinkRequest{up, a, r}
}

// rawAttach attaches by hand, and returns how long that took. The sockets are open before.
func rawAttach(t testing.TB, near *raw, bridge int, p port.Port) time.Duration {
	t.Helper()
	const far = 4000
	f, err := os.Open(p.Netns)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	r := newRaw(t, p.Netns)
	defer r.close()
	at := time.Now()
	if err := near.send(rawPair("raw", far, bridge, int(f.Fd()))); err != nil {
		t.Fatal(err)
	}
	if err := r.send(rawConfigure(far, p.Endpoint.Addrs[0])...); err != nil {
		t.Fatal(err)
	}
	took := time.Since(at)
	del := nl.NewNetlinkRequest(unix.RTM_DELLINK, 0)
	m := nl.NewIfInfomsg(unix.AF_UNSPEC)
	m.Index = far
	del.AddData(m)
	if err := near.send(del); err != nil {
		t.Fatal(err)
	}
	return took
}

func index(t testing.TB, ns, name string) int {
	t.Helper()
	var i int
	netnstest.In(t, ns, func() error {
		l, err := netlink.LinkByName(name)
		if err == nil {
			i = l.Attrs().Index
		}
		return err
	})
	return i
}
