package kernel

import (
	"context"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Aliases tell weft's own links in a sandbox from the runtime's, and at a pair's near end where the far end is: what Read gives back.
const farAlias = "weft"

func nearAlias(p Peer) string { return fmt.Sprintf("weft %s %s %s", p.Name, p.MAC, p.NS) }

// fresh is a link as it has just been made: what its message could not say is still to be set.
func fresh(index int32, mac string, mtu int) linkInfo {
	return linkInfo{index: index, mac: mac, mtu: mtu, up: true, port: portInfo{learning: true}}
}

// linkWant is what a link that is there should be.
type linkWant struct {
	mac, alias string
	mtu        int
	at         Port
}

// settle changes what is not so yet of a link that is there, and nothing else: a hardware address that is set again, though it is the
// same, flushes even permanent neighbours.
func settle(c *conn, now linkInfo, w linkWant) error {
	var master int32
	if w.at.Master != "" {
		var err error
		if master, err = c.link(w.at.Master); err != nil {
			return err
		}
	}
	reqs, err := changeMsgs(now, w, master)
	if err != nil || len(reqs) == 0 {
		return err
	}
	return errors.Join(c.batch(reqs, nil)...)
}

// find reads one link.
func find(ctx context.Context, c *conn, name string) (linkInfo, bool, error) {
	links, err := readLinks(ctx, c)
	l, ok := links.byName[name]
	return l, ok, err
}

func putBridge(ctx context.Context, c *conn, name string, s Bridge) error {
	q, err := bridgeMsg(name, s)
	if err != nil {
		return err
	}
	delete(c.index, name)
	if err := c.one(q); !errors.Is(err, unix.EEXIST) {
		return err
	}
	now, ok, err := find(ctx, c, name)
	if err != nil {
		return err
	}
	if ok && now.kind == "bridge" {
		return settle(c, now, linkWant{mac: s.MAC, mtu: s.MTU})
	}
	if err := deleteLink(c, name); err != nil {
		return err
	}
	return c.one(q)
}

// putVXLAN makes the device, or makes it anew where it differs in what cannot be changed.
func (s *session) putVXLAN(ctx context.Context, key Key, v VXLAN) error {
	fd, err := s.fd(key.NS)
	if err != nil {
		return err
	}
	q, err := vxlanMsg(key.Link, v, fd)
	if err != nil {
		return err
	}
	create := func() error { return s.with(HostNS, func(c *conn) error { return c.one(q) }) }
	if err = create(); errors.Is(err, unix.EEXIST) {
		// Either it is there, in its namespace, or another device of the host holds its VNI.
		var there bool
		if there, err = s.keepVXLAN(ctx, key, v); err == nil && !there {
			err = create()
		}
		if errors.Is(err, unix.EEXIST) {
			err = fmt.Errorf("VNI %d on UDP port %d is used by another VXLAN device of this host: %w", v.VNI, v.Port, err)
		}
	}
	if err != nil {
		return err
	}
	return s.with(key.NS, func(c *conn) error {
		delete(c.index, key.Link)
		now, ok, err := find(ctx, c, key.Link)
		if err != nil {
			return err
		}
		if !ok {
			return fmt.Errorf("interface %s: %w", key.Link, unix.ENODEV)
		}
		return settle(c, now, linkWant{mac: v.MAC, mtu: v.MTU, at: v.At})
	})
}

// keepVXLAN tells whether the device is there and can stay; another of its name is deleted.
func (s *session) keepVXLAN(ctx context.Context, key Key, v VXLAN) (keep bool, err error) {
	err = s.with(key.NS, func(c *conn) error {
		l, ok, err := find(ctx, c, key.Link)
		if err != nil || !ok {
			return err
		}
		if keep = l.kind == "vxlan" && l.sameTunnel(v); keep {
			return nil
		}
		return deleteLink(c, key.Link)
	})
	return keep, err
}

// putVeth makes a pair in one message, or brings the one that is there in line. One whose far end should be elsewhere is made anew.
func (s *session) putVeth(ctx context.Context, key Key, v Veth) error {
	fd, err := s.fd(v.Peer.NS)
	if err != nil {
		return err
	}
	for again := true; ; again = false {
		var p pair
		err := s.with(key.NS, func(c *conn) (err error) {
			p, err = putNear(ctx, c, key, v, fd)
			return err
		})
		if errors.Is(err, unix.EXFULL) || errors.Is(err, unix.E2BIG) {
			return fmt.Errorf("a bridge takes about 1,000 ports, and this network's on this host is full: %w", err)
		}
		if err != nil {
			return err
		}
		err = s.with(v.Peer.NS, func(c *conn) error { return putFar(ctx, c, v, p) })
		if !again || p.far > 0 || !errors.Is(err, errNotPair) {
			return err
		}
		// It was moved, or the sandbox was started anew and its old namespace lives on.
		if err := s.with(key.NS, func(c *conn) error { return deleteLink(c, key.Link) }); err != nil {
			return err
		}
	}
}

// pair is what putNear found: the near end's index, and the far end's if the pair is new.
type pair struct{ near, far int32 }

var errNotPair = errors.New("the far end is not there")

func putFar(ctx context.Context, c *conn, v Veth, p pair) error {
	w := linkWant{mac: v.Peer.MAC, mtu: v.MTU, alias: farAlias}
	if p.far > 0 {
		now := fresh(p.far, v.Peer.MAC, v.MTU)
		now.up = false
		c.index[v.Peer.Name] = p.far
		return settle(c, now, w)
	}
	now, ok, err := find(ctx, c, v.Peer.Name)
	if err != nil {
		return err
	}
	if !ok || now.kind != "veth" || now.pair != p.near {
		return fmt.Errorf("interface %s: %w", v.Peer.Name, errNotPair)
	}
	return settle(c, now, w)
}

func putNear(ctx context.Context, c *conn, key Key, v Veth, fd uintptr) (p pair, err error) {
	var master int32
	if v.At.Master != "" {
		if master, err = c.link(v.At.Master); err != nil {
			return p, err
		}
	}
	q, err := vethMsg(key.Link, v, master, fd)
	if err != nil {
		return p, err
	}
	group := uint32(0)
	if key.NS == HostNS {
		group = making
		q.AddData(nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(group)))
	}
	w := linkWant{mac: v.MAC, mtu: v.MTU, at: v.At, alias: nearAlias(v.Peer)}
	delete(c.index, key.Link)
	p, err = create(c, q)
	if errors.Is(err, unix.EEXIST) {
		now, ok, ferr := find(ctx, c, key.Link)
		if ferr != nil {
			return p, ferr
		}
		if ok && key.NS == HostNS && !now.madeHere() {
			return p, notOurs(key.Link)
		}
		if ok && now.kind == "veth" && now.alias == w.alias {
			return pair{near: now.index}, settle(c, now, w)
		}
		if ok {
			if err := deleteLink(c, key.Link); err != nil {
				return p, err
			}
		}
		if p, err = create(c, q); errors.Is(err, unix.EEXIST) {
			err = fmt.Errorf("interface %s is there already in %s: %w", v.Peer.Name, v.Peer.NS, err)
		}
	}
	if errors.Is(err, unix.ENODEV) && v.At.Master != "" {
		delete(c.index, v.At.Master) // it may have been made anew
	}
	if err != nil {
		return p, err
	}
	c.index[key.Link] = p.near
	now := fresh(p.near, v.MAC, v.MTU)
	now.master, now.group = master, group
	return p, settle(c, now, w)
}

// create sends a pair's message and learns both indexes from the kernel's echo.
func create(c *conn, q *nl.NetlinkRequest) (p pair, err error) {
	err = c.batch([]*nl.NetlinkRequest{q}, func(typ uint16, body []byte) {
		if l, ok := parseLink(body); ok && typ == unix.RTM_NEWLINK {
			p = pair{near: l.index, far: l.pair}
		}
	})[0]
	if err == nil && (p.near == 0 || p.far == 0) {
		err = errors.New("the kernel did not tell the new pair's indexes")
	}
	return p, err
}

// deleteLink deletes one.
func deleteLink(c *conn, name string) error {
	delete(c.index, name) // it may have been given anew
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
		delete(c.index, o.Obj.Link)
		index, err := c.link(o.Obj.Link)
		delete(c.index, o.Obj.Link)
		if err == nil {
			reqs, at = append(reqs, groupMsg(index)), append(at, i)
		} else if !gone(err) {
			errs[i] = err
		}
	}
	var marked []int
	for j, err := range c.batch(reqs, nil) {
		if err == nil {
			marked = append(marked, at[j])
		} else if !gone(err) {
			errs[at[j]] = err
		}
	}
	if len(marked) == 0 {
		return errs
	}
	q := nl.NewNetlinkRequest(unix.RTM_DELLINK, 0)
	q.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	q.AddData(nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(leaving)))
	if err := c.one(q); err != nil && !gone(err) {
		for _, i := range marked {
			errs[i] = err
		}
	}
	return errs
}

func groupMsg(index int32) *nl.NetlinkRequest {
	q := nl.NewNetlinkRequest(unix.RTM_NEWLINK, 0)
	m := nl.NewIfInfomsg(unix.AF_UNSPEC)
	m.Index = index
	q.AddData(m)
	q.AddData(nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(leaving)))
	return q
}
