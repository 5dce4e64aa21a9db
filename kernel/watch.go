package kernel

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Change is something that happened in the host's namespace to what may be weft's own. A key says what, as far as the kernel tells: a link of any
// kind is KindVeth. Tables and guests changed by others; for links, addresses and routes, whoever keeps account of what he has taken away himself
// can tell.
type Change struct {
	Key
	Doubt bool // events were lost: anything may have changed
}

// Times and limits of Watch.
const (
	watchGather = 100 * time.Millisecond // a change is seldom alone: Docker's start, `nft flush ruleset` and a reload are hundreds of events
	watchMax    = 256                    // changes told one by one; more are a doubt
)

// Watch tells of changes until ctx ends, some at a time and never one of weft's own tables that this Kernel made itself. It fails if it cannot
// begin.
func (k *Kernel) Watch(ctx context.Context, changes chan<- []Change) error {
	events := make(chan event, 64)
	routes, err := k.listen(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE)
	if err != nil {
		return fmt.Errorf("watch the host's links: %w", err)
	}
	filters, err := k.listen(unix.NETLINK_NETFILTER, unix.NFNLGRP_NFTABLES)
	if err != nil {
		return errors.Join(fmt.Errorf("watch nftables: %w", err), routes.Close())
	}
	names := linkNames{}
	err = k.with(HostNS, func(c *conn) error { // after the subscription: none is missed
		links, err := readLinks(ctx, c)
		for i, l := range links.byIndex {
			names[i] = l.name
		}
		return err
	})
	if err != nil {
		return errors.Join(fmt.Errorf("watch the host's links: %w", err), routes.Close(), filters.Close())
	}
	var readers sync.WaitGroup
	readers.Go(func() { hear(ctx, routes, events, names.event) })
	readers.Go(func() { hear(ctx, filters, events, k.filterEvent) })
	gather(ctx, events, changes)
	err = errors.Join(routes.Close(), filters.Close())
	readers.Wait()
	return err
}

// listen opens a socket of the host's namespace that is told of some groups' events.
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
	err = errors.Join(unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}), unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, socketBuffer))
	for _, g := range groups {
		err = errors.Join(err, unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, g))
	}
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), "netlink"), nil
}

// event is one change as it is heard. One that undoes another (a link that is up again) takes it back.
type event struct {
	Change
	undone bool
}

// hear reads events until the socket is closed. What cannot be read is a doubt.
func hear(ctx context.Context, f *os.File, events chan<- event, parse func(unix.NlMsghdr, []byte) (event, bool)) {
	tell := func(e event) bool {
		select {
		case events <- e:
			return true
		case <-ctx.Done():
			return false
		}
	}
	buf := make([]byte, 64<<10)
	for ctx.Err() == nil {
		n, err := receiveFrom(f, buf)
		if errors.Is(err, os.ErrClosed) {
			return
		}
		if err != nil && !tell(event{Change: Change{Doubt: true}}) {
			return
		}
		for h, body := range messages(buf[:n]) {
			if e, ok := parse(h, body); ok && !tell(e) {
				return
			}
		}
	}
}

func receiveFrom(f *os.File, buf []byte) (n int, err error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	rerr := raw.Read(func(fd uintptr) bool {
		n, _, err = unix.Recvfrom(int(fd), buf, 0)
		return !errors.Is(err, unix.EAGAIN)
	})
	return max(n, 0), errors.Join(rerr, err)
}

// gather hands changes on, those together that come together, until ctx ends.
func gather(ctx context.Context, events <-chan event, changes chan<- []Change) {
	pending := map[Change]bool{}
	var due <-chan time.Time
	var out chan<- []Change
	var batch []Change
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-events:
			if e.undone {
				delete(pending, e.Change)
				continue
			}
			if pending[e.Change] = true; len(pending) > watchMax {
				pending = map[Change]bool{{Doubt: true}: true}
			}
			if due == nil && out == nil {
				due = time.After(watchGather)
			}
		case <-due:
			due = nil
			if len(pending) == 0 {
				continue
			}
			batch, out = nil, changes
			for c := range maps.Keys(pending) {
				batch = append(batch, c)
			}
			clear(pending)
		case out <- batch:
			if out = nil; len(pending) > 0 {
				due = time.After(watchGather)
			}
		}
	}
}

// linkNames are the names of the host's links by their indexes: an address's event has an index alone.
type linkNames map[int32]string

// event tells what was taken away, and links that are down.
func (names linkNames) event(h unix.NlMsghdr, body []byte) (e event, ok bool) {
	switch h.Type {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		l, is := parseLink(body)
		if !is {
			return e, false
		}
		e.Key = Key{Kind: KindVeth, Link: l.name}
		if h.Type == unix.RTM_DELLINK { // of family bridge: it is a port no longer
			if body[0] != unix.AF_BRIDGE {
				delete(names, l.index)
			}
			return e, true
		}
		names[l.index] = l.name
		e.Dst, e.undone = "down", l.up
		return e, body[0] != unix.AF_BRIDGE
	case unix.RTM_DELADDR:
		a, is := parseAddr(body)
		e.Key = Key{Kind: KindAddr, Link: names[a.index], Dst: a.prefix.String()}
		return e, is
	case unix.RTM_DELROUTE:
		r, is := parseRoute(body)
		e.Key = Key{Kind: KindRoute, Link: names[r.oif], Dst: r.dst.String()}
		return e, is && r.protocol == Proto
	}
	return e, false
}

// filterEvent tells of what others did to weft's tables, and to the places where weft is a guest.
func (k *Kernel) filterEvent(h unix.NlMsghdr, body []byte) (e event, ok bool) {
	if h.Type>>8 != unix.NFNL_SUBSYS_NFTABLES || k.mine.has(h.Pid) || len(body) < 4 {
		return e, false
	}
	typ := int(h.Type & 0xff)
	if typ == unix.NFT_MSG_NEWGEN {
		return e, false
	}
	family := ""
	for name, f := range families {
		if uint8(f) == body[0] {
			family = name
		}
	}
	table := family + " " + attr(body, unix.NFTA_TABLE_NAME) // the first attribute of every message
	if _, name := cutTable(table); isOwnTable(name) {
		e.Key = Key{Kind: KindTable, Link: table}
		return e, true
	}
	chain := ""
	switch typ {
	case unix.NFT_MSG_NEWCHAIN, unix.NFT_MSG_DELCHAIN:
		chain = attr(body, unix.NFTA_CHAIN_NAME)
	case unix.NFT_MSG_NEWRULE, unix.NFT_MSG_DELRULE:
		chain = attr(body, unix.NFTA_RULE_CHAIN)
	case unix.NFT_MSG_NEWTABLE, unix.NFT_MSG_DELTABLE:
		e.Key = Key{Kind: KindGuest, Link: table}
		return e, isFirewallTable(table)
	}
	e.Key = Key{Kind: KindGuest, Link: table + " " + chain}
	return e, guestChains[e.Link]
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
