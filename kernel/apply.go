package kernel

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Apply runs the steps. Addresses, routes and entries of one namespace that stand next to each other go in one batch; so do neighbouring
// deletes of links, which then hold RTNL once; so do elements of nftables' sets.
func (k *Kernel) Apply(ctx context.Context, ops []Op) []error {
	errs := make([]error, len(ops))
	for from := 0; from < len(ops); {
		to := from + 1
		for to < len(ops) && together(ops[from], ops[to]) {
			to++
		}
		if err := ctx.Err(); err != nil {
			errs[from] = err
			from++
			continue
		}
		copy(errs[from:to], k.group(ops[from:to]))
		from = to
	}
	return errs
}

func batched(kind Kind) bool { return kind >= KindAddr && kind <= KindFDB }

// together tells whether two neighbours are one group.
func together(a, b Op) bool {
	if a.Obj.NS != b.Obj.NS {
		return false
	}
	switch {
	case batched(a.Obj.Kind):
		return batched(b.Obj.Kind)
	case a.Obj.Kind == KindElement:
		return b.Obj.Kind == KindElement && a.Verb == b.Verb && a.Obj.Link == b.Obj.Link
	case a.Obj.Kind == KindVeth && a.Verb == Del:
		return b.Obj.Kind == KindVeth && b.Verb == Del
	}
	return false
}

func (k *Kernel) group(ops []Op) []error {
	o := ops[0]
	all := func(err error) []error {
		errs := make([]error, len(ops))
		for i := range errs {
			errs[i] = err
		}
		return errs
	}
	if o.Obj.Kind == KindNetns {
		return all(k.netns(o))
	}
	if o.Obj.Kind == KindVXLAN && o.Verb == Put {
		return all(k.putVXLAN(o.Obj.Key, o.Obj.Spec.(VXLAN)))
	}
	if o.Obj.Kind == KindVeth && o.Verb == Put {
		return all(k.putVeth(o.Obj.Key, o.Obj.Spec.(Veth)))
	}
	var errs []error
	err := k.with(o.Obj.NS, func(c *conn) error {
		switch {
		case batched(o.Obj.Kind):
			errs = entries(c, ops)
		case o.Obj.Kind == KindSysctl && o.Verb == Put:
			errs = all(writeSysctl(c, o.Obj.Link, o.Obj.Spec.(Sysctl).Value))
		case o.Obj.Kind == KindSysctl:
			errs = all(nil)
		case o.Obj.Kind == KindBridge && o.Verb == Put:
			errs = all(putBridge(c, o.Obj.Link, o.Obj.Spec.(Bridge)))
		case o.Obj.Kind == KindTable:
			errs = all(applyTable(c, o))
		case o.Obj.Kind == KindElement:
			errs = applyElements(c, ops)
		default:
			errs = deleteLinks(c, ops)
		}
		return nil
	})
	if err != nil {
		if o.Verb == Del && errors.Is(err, syscall.ENOENT) {
			err = nil // its namespace is gone, and it with that
		}
		return all(err)
	}
	if o.Obj.Kind == KindVeth { // the sandbox may be on its way out: our socket must not keep it
		for _, o := range ops {
			if p := o.Obj.Spec.(Veth).Peer.NS; p != HostNS && !k.own(p) {
				k.forget(p)
			}
		}
	}
	return errs
}

func (k *Kernel) netns(o Op) error {
	if o.Verb == Put {
		return MakeNetns(o.Obj.NS)
	}
	k.forget(o.Obj.NS)
	return RemoveNetns(o.Obj.NS)
}

// gone tells errors of deletes that find nothing.
func gone(err error) bool {
	return errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.ENXIO)
}

// entries puts and deletes addresses, routes, neighbours and forwarding entries.
func entries(c *conn, ops []Op) []error {
	errs := make([]error, len(ops))
	var reqs []*nl.NetlinkRequest
	var at []int
	for i, o := range ops {
		q, err := entryMsg(c, o)
		if err != nil {
			if o.Verb == Put || !gone(err) {
				errs[i] = err
			}
			continue
		}
		reqs, at = append(reqs, q), append(at, i)
	}
	for j, err := range c.batch(reqs, nil) {
		o := ops[at[j]]
		switch {
		case err == nil, o.Verb == Del && gone(err):
		default:
			if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EINVAL) {
				delete(c.index, o.Obj.Link) // the link may have been made anew
			}
			errs[at[j]] = err
		}
	}
	return errs
}

func entryMsg(c *conn, o Op) (*nl.NetlinkRequest, error) {
	index, err := c.link(o.Obj.Link)
	if err != nil {
		return nil, err
	}
	switch s := o.Obj.Spec.(type) {
	case Addr:
		return addrMsg(o.Verb, index, o.Obj.Key)
	case Route:
		return routeMsg(o.Verb, index, o.Obj.Key, s)
	case Neigh:
		return neighMsg(o.Verb, index, o.Obj.Key, s)
	case FDB:
		return fdbMsg(o.Verb, index, o.Obj.Key, s)
	}
	return nil, fmt.Errorf("no entry: %T", o.Obj.Spec)
}

func putBridge(c *conn, name string, s Bridge) error {
	q, err := bridgeMsg(name, s)
	if err != nil {
		return err
	}
	delete(c.index, name)
	if err := c.one(q); err == nil || !errors.Is(err, unix.EEXIST) {
		return err
	}
	return settle(c, name, s.MAC, s.MTU, Port{}, "")
}

// putVXLAN makes the device, or makes it anew where it differs in what cannot be changed.
func (k *Kernel) putVXLAN(key Key, s VXLAN) error {
	fd, err := k.fd(key.NS)
	if err != nil {
		return err
	}
	q, err := vxlanMsg(key.Link, s, fd)
	if err != nil {
		return err
	}
	create := func() error { return k.with(HostNS, func(c *conn) error { return c.one(q) }) }
	err = create()
	if errors.Is(err, unix.EEXIST) {
		// Either it is there, in its namespace, or another device of the host holds its VNI.
		there := false
		err = k.with(key.NS, func(c *conn) error {
			delete(c.index, key.Link)
			links, err := readLinks(context.Background(), c)
			if err != nil {
				return err
			}
			l, ok := links.byName[key.Link]
			if there = ok; !ok {
				return nil
			}
			if l.vxlan.VNI == s.VNI && l.vxlan.Local == s.Local && l.vxlan.Port == s.Port {
				return nil
			}
			there = false
			return deleteLink(c, key.Link)
		})
		if err == nil && !there {
			if err = create(); errors.Is(err, unix.EEXIST) {
				err = fmt.Errorf("VNI %d on UDP port %d is used by another VXLAN device of this host: %w", s.VNI, s.Port, err)
			}
		}
	}
	if err != nil {
		return err
	}
	return k.with(key.NS, func(c *conn) error {
		delete(c.index, key.Link)
		return settle(c, key.Link, s.MAC, s.MTU, s.At, "")
	})
}

// settle gives a link that is there what can be changed in place, and is not so yet.
func settle(c *conn, name, mac string, mtu int, at Port, alias string) error {
	links, err := readLinks(context.Background(), c)
	if err != nil {
		return err
	}
	now, ok := links.byName[name]
	if !ok {
		return fmt.Errorf("interface %s: %w", name, unix.ENODEV)
	}
	var master int32
	if at.Master != "" {
		if master, err = c.link(at.Master); err != nil {
			return err
		}
	}
	q, err := changeMsg(now, mac, mtu, master, alias)
	if err != nil {
		return err
	}
	reqs := []*nl.NetlinkRequest{q}
	if at.Master != "" {
		reqs = append(reqs, portMsg(now.index, at))
	}
	return errors.Join(c.batch(reqs, nil)...)
}

// putVeth makes a pair in one message, or brings the one that is there in line. One whose far end should be elsewhere is made anew.
func (k *Kernel) putVeth(key Key, s Veth) error {
	peerFD, err := k.fd(s.Peer.NS)
	if err != nil {
		return err
	}
	var peerIndex int32
	err = k.with(key.NS, func(c *conn) error {
		peerIndex, err = putVethHere(c, key, s, peerFD)
		return err
	})
	if err != nil {
		if errors.Is(err, unix.EXFULL) || errors.Is(err, unix.E2BIG) {
			return fmt.Errorf("a bridge takes about 1,000 ports, and this network's on this host is full: %w", err)
		}
		return err
	}
	return k.with(s.Peer.NS, func(c *conn) error {
		delete(c.index, s.Peer.Name)
		if peerIndex == 0 { // it was there before
			return settle(c, s.Peer.Name, s.Peer.MAC, s.MTU, Port{}, "")
		}
		c.index[s.Peer.Name] = peerIndex
		return c.one(upMsg(peerIndex))
	})
}

func putVethHere(c *conn, key Key, s Veth, peerFD uintptr) (peerIndex int32, err error) {
	var master int32
	if s.At.Master != "" {
		if master, err = c.link(s.At.Master); err != nil {
			return 0, err
		}
	}
	q, err := vethMsg(key.Link, s, master, peerFD)
	if err != nil {
		return 0, err
	}
	delete(c.index, key.Link)
	alias := vethAlias(s.Peer)
	create := func() error {
		return c.batch([]*nl.NetlinkRequest{q}, func(typ uint16, body []byte) {
			if typ != unix.RTM_NEWLINK || len(body) < unix.SizeofIfInfomsg {
				return
			}
			c.index[key.Link] = int32(binary.NativeEndian.Uint32(body[4:]))
			if as, err := nl.ParseRouteAttr(body[unix.SizeofIfInfomsg:]); err == nil {
				for _, a := range as {
					if a.Attr.Type == unix.IFLA_LINK && len(a.Value) == 4 {
						peerIndex = int32(binary.NativeEndian.Uint32(a.Value))
					}
				}
			}
		})[0]
	}
	err = create()
	if errors.Is(err, unix.EEXIST) {
		links, rerr := readLinks(context.Background(), c)
		if rerr != nil {
			return 0, rerr
		}
		if l, ok := links.byName[key.Link]; ok && l.alias == alias {
			return 0, settle(c, key.Link, s.MAC, s.MTU, s.At, alias)
		} else if ok {
			if err := deleteLink(c, key.Link); err != nil {
				return 0, err
			}
		}
		if err = create(); errors.Is(err, unix.EEXIST) {
			err = fmt.Errorf("interface %s is there already in %s: %w", s.Peer.Name, s.Peer.NS, err)
		}
	}
	if err != nil {
		return 0, err
	}
	index, err := c.link(key.Link)
	if err != nil {
		return 0, err
	}
	reqs := []*nl.NetlinkRequest{aliasMsg(index, alias)}
	if master > 0 {
		reqs = append(reqs, portMsg(index, s.At))
	}
	return peerIndex, errors.Join(c.batch(reqs, nil)...)
}

// vethAlias keeps at the near end where the far end is: what Read gives back without a look into the sandbox.
func vethAlias(p Peer) string { return fmt.Sprintf("weft %s %s %s", p.Name, p.MAC, p.NS) }

func deleteLink(c *conn, name string) error {
	index, err := c.link(name)
	delete(c.index, name)
	if err == nil {
		q := nl.NewNetlinkRequest(unix.RTM_DELLINK, 0)
		m := nl.NewIfInfomsg(unix.AF_UNSPEC)
		m.Index = index
		q.AddData(m)
		err = c.one(q)
	}
	if err != nil && gone(err) {
		return nil
	}
	return err
}

// leaving is the group (IFLA_GROUP) that links are put into to be deleted together.
const leaving = 0x77656674 // "weft"

// deleteLinks deletes one link, or many in one message: RTM_DELLINK by group holds RTNL once.
func deleteLinks(c *conn, ops []Op) []error {
	errs := make([]error, len(ops))
	if len(ops) == 1 {
		errs[0] = deleteLink(c, ops[0].Obj.Link)
		return errs
	}
	var reqs []*nl.NetlinkRequest
	var at []int
	for i, o := range ops {
		delete(c.index, o.Obj.Link) // names may have been given anew
		index, err := c.link(o.Obj.Link)
		if err != nil {
			if !gone(err) {
				errs[i] = err
			}
			continue
		}
		delete(c.index, o.Obj.Link)
		q := nl.NewNetlinkRequest(unix.RTM_NEWLINK, 0)
		m := nl.NewIfInfomsg(unix.AF_UNSPEC)
		m.Index = index
		q.AddData(m)
		q.AddData(nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(leaving)))
		reqs, at = append(reqs, q), append(at, i)
	}
	if len(reqs) == 0 {
		return errs
	}
	marked := 0
	for j, err := range c.batch(reqs, nil) {
		if err == nil {
			marked++
		} else if !gone(err) {
			errs[at[j]] = err
		}
	}
	if marked == 0 {
		return errs
	}
	q := nl.NewNetlinkRequest(unix.RTM_DELLINK, 0)
	q.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	q.AddData(nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(leaving)))
	if err := c.one(q); err != nil && !gone(err) {
		for _, i := range at {
			errs[i] = errors.Join(errs[i], err)
		}
	}
	return errs
}
