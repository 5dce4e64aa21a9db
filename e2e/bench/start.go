package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"weft/kernel"
)

// readyBar is how long an agent's start may take, with all of it: see begun.
const readyBar = 2000

// measureStart restarts an agent that has 1,000 sandboxes, and whose networks have 10,000 endpoints of other hosts, by SIGKILL and by SIGTERM in
// turns, under a service manager. While no agent is there, something is taken out of the kernel in each network and in a sandbox of each: the
// start has ended when that is back too, and so all has been compared.
func (b *bench) measureStart(ctx context.Context) (err error) {
	size := fleetSize{networks: 10, hosts: b.n(5, 2), local: b.n(1000, 20), remote: b.n(10_000, 200)}
	if err := b.hosts[0].Manage(); err != nil {
		return err
	}
	f, err := b.makeFleet(ctx, size)
	defer func() { err = errors.Join(err, f.end(context.WithoutCancel(ctx))) }()
	if err != nil {
		return err
	}
	if err := b.begin(ctx, f, &begun{}); err != nil { // from now on the sockets are kept
		return err
	}
	var all []begun
	var whole pairs
	for i := range b.n(10, 2) {
		if err := settle(ctx, time.Duration(b.n(3000, 100))*time.Millisecond); err != nil { // the last life's picture is on the disk
			return err
		}
		var now begun
		w, floor, err := inTurnsOf(i, func() (float64, error) {
			err := b.again(ctx, i, f, &now)
			return now.whole(), err
		}, func() (float64, error) { return b.look(ctx, f) })
		if err != nil {
			return err
		}
		all = append(all, now)
		whole.add(w, floor)
	}
	b.reportStarts(size, all, whole)
	return nil
}

// again ends the agent, breaks something, and begins the next.
func (b *bench) again(ctx context.Context, i int, f *fleet, now *begun) error {
	h, end := b.hosts[0], b.hosts[0].Stop
	if i%2 == 0 {
		end = func(context.Context) error { return h.Kill() }
	}
	took, err := timed(func() error { return end(ctx) })
	if err != nil {
		return err
	}
	if now.killed = i%2 == 0; !now.killed {
		now.stop = took
	}
	return b.start(ctx, f, now)
}

// begin is a restart that nobody measures.
func (b *bench) begin(ctx context.Context, f *fleet, now *begun) error {
	if err := b.hosts[0].Stop(ctx); err != nil {
		return err
	}
	return b.start(ctx, f, now)
}

// begun is one start of an agent, in milliseconds since its process was started: until it answers on its admin socket, says that it is ready,
// answers the names of a sandbox here and of one elsewhere, has attached a sandbox to one more network, and has put back what was taken
// out of the kernel. cpu is what it had used by then.
type begun struct {
	killed                                     bool
	stop                                       float64
	admin, ready, near, far, attach, kept, cpu float64
}

// whole is when all of it was done.
func (n begun) whole() float64 { return max(n.admin, n.ready, n.near, n.far, n.attach, n.kept) }

// start starts the agent and looks at all of it at once.
func (b *bench) start(ctx context.Context, f *fleet, now *begun) error {
	h := b.hosts[0]
	mended, stop, err := f.damage(h.RunDir())
	if err != nil {
		return err
	}
	defer stop()
	said := h.SaidReady()
	client, err := h.Client()
	if err != nil {
		return err
	}
	asking, moved := f.boxes[0], f.boxes[len(f.boxes)-1]
	other := f.names[0] // the last box's is another
	at := time.Now()
	if err := h.Start(); err != nil {
		return err
	}
	steps := []struct {
		to   *float64
		done func() error
	}{
		{&now.admin, func() error {
			return until(ctx, func() error {
				_, err := healthpb.NewHealthClient(client).Check(ctx, &healthpb.HealthCheckRequest{})
				return err
			})
		}},
		{&now.ready, func() error {
			return until(ctx, func() error {
				if h.SaidReady() == said {
					return errors.New("the agent has not said that it is ready")
				}
				return nil
			})
		}},
		{&now.near, func() error { return asked(ctx, asking.netns, f.boxes[len(f.names)].name) }},
		{&now.far, func() error { return asked(ctx, asking.netns, "far0") }},
		{&now.attach, func() error { return until(ctx, func() error { return moved.connect(ctx, other) }) }},
		{&now.kept, func() error { return mended(ctx) }},
	}
	results := make(chan error, len(steps))
	for _, s := range steps {
		go func() {
			err := s.done()
			*s.to = ms(time.Since(at))
			results <- err
		}()
	}
	for range steps {
		err = errors.Join(err, <-results)
	}
	if err != nil {
		return fmt.Errorf("%w\nthe last lines of its log:\n%s", err, h.Log(5))
	}
	used, err := cpuTime(h.PID())
	now.cpu = ms(used)
	return errors.Join(err, moved.disconnect(ctx, other))
}

func (b *bench) reportStarts(n fleetSize, all []begun, whole pairs) {
	column := func(of func(begun) float64, which func(begun) bool) (s sample) {
		for _, x := range all {
			if which == nil || which(x) {
				s = append(s, of(x))
			}
		}
		return s
	}
	row := func(what, unit string, of func(begun) float64) {
		b.report.single("start: "+what, unit, column(of, nil))
	}
	b.say("  %d sandboxes, %d remote endpoints", n.local, n.remote)
	row("admin socket answers", "ms", func(x begun) float64 { return x.admin })
	row("says that it is ready", "ms", func(x begun) float64 { return x.ready })
	row("a name of this host", "ms", func(x begun) float64 { return x.near })
	row("a name of another host", "ms", func(x begun) float64 { return x.far })
	row("an attach", "ms", func(x begun) float64 { return x.attach })
	row("kernel compared and mended", "ms", func(x begun) float64 { return x.kept })
	b.report.pair("start: all of it", "ms", "a bare process that reads the same keys and links", whole, atMost(readyBar, "ms"))
	killed := func(x begun) bool { return x.killed }
	b.report.single("start: all of it, after SIGKILL", "ms", column(begun.whole, killed))
	b.report.single("start: all of it, after SIGTERM", "ms", column(begun.whole, func(x begun) bool { return !x.killed }))
	row("the agent's CPU time until then", "ms", func(x begun) float64 { return x.cpu })
	b.report.single("an agent's end after SIGTERM", "ms", column(func(x begun) float64 { return x.stop }, func(x begun) bool { return !x.killed }))
}

// look is the floor: a process that reads what the agent has to read, and does nothing with it.
func (b *bench) look(ctx context.Context, f *fleet) (float64, error) {
	spaces, err := filepath.Glob(filepath.Join(b.hosts[0].RunDir(), "netns", "weft-*"))
	if err != nil || len(spaces) < len(f.names) {
		return 0, fmt.Errorf("find the networks' namespaces: %d, %w", len(spaces), err)
	}
	for _, x := range f.boxes {
		spaces = append(spaces, x.netns)
	}
	var c *child
	took, err := timed(func() (err error) {
		c, err = b.startChild(ctx, b.hosts[0].Node, childSpec{Work: "look", Crowds: f.crowds, Spaces: append(spaces, kernel.HostNS)})
		return err
	})
	if err != nil {
		return 0, err
	}
	return took, c.end()
}
