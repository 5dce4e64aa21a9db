package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weft/e2e/lab"
	weftv1 "weft/proto/weft/v1"
)

// sandboxes is the admin API of a host, for what is to be quicker than a command.
func (h *host) sandboxes() weftv1.SandboxesClient {
	h.c.t.Helper()
	conn, err := h.Client()
	must(h.c.t, err)
	return weftv1.NewSandboxesClient(conn)
}

// run makes and starts a sandbox.
func run(ctx context.Context, s weftv1.SandboxesClient, name, network string) error {
	_, err := s.CreateSandbox(ctx, &weftv1.CreateSandboxRequest{
		Name: name, Command: []string{"sleep", forever}, Detached: true, Once: true, Attachments: []*weftv1.Attachment{{Network: network}},
	})
	if err == nil {
		_, err = s.StartSandbox(ctx, &weftv1.StartSandboxRequest{Ref: name})
	}
	if err != nil {
		return fmt.Errorf("run %s: %w", name, err)
	}
	return nil
}

func TestTwoHundredSandboxesAtOnce(t *testing.T) {
	t.Parallel()
	count := 200
	if raceEnabled { // each has a supervisor, which is large then
		count = 60
	}
	c := up(t)
	c.hosts[0].weft("network", "create", "-d", "overlay", "--subnet", "10.1.0.0/24", "web")
	began := time.Now()
	group, ctx := errgroup.WithContext(within(t, 2*time.Minute))
	group.SetLimit(24)
	for i := range count {
		h := c.hosts[i%len(c.hosts)]
		s := h.sandboxes()
		group.Go(func() error { return run(ctx, s, fmt.Sprintf("s%d", i), "web") })
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d sandboxes ran after %s", count, time.Since(began))

	records := c.records()
	if got := records.endpoints(); len(got["ep"]) != count || len(got["addr"]) != count || len(got["name"]) != count {
		t.Errorf("the store has %d endpoints, %d addresses, %d names; want %d of each", len(got["ep"]), len(got["addr"]), len(got["name"]), count)
	}
	seen := map[string]string{}
	for _, h := range c.hosts {
		l, err := h.sandboxes().ListSandboxes(ctx2(t), &weftv1.ListSandboxesRequest{})
		must(t, err)
		for _, s := range l.Sandboxes {
			a := s.Endpoints[0].Endpoint.Addresses[0]
			if other, twice := seen[a]; twice {
				t.Errorf("%s and %s both have %s", s.Name, other, a)
			}
			seen[a] = s.Name
		}
	}
	if len(seen) != count {
		t.Errorf("the hosts have %d addresses in use, want %d", len(seen), count)
	}
	for i, h := range c.hosts {
		eventually(t, settle, func() error { return h.forwards(seen) })
		from := c.taken(i)
		for range 10 { // the kernel's table of neighbours is too small for everybody to everybody
			b := c.taken(rand.IntN(count))
			addr := b.addr("web")
			eventually(t, settle, func() error { return from.pings(addr, 8, soon) })
			eventually(t, settle, func() error { return from.finds(b.name, addr) })
		}
	}

	began = time.Now()
	group, ctx = errgroup.WithContext(within(t, 2*time.Minute))
	group.SetLimit(24)
	for i := range count {
		s := c.hosts[i%len(c.hosts)].sandboxes()
		group.Go(func() error {
			_, err := s.RemoveSandbox(ctx, &weftv1.RemoveSandboxRequest{Ref: fmt.Sprintf("s%d", i), Force: true})
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d sandboxes were gone after %s", count, time.Since(began))
	c.isEmpty(records)
}

// forwards tells whether the host's bridge knows where each address is, of which there are more than one can ping.
func (h *host) forwards(addrs map[string]string) error {
	known := map[string]bool{}
	for _, ns := range h.networkSpaces() {
		err := lab.Within(ns, func() error {
			es, err := netlink.NeighList(0, unix.AF_BRIDGE)
			for _, e := range es {
				if e.MasterIndex != 0 && e.Flags&netlink.NTF_SELF == 0 {
					known[e.HardwareAddr.String()] = true
				}
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	var missing []string
	for addr, name := range addrs {
		p, err := netip.ParsePrefix(addr)
		if err != nil {
			return err
		}
		if a := p.Addr().As4(); !known[fmt.Sprintf("02:42:%02x:%02x:%02x:%02x", a[0], a[1], a[2], a[3])] {
			missing = append(missing, name+" "+addr)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("%s has no entry for %d of %d sandboxes: %v", h.Name, len(missing), len(addrs), missing)
	}
	return nil
}

func ctx2(t testing.TB) context.Context { return within(t, patience) }

// taken is the i-th sandbox of a crowd.
func (c *cluster) taken(i int) *box {
	c.t.Helper()
	b := &box{h: c.hosts[i%len(c.hosts)], name: fmt.Sprintf("s%d", i)}
	b.netns = b.view().NetworkSettings.SandboxKey
	return b
}

// isEmpty waits until nothing of any sandbox is left, anywhere.
func (c *cluster) isEmpty(r *records) {
	c.t.Helper()
	eventually(c.t, patience, func() error {
		got := r.endpoints()
		if n := len(got["ep"]) + len(got["addr"]) + len(got["name"]); n > 0 {
			return fmt.Errorf("the store still has %v", got)
		}
		for _, h := range c.hosts {
			if err := h.isEmpty(); err != nil {
				return err
			}
		}
		return nil
	})
}

// isEmpty tells what a host that has no sandbox has of one: namespaces, interfaces, directories, mounts, processes, control groups.
func (h *host) isEmpty() error {
	spaces, _ := filepath.Glob(filepath.Join(h.RunDir(), "netns", "weft-*"))
	boxes, _ := filepath.Glob(filepath.Join(h.RunDir(), "sandboxes", "*"))
	if len(spaces)+len(boxes) > 0 {
		return fmt.Errorf("%s still has %v", h.Name, append(spaces, boxes...))
	}
	var names []string
	err := h.Do(func() error {
		ls, err := netlink.LinkList()
		for _, l := range ls {
			names = append(names, l.Attrs().Name)
		}
		return err
	})
	names = slices.DeleteFunc(names, func(n string) bool { return n == "weft0" }) // the default network's bridge, once an agent was there
	if err == nil && len(names) != 2 {                                            // lo and eth0
		err = fmt.Errorf("%s has the interfaces %v", h.Name, names)
	}
	left, e := lab.Left(lab.Config{Dir: h.Dir()})
	for _, l := range left {
		what, rest, _ := strings.Cut(l, " ")
		switch {
		case what == "process" && strings.HasPrefix(rest, fmt.Sprintf("%d ", h.PID())), what == "directory":
		case what == "mount" && (strings.HasSuffix(rest, "/run/netns") || strings.HasSuffix(rest, "/run/sandboxes")):
		default:
			err = errors.Join(err, fmt.Errorf("%s still has %s", h.Name, l))
		}
	}
	return errors.Join(err, e)
}

func TestNothingIsLeft(t *testing.T) {
	t.Parallel()
	c := up(t)
	h1, h2 := c.hosts[0], c.hosts[1]
	records := c.records()
	rules := func(h *host) string {
		text, err := ruleset(h.Path)
		must(t, err)
		return text
	}
	before := rules(h2)
	for _, n := range []string{"front", "back"} {
		h1.weft("network", "create", "-d", "overlay", n)
	}
	a, b := h1.box("a", "front"), h2.box("b", "front", "--network", "back")
	eventually(t, settle, func() error { return a.finds("b", b.addr("front")) })
	if rules(h2) == before {
		t.Error("a network with egress has no rules on its host; this test looks at the wrong place")
	}
	h1.weft("rm", "-f", "a")
	h2.weft("rm", "-f", "b")
	h1.weft("network", "rm", "front", "back")
	c.isEmpty(records)
	eventually(t, settle, func() error {
		if got := rules(h2); got != before {
			return fmt.Errorf("the rules of host2 are\n%s\nbut they were\n%s", got, before)
		}
		return nil
	})
	if _, err := os.ReadDir(filepath.Join(h2.StateDir, "sandboxes")); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	for _, h := range c.hosts {
		logs, _ := filepath.Glob(filepath.Join(h.StateDir, "sandboxes", "*"))
		if len(logs) > 0 {
			t.Errorf("%s keeps the logs %v", h.Name, logs)
		}
	}
}

// An agent is killed at whatever moment of attaches and detaches. Whatever it was: when it is back, sandboxes, kernel and store tell the
// same.
func TestAnAgentIsKilledAtRandomMoments(t *testing.T) {
	t.Parallel()
	c, _ := upWithStore(t)
	h1, h2 := c.hosts[0], c.hosts[1]
	h1.weft("network", "create", "-d", "overlay", "--subnet", "10.1.0.0/24", "web")
	witness := h1.box("witness", "web")
	records := c.records()
	rounds, seed := 12, rand.Uint64()
	if raceEnabled {
		rounds = 4
	}
	if n, err := strconv.Atoi(os.Getenv("KILLS")); err == nil {
		rounds = n
	}
	t.Logf("seed %d, %d kills", seed, rounds)
	r := rand.New(rand.NewPCG(seed, 0))
	for round := range rounds {
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for w := range 4 {
			own := rand.New(rand.NewPCG(seed, uint64(round*10+w+1)))
			wg.Go(func() { h2.churn(ctx, own, w) })
		}
		pause := time.NewTimer(time.Duration(r.IntN(400)) * time.Millisecond)
		<-pause.C
		h2.kill()
		cancel()
		wg.Wait()
		h2.up()
		h2.awaitJoined()
		eventually(t, patience, func() error { return h2.agrees(records, witness) })
	}
	l, err := h2.sandboxes().ListSandboxes(ctx2(t), &weftv1.ListSandboxesRequest{All: true})
	must(t, err)
	for _, s := range l.Sandboxes {
		h2.weft("rm", "-f", s.Name)
	}
	h1.weft("rm", "-f", "witness")
	c.isEmpty(records)
}

// churn makes, stops, starts and removes sandboxes until ctx ends. Refusals are of no interest, and neither are calls that were cut off.
func (h *host) churn(ctx context.Context, r *rand.Rand, worker int) {
	s := h.sandboxes()
	for ctx.Err() == nil {
		name := fmt.Sprintf("w%d-%d", worker, r.IntN(3))
		var err error
		switch r.IntN(4) {
		case 0, 1:
			err = run(ctx, s, name, "web")
		case 2:
			_, err = s.StopSandbox(ctx, &weftv1.StopSandboxRequest{Ref: name, Signal: 9})
		case 3:
			_, err = s.RemoveSandbox(ctx, &weftv1.RemoveSandboxRequest{Ref: name, Force: true})
		}
		if status.Code(err) == codes.Internal {
			h.c.t.Errorf("%s: %v", name, err)
		}
	}
}

// agrees compares what the host says of its sandboxes with the store, the kernel and the names on another host.
func (h *host) agrees(r *records, witness *box) error {
	l, err := h.sandboxes().ListSandboxes(ctx2(h.c.t), &weftv1.ListSandboxesRequest{All: true})
	if err != nil {
		return err
	}
	keys := r.endpoints()
	want := map[string]string{"witness": ""}
	running := 0
	for _, s := range l.Sandboxes {
		id := s.Endpoints[0].Endpoint.GetId()
		if id == "" { // it was made, and its start had not begun
			continue
		}
		want[s.Name] = id
		if _, ok := keys["ep"][id]; !ok {
			return fmt.Errorf("the store has no record of %s, which is %s", s.Name, s.Status)
		}
		if s.Status != "running" {
			if err := witness.finds(s.Name); err != nil {
				return err
			}
			continue
		}
		running++
		addr, _, _ := strings.Cut(s.Endpoints[0].Endpoint.Addresses[0], "/")
		if keys["addr"][addr] != id {
			return fmt.Errorf("the store gives %s to %q, not to %s", addr, keys["addr"][addr], s.Name)
		}
		if err := errors.Join(witness.finds(s.Name, addr), witness.pings(addr, 8, soon)); err != nil {
			return err
		}
	}
	if len(keys["ep"]) != len(want) || len(keys["name"]) != len(want) || len(keys["addr"]) != running+1 {
		return fmt.Errorf("the store has the names %v, %d endpoints and the addresses %v; the sandboxes with endpoints are %v, %d of them running",
			keys["name"], len(keys["ep"]), keys["addr"], want, running)
	}
	return h.ports(running)
}

// ports compares the number of endpoints that are plugged into the host's networks.
func (h *host) ports(want int) error {
	got := 0
	for _, ns := range h.networkSpaces() {
		err := lab.Within(ns, func() error {
			ls, err := netlink.LinkList()
			for _, l := range ls {
				if strings.HasPrefix(l.Attrs().Name, "ep") {
					got++
				}
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	if got != want {
		return fmt.Errorf("%s has %d endpoints plugged in, and %d sandboxes that run", h.Name, got, want)
	}
	return nil
}
