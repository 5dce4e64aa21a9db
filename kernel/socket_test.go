package kernel

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// datagram is what the kernel could send: messages of a type, flags, a sequence number and a body.
func datagram(msgs ...[]byte) []byte {
	var out []byte
	for _, m := range msgs {
		out = append(out, m...)
	}
	return out
}

func code(n int32) []byte { return binary.NativeEndian.AppendUint32(nil, uint32(n)) }

// A dump is whole or an error.
func TestDumped(t *testing.T) {
	const seq = 7
	link := func(flags int) []byte { return header(unix.RTM_NEWLINK, flags, seq, []byte("body")) }
	done := header(unix.NLMSG_DONE, unix.NLM_F_MULTI, seq, code(0))
	for _, c := range []struct {
		name      string
		datagrams [][]byte
		bodies    int
		done      bool
		err       error
	}{
		{"whole", [][]byte{datagram(link(0), link(0)), datagram(link(0), done)}, 3, true, nil},
		{"empty", [][]byte{done}, 0, true, nil},
		{"not at its end", [][]byte{link(0)}, 1, false, nil},
		{"interrupted", [][]byte{datagram(link(0), link(unix.NLM_F_DUMP_INTR)), done}, 2, true, errInterrupted},
		{"interrupted at its very end", [][]byte{link(0), header(unix.NLMSG_DONE, unix.NLM_F_DUMP_INTR, seq, code(0))}, 1, true, errInterrupted},
		{"broken off", [][]byte{link(0), header(unix.NLMSG_DONE, 0, seq, code(-int32(unix.ENOMEM)))}, 1, true, unix.ENOMEM},
		{"refused", [][]byte{header(unix.NLMSG_ERROR, 0, seq, code(-int32(unix.EPERM)))}, 0, true, unix.EPERM},
		{"an earlier one's rest", [][]byte{header(unix.NLMSG_DONE, 0, seq-1, code(0)), datagram(link(0), done)}, 1, true, nil},
		{"cut short", [][]byte{link(0)[:10]}, 0, false, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			var d dumped
			for _, b := range c.datagrams {
				d.take(seq, b)
			}
			if len(d.bodies) != c.bodies || d.done != c.done || !errors.Is(d.err, c.err) {
				t.Errorf("got %d, done %t, %v", len(d.bodies), d.done, d.err)
			}
		})
	}
}

// testConn is a connection in a namespace of its own, with a bridge.
func testConn(t *testing.T) *conn {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ns")
	if err := MakeNetns(path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := RemoveNetns(path); err != nil {
			t.Error(err)
		}
	})
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	c, err := newConn(f, new(portIDs), new(settings))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.close)
	if err := putBridge(t.Context(), c, "br0", Bridge{MAC: "06:00:00:00:00:01", MTU: 1500}); err != nil {
		t.Fatal(err)
	}
	return c
}

func addrOp(verb Verb, i int) Op {
	a := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
	return Op{verb, Object{Key: Key{Kind: KindAddr, Link: "br0", Dst: a.String() + "/32"}, Spec: Addr{}}}
}

// An overflow is an error of all that it leaves in doubt, and the next request is not answered with what was left of the last.
func TestAnOverflowIsNotTakenForSuccess(t *testing.T) {
	c := testConn(t)
	if err := unix.SetsockoptInt(c.route.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 1); err != nil {
		t.Fatal(err)
	}
	var bad []*nl.NetlinkRequest
	for range batchMax {
		q := nl.NewNetlinkRequest(unix.RTM_NEWADDR, exclusive) // of no link
		q.AddData(nl.NewIfAddrmsg(unix.AF_INET))
		q.AddData(nl.NewRtAttr(unix.IFA_LABEL, make([]byte, 200)))
		bad = append(bad, q)
	}
	for i, err := range c.batch(bad, nil) {
		if err == nil {
			t.Fatalf("message %d went well", i)
		}
	}
	if err := entries(t.Context(), c, []Op{addrOp(Put, 1)})[0]; err != nil {
		t.Error(err)
	}
	links, err := readLinks(t.Context(), c)
	if err != nil || len(links.byName) < 2 {
		t.Errorf("read %d links, %v", len(links.byName), err)
	}
}

// While addresses come and go, a dump has all of those that stay, or is an error.
func TestADumpWhileThingsChange(t *testing.T) {
	c := testConn(t)
	const stay = 600
	var ops []Op
	for i := range stay {
		ops = append(ops, addrOp(Put, i))
	}
	if err := errors.Join(entries(t.Context(), c, ops)...); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(c.ns.Name())
	if err != nil {
		t.Fatal(err)
	}
	other, err := newConn(f, new(portIDs), new(settings))
	if err != nil {
		t.Fatal(err)
	}
	defer other.close()
	stop, ended := make(chan struct{}), make(chan error)
	go func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				ended <- nil
				return
			default:
			}
			j := stay + i%50
			if err := errors.Join(entries(t.Context(), other, []Op{addrOp(Put, j), addrOp(Del, j)})...); err != nil {
				ended <- err
				return
			}
		}
	}()
	whole := 0
	for range 100 {
		out := State{}
		links, err := readLinks(t.Context(), c)
		if err == nil {
			err = readAddrs(t.Context(), c, scope{own: true, links: links}, out)
		}
		if errors.Is(err, errInterrupted) {
			continue
		}
		if err != nil {
			t.Error(err)
			break
		}
		for _, o := range ops {
			if _, ok := out[o.Obj.Key]; !ok {
				t.Fatalf("%v is missing of %d", o.Obj.Key, len(out))
			}
		}
		whole++
	}
	close(stop)
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if whole == 0 {
		t.Error("no dump was ever whole")
	}
}

// Whatever the kernel sends, nothing panics.
func FuzzParse(f *testing.F) {
	f.Add(datagram(header(unix.RTM_NEWLINK, 0, 1, make([]byte, 40))))
	q := nl.NewNetlinkRequest(unix.RTM_NEWLINK, 0)
	q.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	q.AddData(portInfoAttr(Port{NoFlood: true}))
	f.Add(q.Serialize())
	for _, m := range transaction(setPlace{1, "weft", "s"}.messages(Put, []element{{key: []byte{1, 2, 3, 4}, data: []byte{5, 6, 7, 8}, end: true}})) {
		f.Add(m.encode(1, true))
	}
	f.Fuzz(func(_ *testing.T, b []byte) {
		var d dumped
		d.take(1, b)
		for _, m := range append(d.bodies, b) {
			_, _ = parseLink(m)
			_, _ = parseAddr(m)
			_, _ = parseRoute(m)
			_, _ = parseNeigh(m)
			es := parseElements(m)
			_ = typeOf(m)
			_, _ = parseGuest(m)
			_ = dropsForward(m)
			_ = legacyPolicy(m, 3)
			k := &Kernel{closed: true}
			tell := func(Change) bool { return true }
			h := hearing{k: k, tell: tell, links: map[int32]map[int32]linkInfo{hostNumber: {1: {index: 1, kind: "vxlan"}}}}
			for typ := unix.RTM_NEWLINK; typ <= unix.RTM_DELNSID; typ++ {
				h.event(heard{unix.NlMsghdr{Type: uint16(typ)}, m, hostNumber})
			}
			for typ := range uint16(32) {
				k.filterEvent(heard{unix.NlMsghdr{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | typ}, m, hostNumber}, tell)
			}
			for _, typ := range setTypes {
				_ = textOf(typ, es)
			}
		}
	})
}

func TestElementsGoThroughTheirMessages(t *testing.T) {
	for typ, texts := range map[SetType][]string{
		SetAddr:         {"192.0.2.1", "0.0.0.0", "255.255.255.255"},
		SetAddr6:        {"2001:db8::1", "::", "ffff::ffff"},
		SetPrefix:       {"10.0.0.0/24", "10.0.1.0/24", "10.64.0.0/10", "192.0.2.1/32", "240.0.0.0/4", "128.0.0.0/3"},
		SetPrefix6:      {"fd00::/8", "2001:db8::/64", "2001:db8:0:1::/64", "2001:db8:1::/128", "ff00::/8"},
		SetLink:         {"weft0", "br-0123456789ab"},
		SetLinks:        {"weft0 weft0", "br-0123456789ab eth0"},
		SetLinkAddr:     {"weft0 172.17.0.1"},
		SetLinkAddr6:    {"weft0 fd00::1"},
		SetPort:         {"ep1 02:42:0a:00:00:02 10.0.0.2", "ep0123456789abc 02:42:0a:00:00:03 10.0.0.3"},
		SetPort6:        {"ep1 02:42:0a:00:00:02 fd00::2"},
		SetTalk:         {"10.0.0.2 10.0.0.3 tcp 80", "10.0.0.2 10.0.0.3 udp 65535"},
		SetTalk6:        {"fd00::2 fd00::3 tcp 80"},
		MapService:      {"tcp 8080 : 10.0.0.2 80", "udp 53 : 10.0.0.3 5353"},
		MapService6:     {"tcp 8080 : fd00::2 80"},
		MapDestService:  {"192.0.2.1 tcp 8080 : 10.0.0.2 80"},
		MapDestService6: {"2001:db8::1 tcp 8080 : fd00::2 80"},
		MapMember:       {"0 : 10.0.0.2", "1 : 10.0.0.3"},
		MapMember6:      {"0 : fd00::2"},
	} {
		var es []element
		for _, text := range texts {
			dst, value, _ := strings.Cut(text, " : ")
			e, err := elementsOf(typ, dst, value)
			if err != nil {
				t.Fatalf("%s: %v", typ, err)
			}
			es = append(es, e...)
		}
		m := setPlace{1, "weft", "s"}.messages(Put, es)[0].(nfMsg)
		var got []string
		for _, h := range textOf(typ, parseElements(m.body)) {
			if h.value != "" {
				h.dst += " : " + h.value
			}
			got = append(got, h.dst)
		}
		if !slices.Equal(got, texts) {
			t.Errorf("%s: got %v", typ, got)
		}
	}
}

func TestElementsThatAreNoneAreRefused(t *testing.T) {
	for text, typ := range map[string]SetType{
		"": SetAddr, "10.0.0.1 10.0.0.2": SetAddr, "::ffff:10.0.0.1": SetAddr6, "fe80::1%eth0": SetAddr6, "fd00::1": SetAddr, "10.0.0.1": SetAddr6,
		"10.0.0.1/24": SetPrefix, "0.0.0.0/0": SetPrefix, "fd00::/64": SetPrefix, "10.0.0.0/8": SetPrefix6,
		"tcp 65536": MapService, "quic 443": MapService, "tcp -1": MapService, "ep 02:42:0a:00:00 10.0.0.2": SetPort, "a234567890123456": SetLink,
	} {
		if e, err := elementsOf(typ, text, "10.0.0.2 80"); err == nil {
			t.Errorf("%q of type %s is taken for %v", text, typ, e)
		}
	}
	if _, err := elementsOf(MapService, "tcp 80", ""); err == nil {
		t.Error("a map's key without a value is taken")
	}
	if _, err := elementsOf("ip unicorn", "10.0.0.1 x", ""); err == nil {
		t.Error("an unknown type is taken")
	}
}
