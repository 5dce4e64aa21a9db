package agent

import (
	"fmt"
	"net/netip"

	"weft/agent/api"
	"weft/store/record"
)

// The choice of host ports, from what was asked for: pure. That a port is really free only the kernel can tell, which is asked when the
// supervisor binds it; what it refuses is left out of the next choice.

// portWish is one port of a sandbox, and where on the host it may be.
type portWish struct {
	proto       string
	addrs       []netip.Addr // at each of them, all at the same port
	first, last uint16       // 0: any that is free
	port        uint16       // in the sandbox
}

// exact tells whether there is nothing to choose.
func (w portWish) exact() bool { return w.first != 0 && w.first == w.last }

// portWishes are what a sandbox's specs come to. all are the addresses of a port that asks for none.
func portWishes(s *record.Sandbox, all []netip.Addr) []portWish {
	var out []portWish
	type inner struct {
		proto string
		port  uint16
	}
	published := map[inner]bool{}
	for _, p := range s.Ports {
		addrs := all
		if p.HostAddr.IsValid() {
			addrs = []netip.Addr{p.HostAddr}
		}
		for i := 0; i <= int(p.Last-p.First); i++ {
			w := portWish{proto: p.Proto, addrs: addrs, first: p.HostFirst, last: p.HostLast, port: p.First + uint16(i)}
			if p.First != p.Last && p.HostFirst != 0 { // range to range
				w.first += uint16(i)
				w.last = w.first
			}
			published[inner{w.proto, w.port}] = true
			out = append(out, w)
		}
	}
	if !s.PublishAll {
		return out
	}
	for _, p := range s.Expose {
		for i := 0; i <= int(p.Last-p.First); i++ {
			if at := (inner{p.Proto, p.First + uint16(i)}); !published[at] {
				published[at] = true
				out = append(out, portWish{proto: at.proto, addrs: all, port: at.port})
			}
		}
	}
	return out
}

// hostPort is a port that somebody has, or cannot have.
type hostPort struct {
	proto string
	addr  netip.Addr
	port  uint16
}

// portRange are the ports that are given out where none is asked for, and the first to try.
type portRange struct{ first, last, next uint16 }

// choice finds ports for wishes.
type choice struct {
	had     []record.PortBinding                                  // what the sandbox has: it keeps what still fits
	free    portRange                                             //
	taken   func(proto string, addr netip.Addr, port uint16) bool // by other sandboxes of this host
	refused map[hostPort]bool                                     // by the kernel
}

// choose returns bindings for all wishes, in their order, and of which wish each is; or the first wish that cannot be met, and why.
func (c choice) choose(wishes []portWish) (bs []record.PortBinding, of []int, err error) {
	own := map[hostPort]bool{}
	for i, w := range wishes {
		port, ok := c.pick(w, own)
		if !ok {
			return nil, nil, noPort(w)
		}
		for _, a := range w.addrs {
			own[hostPort{w.proto, a, port}] = true
			bs = append(bs, record.PortBinding{Proto: w.proto, HostAddr: a, HostPort: port, Port: w.port})
			of = append(of, i)
		}
	}
	return bs, of, nil
}

func noPort(w portWish) error {
	a := netip.IPv4Unspecified()
	if len(w.addrs) > 0 {
		a = w.addrs[0]
	}
	switch {
	case w.exact():
		return api.Refuse(api.InUse, "Bind for %s failed: port is already allocated: it is given twice", netip.AddrPortFrom(a, w.first))
	case w.first != 0:
		return api.Refuse(api.InUse, "Bind for %s:%d-%d failed: port is already allocated: all ports of the range are taken", a, w.first, w.last)
	}
	return api.Refuse(api.InUse, "all ports are allocated: no port of this host's range (net.ipv4.ip_local_port_range) is free for %d/%s", w.port, w.proto)
}

// pick returns a port that is free at all addresses of a wish, as far as is known.
func (c choice) pick(w portWish, own map[hostPort]bool) (uint16, bool) {
	fits := func(port uint16) bool {
		for _, a := range w.addrs {
			if clash(own, w.proto, a, port) || !w.exact() && (c.refused[hostPort{w.proto, a, port}] || c.taken(w.proto, a, port)) {
				return false
			}
		}
		return true
	}
	for _, b := range c.had {
		if b.Proto == w.proto && b.Port == w.port && len(w.addrs) > 0 && b.HostAddr == w.addrs[0] && w.allows(b.HostPort) && fits(b.HostPort) {
			return b.HostPort, true
		}
	}
	first, last, next := w.first, w.last, w.first
	if w.first == 0 {
		first, last, next = c.free.first, c.free.last, min(max(c.free.next, c.free.first), c.free.last)
	}
	for i := range int(last-first) + 1 {
		port := first + uint16((int(next-first)+i)%(int(last-first)+1))
		if fits(port) {
			return port, true
		}
	}
	return 0, false
}

func (w portWish) allows(port uint16) bool {
	return w.first == 0 || w.first <= port && port <= w.last
}

// clash tells whether a port is among those of a set: all addresses of a family stand in the way of each of it.
func clash(set map[hostPort]bool, proto string, addr netip.Addr, port uint16) bool {
	if set[hostPort{proto, addr, port}] {
		return true
	}
	if !addr.IsUnspecified() {
		return set[hostPort{proto, unspecified(addr), port}]
	}
	for k := range set {
		if k.proto == proto && k.port == port && k.addr.Is4() == addr.Is4() {
			return true
		}
	}
	return false
}

func unspecified(a netip.Addr) netip.Addr {
	if a.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// parsePortRange reads net.ipv4.ip_local_port_range: "32768\t60999".
func parsePortRange(text string) (portRange, error) {
	var r portRange
	if _, err := fmt.Sscan(text, &r.first, &r.last); err != nil || r.first == 0 || r.last < r.first {
		return portRange{}, fmt.Errorf("no range of ports: %q", text)
	}
	return r, nil
}
