package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	weftv1 "weft/proto/weft/v1"
	"weft/store/storetest/server"
)

// name is one that was not given before.
func (b *bench) name(kind string) string {
	b.made++
	return fmt.Sprintf("%s%d", kind, b.made)
}

// network makes an overlay network, by host a, and waits until all hosts know it.
func (b *bench) network(ctx context.Context, subnet string) (name, id string, err error) {
	name = b.name("net")
	req := &weftv1.CreateNetworkRequest{Name: name, Driver: "overlay"}
	if subnet != "" {
		req.Subnets = []string{subnet}
	}
	r, err := b.hosts[0].nets.CreateNetwork(ctx, req)
	if err != nil {
		return "", "", fmt.Errorf("create a network: %w", err)
	}
	for _, h := range b.hosts {
		err := until(ctx, func() error {
			_, err := h.nets.InspectNetwork(ctx, &weftv1.InspectNetworkRequest{Ref: r.Id})
			return err
		})
		if err != nil {
			return "", "", fmt.Errorf("network %s on host %s: %w", name, h.Name, err)
		}
	}
	return name, r.Id, nil
}

// box is a running sandbox. It is in its host's own network, as every sandbox is in one, and connects to those that are measured.
type box struct {
	host  *host
	name  string
	netns string
	pid   int
}

// box starts a sandbox in which nothing but a sleep runs.
func (b *bench) box(ctx context.Context, h *host) (*box, error) {
	if h.home == "" {
		var err error
		if h.home, _, err = b.network(ctx, ""); err != nil {
			return nil, err
		}
	}
	x := &box{host: h, name: b.name("box")}
	if err := h.runBox(ctx, x.name, h.home); err != nil {
		return nil, err
	}
	s, err := h.boxes.InspectSandbox(ctx, &weftv1.InspectSandboxRequest{Ref: x.name})
	if err != nil {
		return nil, fmt.Errorf("look at sandbox %s: %w", x.name, err)
	}
	x.netns, x.pid = s.Sandbox.NetnsPath, int(s.Sandbox.Pid)
	return x, nil
}

// runBox does what `weft run -d` does.
func (h *host) runBox(ctx context.Context, name, network string) error {
	req := &weftv1.CreateSandboxRequest{
		Name: name, Command: []string{"sleep", "3600"}, Detached: true, Attachments: []*weftv1.Attachment{{Network: network}},
	}
	if _, err := h.boxes.CreateSandbox(ctx, req); err != nil {
		return fmt.Errorf("create sandbox %s: %w", name, err)
	}
	if _, err := h.boxes.StartSandbox(ctx, &weftv1.StartSandboxRequest{Ref: name}); err != nil {
		return fmt.Errorf("start sandbox %s: %w", name, err)
	}
	return nil
}

func (b *bench) boxesOn(ctx context.Context, h *host, n int) ([]*box, error) {
	var out []*box
	for range n {
		x, err := b.box(ctx, h)
		if err != nil {
			return nil, err
		}
		out = append(out, x)
	}
	return out, nil
}

func (x *box) connect(ctx context.Context, network string) error {
	_, err := x.host.nets.Connect(ctx, &weftv1.ConnectRequest{Target: x.name, Attachment: &weftv1.Attachment{Network: network}})
	if err != nil {
		return fmt.Errorf("connect %s to %s: %w", x.name, network, err)
	}
	return nil
}

func (x *box) disconnect(ctx context.Context, network string) error {
	if _, err := x.host.nets.Disconnect(ctx, &weftv1.DisconnectRequest{Network: network, Target: x.name}); err != nil {
		return fmt.Errorf("disconnect %s from %s: %w", x.name, network, err)
	}
	return nil
}

// remove takes sandboxes away.
func remove(ctx context.Context, boxes ...*box) error {
	var errs []error
	for _, x := range boxes {
		_, err := x.host.boxes.RemoveSandbox(ctx, &weftv1.RemoveSandboxRequest{Ref: x.name, Force: true})
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// until asks until there is no error.
func until(ctx context.Context, what func() error) error {
	t := time.NewTicker(2 * time.Millisecond)
	defer t.Stop()
	for {
		err := what()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case <-t.C:
		}
	}
}

// settle lets what was deleted in the background be gone: the next number is not to pay for it.
func settle(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// floorAttach is the least that an attach can be: the raw kernel part and the raw transaction, one after the other.
type floorAttach struct {
	site *site
	cli  raw
	made int
}

func (b *bench) newFloorAttach(ctx context.Context, name string) (*floorAttach, error) {
	s, err := b.newSite(name)
	if err != nil {
		return nil, err
	}
	first, err := s.port(0)
	if err == nil {
		err = s.build(ctx, first, nil)
	}
	var cli raw
	if err == nil {
		cli, err = b.client(b.hosts[0].Node)
	}
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	return &floorAttach{site: s, cli: cli}, nil
}

func (f *floorAttach) close() error { return errors.Join(f.cli.close(), f.site.close()) }

// prepare returns a raw attach that is ready to go, and what is left of it to be closed.
func (f *floorAttach) prepare(ctx context.Context, key string) (run func() error, done func() error, err error) {
	f.made++
	port, err := f.site.port(f.made)
	if err != nil {
		return nil, nil, err
	}
	w, err := f.site.openPort(port, 6000+f.made)
	if err != nil {
		return nil, nil, err
	}
	return func() error {
		if err := w.attach(); err != nil {
			return err
		}
		return f.cli.create(ctx, key, make([]byte, 300))
	}, w.close, nil
}

// measureAttach measures the calls that bring a running sandbox into a network and out of it, and the two that make one within.
func (b *bench) measureAttach(ctx context.Context) (err error) {
	floor, err := b.newFloorAttach(ctx, "attach")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, floor.close()) }()
	boxes, err := b.boxesOn(ctx, b.hosts[0], b.n(40, 4))
	if err != nil {
		return err
	}
	if err := b.laterAttaches(ctx, floor, boxes); err != nil {
		return err
	}
	if err := b.firstAttaches(ctx, floor, boxes[0]); err != nil {
		return err
	}
	if err := b.runs(ctx); err != nil {
		return err
	}
	return remove(ctx, boxes...)
}

// laterAttaches: the network is on the host already. Each attach, and then each detach, beside its floor.
func (b *bench) laterAttaches(ctx context.Context, floor *floorAttach, boxes []*box) error {
	name, _, err := b.network(ctx, "")
	if err != nil {
		return err
	}
	var in, out pairs
	for i, x := range boxes {
		raw, done, err := floor.prepare(ctx, b.name("key"))
		if err != nil {
			return err
		}
		w, f, err := inTurns(i, func() error { return x.connect(ctx, name) }, raw)
		if err := errors.Join(err, done()); err != nil {
			return err
		}
		if i > 0 { // that was a first one
			in.add(w, f)
		}
	}
	for i, x := range boxes {
		key := b.name("key")
		if err := floor.cli.create(ctx, key, nil); err != nil {
			return err
		}
		w, f, err := inTurns(i, func() error { return x.disconnect(ctx, name) }, func() error { return floor.cli.remove(ctx, key) })
		if err != nil {
			return err
		}
		if i < len(boxes)-1 {
			out.add(w, f)
		}
	}
	limit := 5.0
	if b.kind != server.Etcd { // their journals cost extra writes
		limit = 6
	}
	b.report.pair("attach, whole (later ones)", "ms", "raw netlink, then a raw two-key transaction", in, atMost(limit, "ms"))
	b.report.pair("detach, answer to the caller", "ms", "a raw transaction that deletes two keys", out, atMost(5, "ms"))
	return nil
}

// firstAttaches: each in a network that is not on the host yet.
func (b *bench) firstAttaches(ctx context.Context, floor *floorAttach, x *box) error {
	var p pairs
	var last sample
	for i := range b.n(11, 2) {
		if err := errors.Join(alone(ctx, []*box{x}), settle(ctx, quietTime)); err != nil {
			return err
		}
		name, _, err := b.network(ctx, "")
		if err != nil {
			return err
		}
		raw, done, err := floor.prepare(ctx, b.name("key"))
		if err != nil {
			return err
		}
		w, f, err := inTurns(i, func() error { return x.connect(ctx, name) }, raw)
		if err := errors.Join(err, done()); err != nil {
			return err
		}
		p.add(w, f)
		took, err := timed(func() error { return x.disconnect(ctx, name) })
		if err != nil {
			return err
		}
		last = append(last, took)
		if _, err := b.hosts[0].nets.RemoveNetwork(ctx, &weftv1.RemoveNetworkRequest{Ref: name}); err != nil {
			return fmt.Errorf("remove network %s: %w", name, err)
		}
	}
	b.report.pair("attach, whole (first of its network)", "ms", "as above, bridge and tunnel there already", p)
	b.report.single("detach, the last of its network here", "ms", last, atMost(5, "ms"))
	return nil
}

// runs: what `weft run -d` asks of the agent, in a network that is on the host.
func (b *bench) runs(ctx context.Context) error {
	name, _, err := b.network(ctx, "")
	if err != nil {
		return err
	}
	var boxes []*box
	var s sample
	for i := range b.n(12, 3) {
		x := &box{host: b.hosts[0], name: b.name("box")}
		took, err := timed(func() error { return x.host.runBox(ctx, x.name, name) })
		if err != nil {
			return err
		}
		boxes = append(boxes, x)
		if i > 0 {
			s = append(s, took)
		}
	}
	b.report.single("run -d, whole", "ms", s)
	return remove(ctx, boxes...)
}
