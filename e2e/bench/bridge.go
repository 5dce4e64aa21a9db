package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	bolt "go.etcd.io/bbolt"

	weftv1 "weft/proto/weft/v1"
)

// measureBridge measures networks of one host: the call that brings a running sandbox into one, without and with a published port, beside
// raw netlink and a raw transaction of what the records of such networks are kept in; and the path between two sandboxes of one beside a
// bridge made by hand.
func (b *bench) measureBridge(ctx context.Context) (err error) {
	y := b.newYard("bridge")
	defer func() { err = errors.Join(err, y.clear()) }()
	hand, err := newHandBridge(y, "hand")
	if err != nil {
		return err
	}
	if err := b.bridgeAttaches(ctx, hand); err != nil {
		return err
	}
	return b.bridgePath(ctx, y, hand)
}

// localNetwork makes a network of one host.
func (b *bench) localNetwork(ctx context.Context, h *host, internal bool) (name, id string, err error) {
	name = b.name("local")
	r, err := h.nets.CreateNetwork(ctx, &weftv1.CreateNetworkRequest{Name: name, Driver: "bridge", Internal: internal})
	if err != nil {
		return "", "", fmt.Errorf("create a network of one host: %w", err)
	}
	return name, r.Id, nil
}

// firstPort is the first of the host's ports that the bench publishes.
const firstPort = 20000

// localBox starts a sandbox in an internal network, from where it publishes nothing. Its port, unless that is 0, is published by the first
// network with a way in that it connects to.
func (b *bench) localBox(ctx context.Context, h *host, home string, port int) (*box, error) {
	x := &box{host: h, name: b.name("box")}
	req := &weftv1.CreateSandboxRequest{
		Name: x.name, Command: []string{"sleep", "3600"}, Detached: true, Attachments: []*weftv1.Attachment{{Network: home}},
	}
	if port != 0 {
		p := uint32(port)
		req.Ports = []*weftv1.PortSpec{{Protocol: "tcp", HostFirst: p, HostLast: p, First: flowPort, Last: flowPort}}
	}
	if _, err := h.boxes.CreateSandbox(ctx, req); err != nil {
		return nil, fmt.Errorf("create sandbox %s: %w", x.name, err)
	}
	if _, err := h.boxes.StartSandbox(ctx, &weftv1.StartSandboxRequest{Ref: x.name}); err != nil {
		return nil, fmt.Errorf("start sandbox %s: %w", x.name, err)
	}
	s, err := h.boxes.InspectSandbox(ctx, &weftv1.InspectSandboxRequest{Ref: x.name})
	if err != nil {
		return nil, fmt.Errorf("look at sandbox %s: %w", x.name, err)
	}
	x.netns, x.pid = s.Sandbox.NetnsPath, int(s.Sandbox.Pid)
	return x, nil
}

// bridgeAttaches: the network is there, each attach beside its floor; the first one pays for what is made then, and does not count.
func (b *bench) bridgeAttaches(ctx context.Context, hand *handBridge) (err error) {
	db, err := bolt.Open(filepath.Join(b.cfg.Dir, "floor.db"), 0o600, nil)
	if err != nil {
		return fmt.Errorf("open a file for raw transactions: %w", err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	h := b.hosts[0]
	home, _, err := b.localNetwork(ctx, h, true)
	if err != nil {
		return err
	}
	network, _, err := b.localNetwork(ctx, h, false)
	if err != nil {
		return err
	}
	var got [2]pairs // without and with a port
	var gone [2]sample
	for i := range b.n(41, 3) {
		for k := range got {
			x, err := b.localBox(ctx, h, home, k*(firstPort+i))
			if err != nil {
				return err
			}
			raw, done, err := hand.prepare(db, b.name("key"))
			if err != nil {
				return err
			}
			w, f, err := inTurns(i, func() error { return x.connect(ctx, network) }, raw)
			if err := errors.Join(err, done()); err != nil {
				return err
			}
			took, err := timed(func() error { return x.disconnect(ctx, network) })
			if err := errors.Join(err, alone(ctx, []*box{x}), remove(ctx, x), settle(ctx, quietTime/6)); err != nil {
				return err
			}
			if i > 0 {
				got[k].add(w, f)
				gone[k] = append(gone[k], took)
			}
		}
	}
	const peer = "raw netlink, then a raw transaction of bbolt"
	b.report.pair("attach to a bridge network, whole", "ms", peer, got[0])
	b.report.pair("attach to a bridge, a port published", "ms", peer+" (nothing published)", got[1], atMost(5, "ms"))
	b.report.single("detach from a bridge network", "ms", gone[0], atMost(5, "ms"))
	b.report.single("detach from it, a port published", "ms", gone[1], atMost(5, "ms"))
	return b.removeNetworks(ctx, h, network, home)
}

// removeNetworks removes networks of one host.
func (b *bench) removeNetworks(ctx context.Context, h *host, names ...string) error {
	for _, n := range names {
		if _, err := h.nets.RemoveNetwork(ctx, &weftv1.RemoveNetworkRequest{Ref: n}); err != nil {
			return fmt.Errorf("remove network %s: %w", n, err)
		}
	}
	return nil
}

// bridgePath compares the path between two sandboxes on one bridge with the same made by hand in a namespace without any rules.
func (b *bench) bridgePath(ctx context.Context, y *yard, hand *handBridge) error {
	h := b.hosts[0]
	network, id, err := b.localNetwork(ctx, h, false)
	if err != nil {
		return err
	}
	boxes := make([]*box, 2)
	for i := range boxes {
		if boxes[i], err = b.localBox(ctx, h, network, 0); err != nil {
			return err
		}
	}
	addr, err := boxes[1].addr(ctx, id)
	if err != nil {
		return err
	}
	byHand := way{name: "a bridge made by hand"}
	if byHand.from, _, err = hand.sandbox(); err != nil {
		return err
	}
	if byHand.to, byHand.addr, err = hand.sandbox(); err != nil {
		return err
	}
	bare, err := bareWay(y)
	if err != nil {
		return err
	}
	weft := way{name: "weft's bridge", from: boxes[0].netns, to: boxes[1].netns, addr: addr}
	if err := until(ctx, func() error { return weft.connected(func(int, int) error { return nil }) }); err != nil {
		return err
	}
	streams, pings, err := b.inTurnsAlong(ctx, []way{weft, byHand, bare})
	if err != nil {
		return err
	}
	const peer, plain = "a bridge made by hand, no rules", "a bare veth pair, MTU 1500"
	b.report.pair("TCP on one host's bridge, one stream", "Gbit/s", peer, pairs{streams[0], streams[1]}, ratioAtLeast(0.95))
	b.report.pair("TCP on one host's bridge, one stream", "Gbit/s", plain, pairs{streams[0], streams[2]})
	b.report.pair("the same, request and response", "/s", peer, pairs{pings[0], pings[1]})
	return errors.Join(remove(ctx, boxes...), b.removeNetworks(ctx, h, network))
}

// handBridge is a Linux bridge in a namespace that stands for a host, and nothing else.
type handBridge struct {
	yard *yard
	name string
	host string // its namespace
	br   int    // the bridge's index
	made int    // ports given
}

const handBits = 16

func newHandBridge(y *yard, name string) (*handBridge, error) {
	host, err := y.add(name)
	if err != nil {
		return nil, err
	}
	h := &handBridge{yard: y, name: name, host: host}
	err = in(host, func() error {
		br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0", TxQLen: -1}}
		if err := netlink.LinkAdd(br); err != nil {
			return err
		}
		h.br = br.Index
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("make a bridge by hand: %w", err)
	}
	return h, setUp(host, "br0", netip.PrefixFrom(h.gateway(), handBits))
}

func (h *handBridge) gateway() netip.Addr { return netip.AddrFrom4([4]byte{10, 97, 0, 1}) }

// next is the address of a port to come, and the namespace that it will be in.
func (h *handBridge) next() (ns string, addr netip.Addr, err error) {
	h.made++
	ns, err = h.yard.add(fmt.Sprintf("%s-sandbox%d", h.name, h.made))
	return ns, netip.AddrFrom4([4]byte{10, 97, byte(1 + h.made/250), byte(1 + h.made%250)}), err
}

// sandbox is a namespace that is plugged in.
func (h *handBridge) sandbox() (ns string, addr netip.Addr, err error) {
	if ns, addr, err = h.next(); err != nil {
		return "", netip.Addr{}, err
	}
	err = makePair(h.host, fmt.Sprintf("port%d", h.made), ns, "eth0", 1500, h.br, hardware(addr))
	if err != nil {
		return "", netip.Addr{}, err
	}
	return ns, addr, setUp(ns, "eth0", netip.PrefixFrom(addr, handBits))
}

// prepare returns a raw attach that is ready to go, and what is left of it to be closed.
func (h *handBridge) prepare(db *bolt.DB, key string) (run, done func() error, err error) {
	ns, addr, err := h.next()
	if err != nil {
		return nil, nil, err
	}
	index := 5000 + h.made
	w := &rawWay{port: rawPort{
		name: fmt.Sprintf("raw%d", index), index: index, master: h.br, addr: netip.PrefixFrom(addr, handBits), gateway: h.gateway(),
	}}
	if w.port.file, err = os.Open(ns); err != nil {
		return nil, nil, err
	}
	if w.near, err = openRaw(h.host); err != nil {
		return nil, nil, errors.Join(err, w.port.file.Close())
	}
	if w.far, err = openRaw(ns); err != nil {
		return nil, nil, errors.Join(err, w.port.file.Close(), w.near.close())
	}
	return func() error {
		if err := w.attach(); err != nil {
			return err
		}
		return db.Update(func(tx *bolt.Tx) error {
			data, err := tx.CreateBucketIfNotExists([]byte("data"))
			if err != nil {
				return err
			}
			return errors.Join(data.Put([]byte("ep/"+key), make([]byte, 300)), data.Put([]byte("addr/"+key), []byte(ownerValue)))
		})
	}, w.close, nil
}
