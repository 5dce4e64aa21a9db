package kernel

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Change is something that happened in the host's namespace, or in one that this Kernel works in, to what may be weft's own: what is there of its key
// now. Tables and guests are told where others changed them; for all else, whoever keeps account of what he has put and taken away can tell.
type Change struct {
	Key
	Now   Spec // nil: it is gone, or nobody knows
	Doubt bool // events were lost: anything may have changed
}

// Breaks tells whether an object that should be there is no longer so. The change is one of its key, or of a pair's far end.
func (c Change) Breaks(o Object) bool {
	if v, ok := o.Spec.(Veth); ok && o.Key != c.Key {
		l, is := c.Now.(seenLink)
		return !is || !l.isFarEnd(v)
	}
	return c.Now == nil || !c.Now.Equal(o.Spec)
}

// Times and limits of Watch.
const (
	watchGather = 100 * time.Millisecond // a change is seldom alone: Docker's start, `nft flush ruleset` and a reload are hundreds of events
	watchMax    = 4096                   // keys of changes told one by one; more are a doubt
)

// Watch tells of changes until ctx ends, some at a time and never one of weft's own tables that this Kernel made itself. It fails if it cannot
// begin. One socket hears of all namespaces, and holds none of them: those that this Kernel has worked in are known by their numbers.
func (k *Kernel) Watch(ctx context.Context, changes chan<- []Change) error {
	events := make(chan Change, 64)
	routes, err := k.listen(unix.NETLINK_ROUTE, unix.RTNLGRP_NSID, unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE)
	if err != nil {
		return fmt.Errorf("watch links: %w", err)
	}
	filters, err := k.listen(unix.NETLINK_NETFILTER, unix.NFNLGRP_NFTABLES)
	if err != nil {
		return errors.Join(fmt.Errorf("watch nftables: %w", err), routes.Close())
	}
	mounts, err := watchMounts()
	if err != nil {
		return errors.Join(err, routes.Close(), filters.Close())
	}
	if err := k.settings.begin(); err != nil {
		return errors.Join(fmt.Errorf("watch settings: %w", err), routes.Close(), filters.Close(), mounts.Close())
	}
	tell := func(c Change) bool {
		select {
		case events <- c:
			return true
		case <-ctx.Done():
			return false
		}
	}
	h := &hearing{k: k, tell: tell, links: map[int32]map[int32]linkInfo{}}
	var readers sync.WaitGroup
	readers.Go(func() { hear(ctx, routes, h.event, h.doubt) })
	readers.Go(func() {
		hear(ctx, filters, func(m heard) { k.filterEvent(m, tell) }, func() { tell(Change{Doubt: true}) })
	})
	readers.Go(func() { k.settings.hear(k.setting, tell) })
	readers.Go(func() { k.watchLater(ctx, tell) })
	readers.Go(func() { mounts.hear(func() { k.lostNamespaces(tell) }) })
	gather(ctx, events, changes)
	err = errors.Join(routes.Close(), filters.Close(), k.settings.stop(), mounts.Close())
	readers.Wait()
	return err
}

// listen opens a socket of the host's namespace that is told of some groups' events, of all namespaces that have a number in the host's.
func (k *Kernel) listen(protocol int, groups ...int) (*os.File, error) {
	ns, err := os.Open(k.path(HostNS))
	if err != nil {
		return nil, err
	}
	defer func() { _ = ns.Close() }()
	fd := -1
	err = inside(ns, func() (err error) {
		fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
		return err
	})
	if err != nil {
		return nil, err
	}
	err = errors.Join(
		unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, socketBuffer),
		unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_LISTEN_ALL_NSID, 1),
	)
	if protocol == unix.NETLINK_ROUTE {
		err = errors.Join(err, unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, routeFilter()))
	}
	for _, g := range groups {
		err = errors.Join(err, unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, g))
	}
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), "netlink"), nil
}

// heard is one message, and the number of the namespace that it is about.
type heard struct {
	unix.NlMsghdr
	body []byte
	nsid int32
}

// hear reads events until ctx ends and the socket is closed. What cannot be read is a doubt.
func hear(ctx context.Context, f *os.File, event func(heard), doubt func()) {
	buf, control := make([]byte, 64<<10), make([]byte, 64)
	for ctx.Err() == nil {
		n, nsid, err := receiveFrom(f, buf, control)
		if err != nil {
			doubt()
			continue
		}
		for h, body := range messages(buf[:n]) {
			event(heard{h, body, nsid})
		}
	}
}

func receiveFrom(f *os.File, buf, control []byte) (n int, nsid int32, err error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return 0, 0, err
	}
	var rest int
	rerr := raw.Read(func(fd uintptr) bool {
		n, rest, _, _, err = unix.Recvmsg(int(fd), buf, control, 0)
		return !errors.Is(err, unix.EAGAIN)
	})
	return max(n, 0), nsidOf(control[:max(rest, 0)]), errors.Join(rerr, err)
}

// gather hands changes on, those together that come together, until ctx ends. Of one key the last counts, up to the moment that it is handed on.
func gather(ctx context.Context, events <-chan Change, changes chan<- []Change) {
	pending := map[Key]Change{}
	var due <-chan time.Time
	var out chan<- []Change
	var batch []Change
	for {
		select {
		case <-ctx.Done():
			return
		case c := <-events:
			if pending[c.Key] = c; len(pending) > watchMax {
				pending = map[Key]Change{{}: {Doubt: true}}
			}
			if due == nil && out == nil {
				due = time.After(watchGather)
			}
			batch = nil
		case <-due:
			due, out, batch = nil, changes, nil
		case out <- batch:
			out = nil
			clear(pending)
		}
		if out != nil && batch == nil {
			batch = slices.Collect(maps.Values(pending))
		}
	}
}

// filterEvent tells of what others did to weft's tables, and to the places where weft is a guest.
func (k *Kernel) filterEvent(m heard, tell func(Change) bool) {
	ns, ours := k.spaces.path(m.nsid)
	if !ours || m.Type>>8 != unix.NFNL_SUBSYS_NFTABLES || k.mine.has(m.Pid) || len(m.body) < 4 {
		return
	}
	if key, ok := filterKey(int(m.Type&0xff), m.body); ok && (ns == HostNS || key.Kind == KindTable) {
		key.NS = ns
		tell(Change{Key: key})
	}
}

// filterKey tells what of weft's an event of nftables is about, if anything.
func filterKey(typ int, body []byte) (key Key, ok bool) {
	if typ == unix.NFT_MSG_NEWGEN {
		return key, false
	}
	family := ""
	for name, f := range families {
		if uint8(f) == body[0] {
			family = name
		}
	}
	table := family + " " + attr(body, unix.NFTA_TABLE_NAME) // the first attribute of every message
	if _, name := cutTable(table); isOwnTable(name) {
		return Key{Kind: KindTable, Link: table}, true
	}
	chain := ""
	switch typ {
	case unix.NFT_MSG_NEWCHAIN, unix.NFT_MSG_DELCHAIN:
		chain = attr(body, unix.NFTA_CHAIN_NAME)
	case unix.NFT_MSG_NEWRULE, unix.NFT_MSG_DELRULE:
		chain = attr(body, unix.NFTA_RULE_CHAIN)
	case unix.NFT_MSG_NEWTABLE, unix.NFT_MSG_DELTABLE:
		return Key{Kind: KindGuest, Link: table}, isFirewallTable(table)
	}
	key = Key{Kind: KindGuest, Link: table + " " + chain}
	return key, guestChains[key.Link]
}

// portIDs are those of this Kernel's sockets, by which its own changes are known among what is heard. A few hundred are remembered: those that
// come after may be told once too often.
type portIDs struct {
	mu   sync.Mutex // guards what follows
	ring [256]uint32
	next int
}

func (p *portIDs) add(id uint32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if slices.Contains(p.ring[:], id) { // the first socket of each namespace has this process's
		return
	}
	p.ring[p.next%len(p.ring)] = id
	p.next++
}

func (p *portIDs) has(id uint32) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, mine := range p.ring {
		if mine != 0 && mine == id {
			return true
		}
	}
	return false
}

// addSocket remembers a socket's.
func (p *portIDs) addSocket(fd int) error {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return fmt.Errorf("learn a netlink socket's address: %w", err)
	}
	if nl, ok := sa.(*unix.SockaddrNetlink); ok {
		p.add(nl.Pid)
	}
	return nil
}
