package kernel

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// conn speaks to the kernel in one namespace. It is used by one goroutine at a time.
type conn struct {
	ns    *os.File // of the namespace, for IFLA_NET_NS_FD; keeps it alive
	route *socket
	index map[string]int32 // of links, by name; what a link's maker or a dump told

	filter   *socket   // of nfnetlink; opened when it is needed first
	mine     *portIDs  // where nfnetlink's sockets are noted
	settings *settings // where files of settings are watched
}

// newConn opens a socket in the namespace of file, which conn takes over.
func newConn(file *os.File, mine *portIDs, s *settings) (*conn, error) {
	c := &conn{ns: file, index: map[string]int32{}, mine: mine, settings: s}
	var err error
	if c.route, err = dial(file, unix.NETLINK_ROUTE); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

func (c *conn) close() {
	for _, s := range []*socket{c.route, c.filter} {
		if s != nil {
			s.close()
		}
	}
	_ = c.ns.Close()
}

func (c *conn) batch(reqs []*nl.NetlinkRequest, echo func(typ uint16, body []byte)) []error {
	msgs := make([]message, len(reqs))
	for i, q := range reqs {
		msgs[i] = rtMsg{q}
	}
	return c.route.batch(msgs, echo)
}

// one sends one message.
func (c *conn) one(q *nl.NetlinkRequest) error { return c.batch([]*nl.NetlinkRequest{q}, nil)[0] }

func (c *conn) dump(ctx context.Context, typ int, body nl.NetlinkRequestData) ([][]byte, error) {
	return c.route.dump(ctx, typ, body.Serialize())
}

// link returns the index of a link of this namespace.
func (c *conn) link(name string) (int32, error) {
	if i, ok := c.index[name]; ok {
		return i, nil
	}
	q := nl.NewNetlinkRequest(unix.RTM_GETLINK, 0)
	q.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	q.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	var index int32
	err := c.batch([]*nl.NetlinkRequest{q}, func(typ uint16, body []byte) {
		if typ == unix.RTM_NEWLINK && len(body) >= unix.SizeofIfInfomsg {
			index = int32(binary.NativeEndian.Uint32(body[4:]))
		}
	})[0]
	if err == nil && index == 0 {
		err = errors.New("no answer")
	}
	if err != nil {
		return 0, fmt.Errorf("interface %s: %w", name, err)
	}
	c.index[name] = index
	return index, nil
}
