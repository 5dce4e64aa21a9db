package kernel

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// The host's namespace is shared with Docker, libvirt and the user, who may give links any name. What is weft's own there is told by aliases:
// a bridge's is ownerAlias and its network's ID, a port's tells where its far end is (nearAlias), an uplink's is farAlias and its name begins
// with weft. A message that makes a link cannot say its alias (rtnetlink takes it in a second one): until that has come, the group tells.
const (
	ownerAlias = "weft "
	making     = 0x7765666d // "wefm"
	uplinkName = "weft"
	portPrefix = "ep"
)

// owner is the network whose bridge a link of the host is, "" if it is none of weft's.
func (l linkInfo) owner() string {
	id, ok := strings.CutPrefix(l.alias, ownerAlias)
	if !ok || l.kind != "bridge" || strings.Contains(id, " ") {
		return ""
	}
	return id
}

// hostPort tells a port of one of weft's bridges in the host, by its alias.
func (l linkInfo) hostPort() bool {
	return l.kind == "veth" && strings.HasPrefix(l.name, portPrefix) && strings.Count(l.alias, " ") >= 3 && strings.HasPrefix(l.alias, farAlias+" ")
}

// uplink tells the host's end of an overlay network's uplink.
func (l linkInfo) uplink() bool {
	return l.kind == "veth" && l.alias == farAlias && strings.HasPrefix(l.name, uplinkName)
}

// unfinished tells a link of the host that weft has begun to make.
func (l linkInfo) unfinished() bool { return l.group == making && l.alias == "" }

// madeHere tells what weft makes in the host's namespace itself; the uplinks come with their networks' namespaces.
func (l linkInfo) madeHere() bool { return l.owner() != "" || l.hostPort() || l.unfinished() }

// notOurs is what a link of the host is refused with that is in weft's way.
func notOurs(name string) error {
	return fmt.Errorf("an interface called %s is there already, and it is not weft's: remove it, or choose another name for the network's bridge: %w", name, unix.EEXIST)
}

// putHostBridge makes a bridge in the host's namespace, or brings weft's own of that name in line.
func putHostBridge(ctx context.Context, c *conn, name string, s Bridge) error {
	if s.Owner == "" {
		return fmt.Errorf("bridge %s of the host without a network: %w", name, unix.EINVAL)
	}
	q, err := bridgeMsg(name, s)
	if err != nil {
		return err
	}
	q.AddData(nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(making)))
	delete(c.index, name)
	if err := c.one(q); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	now, ok, err := find(ctx, c, name)
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("interface %s: %w", name, unix.ENODEV)
	}
	if now.kind != "bridge" || !now.madeHere() {
		return notOurs(name)
	}
	return settle(c, now, linkWant{mac: s.MAC, mtu: s.MTU, alias: ownerAlias + s.Owner})
}

// hostOwn leaves out of deletes in the host's namespace what is not, or no longer, weft's own.
func hostOwn(ctx context.Context, c *conn, ops []Op) ([]Op, error) {
	links, err := readLinks(ctx, c)
	if err != nil {
		return nil, err
	}
	var out []Op
	for _, o := range ops {
		l := links.byName[o.Obj.Link]
		if l.madeHere() {
			out = append(out, o)
		}
	}
	return out, nil
}
