package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sys/unix"

	"weft/store"
	"weft/store/record"
)

// childLook reads the networks' keys from etcd, and then links, addresses, routes, neighbours and forwarding entries of all namespaces, as the floor of
// an agent's start.
func childLook(ctx context.Context, spec childSpec, out io.Writer) (err error) {
	r, err := newRawEtcd(spec.Endpoint, (&net.Dialer{}).DialContext)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	keys := 0
	for _, partition := range append(spec.partitions(), store.Meta) {
		got, err := r.cli.Get(ctx, "weft/"+url.PathEscape(partition)+"/", clientv3.WithPrefix())
		if err != nil {
			return rawError(err)
		}
		if len(got.Kvs) == 0 {
			return fmt.Errorf("etcd has nothing in %s", partition)
		}
		keys += len(got.Kvs)
	}
	for _, ns := range spec.Spaces {
		if err := in(cmp.Or(ns, "/proc/thread-self/ns/net"), dumpAll); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintln(out, keys)
	return err
}

func (s childSpec) partitions() (out []string) {
	for _, c := range s.Crowds {
		out = append(out, record.NetPartition(record.NetworkID(c.Network)))
	}
	return out
}

// dumpAll reads what the calling thread's namespace has.
func dumpAll() error {
	h, err := netlink.NewHandle()
	if err != nil {
		return err
	}
	defer h.Close()
	_, err1 := h.LinkList()
	_, err2 := h.AddrList(nil, netlink.FAMILY_ALL)
	_, err3 := h.RouteList(nil, netlink.FAMILY_ALL)
	_, err4 := h.NeighList(0, netlink.FAMILY_V4)
	_, err5 := h.NeighList(0, unix.AF_BRIDGE)
	return errors.Join(err1, err2, err3, err4, err5)
}

// askAgain is how long an answer is waited for before the question is asked again.
const askAgain = 20 * time.Millisecond

// asked asks the resolver in a namespace for a name until it is answered with an address.
func asked(ctx context.Context, ns, name string) error {
	question, err := new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.TypeA).Pack()
	if err != nil {
		return err
	}
	var c net.Conn
	if err := in(ns, func() (err error) {
		c, err = net.Dial("udp4", resolverAddr.String())
		return err
	}); err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	buf := make([]byte, 512)
	return until(ctx, func() error {
		if _, err := c.Write(question); err != nil {
			return err
		}
		if err := c.SetReadDeadline(time.Now().Add(askAgain)); err != nil {
			return err
		}
		n, err := c.Read(buf)
		if err != nil {
			return err
		}
		var answer dns.Msg
		if err := answer.Unpack(buf[:n]); err != nil {
			return err
		}
		if len(answer.Answer) == 0 {
			return fmt.Errorf("%s is answered with %s", name, dns.RcodeToString[answer.Rcode])
		}
		return nil
	})
}

// damage takes the neighbour entry of a remote endpoint out of each network, and the default route out of a sandbox of each. mended waits until
// all are back.
func (f *fleet) damage(runDir string) (mended func(context.Context) error, stop func(), err error) {
	done := make(chan struct{})
	stop = func() { close(done) }
	var waits []func(context.Context) error
	for i, c := range f.crowds {
		subnet, err := netip.ParsePrefix(c.Subnet)
		if err != nil {
			return nil, stop, err
		}
		base := subnet.Addr().As4()
		remote := netip.AddrFrom4([4]byte{base[0], base[1], 128, 1})
		space, err := filepath.Glob(filepath.Join(runDir, "netns", "weft-"+c.Network[:8]+"*"))
		if err != nil || len(space) != 1 {
			return nil, stop, fmt.Errorf("find the namespace of network %s: %d, %w", f.names[i], len(space), err)
		}
		var entry, route func(context.Context) error
		err1 := in(space[0], func() (err error) { entry, err = dropNeighbour(remote, done); return err })
		err2 := in(f.boxes[i].netns, func() (err error) { route, err = dropDefault(done); return err })
		if err := errors.Join(err1, err2); err != nil {
			return nil, stop, err
		}
		waits = append(waits, entry, route)
	}
	return func(ctx context.Context) error {
		for _, w := range waits {
			if err := w(ctx); err != nil {
				return err
			}
		}
		return nil
	}, stop, nil
}

func dropNeighbour(a netip.Addr, done chan struct{}) (back func(context.Context) error, err error) {
	told := make(chan netlink.NeighUpdate, 4096)
	if err := netlink.NeighSubscribe(told, done); err != nil {
		return nil, err
	}
	br, err := netlink.LinkByName("br0")
	if err != nil {
		return nil, err
	}
	if err := netlink.NeighDel(&netlink.Neigh{LinkIndex: br.Attrs().Index, IP: a.AsSlice(), Family: unix.AF_INET}); err != nil {
		return nil, fmt.Errorf("take the neighbour %s away: %w", a, err)
	}
	return func(ctx context.Context) error {
		for {
			select {
			case u := <-told:
				if u.Type == unix.RTM_NEWNEIGH && u.IP.Equal(a.AsSlice()) && u.State&unix.NUD_PERMANENT != 0 {
					return nil
				}
			case <-ctx.Done():
				return fmt.Errorf("the neighbour %s does not come back: %w", a, context.Cause(ctx))
			}
		}
	}, nil
}

func dropDefault(done chan struct{}) (back func(context.Context) error, err error) {
	told := make(chan netlink.RouteUpdate, 4096)
	if err := netlink.RouteSubscribe(told, done); err != nil {
		return nil, err
	}
	all, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return nil, err
	}
	isDefault := func(r netlink.Route) bool {
		if r.Dst == nil {
			return true
		}
		ones, _ := r.Dst.Mask.Size()
		return ones == 0
	}
	for _, r := range all {
		if !isDefault(r) {
			continue
		}
		if err := netlink.RouteDel(&r); err != nil {
			return nil, fmt.Errorf("take a default route away: %w", err)
		}
		return func(ctx context.Context) error {
			for {
				select {
				case u := <-told:
					if u.Type == unix.RTM_NEWROUTE && isDefault(u.Route) {
						return nil
					}
				case <-ctx.Done():
					return fmt.Errorf("a default route does not come back: %w", context.Cause(ctx))
				}
			}
		}, nil
	}
	return nil, errors.New("a sandbox has no default route")
}
