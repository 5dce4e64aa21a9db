package agent

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"weft/agent/api"
	"weft/agent/journal"
	"weft/agent/registry"
	"weft/integrations/ipamplugin"
	"weft/integrations/ipamplugin/plugintest"
	"weft/store/memory"
	"weft/store/record"
)

// lessee is an agent as far as plugins go: a journal that outlives it, sandboxes, and a plugin.
type lessee struct {
	*Agent
	t     *testing.T
	disk  *memory.World
	dir   string
	books *plugintest.Plugin
	nets  map[record.NetworkID]bool
	away  bool // the store
	end   func()
}

func newLessee(t *testing.T) *lessee {
	t.Helper()
	dir, err := os.MkdirTemp("", "lease") // short: a socket is in it
	if err != nil {
		t.Fatal(err)
	}
	books, err := plugintest.New(dir, "keeper")
	if err != nil {
		t.Fatal(err)
	}
	l := &lessee{t: t, disk: memory.New(), dir: dir, books: books, nets: map[record.NetworkID]bool{}}
	t.Cleanup(func() {
		l.end()
		if err := errors.Join(books.Stop(), os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
	})
	l.live()
	return l
}

// live begins a life on what the last one left on the disk.
func (l *lessee) live() {
	l.t.Helper()
	client := l.disk.Client()
	j := journal.New(client, l.dir)
	a := &Agent{journal: j, log: slog.New(slog.DiscardHandler), clock: machineClock{}, boxes: newBoxes(j), addresses: newAddresses(machineClock{})}
	all, _, err := j.Sandboxes(l.t.Context())
	if err != nil {
		l.t.Fatal(err)
	}
	a.boxes.load(all)
	a.leases, err = newLeases(l.t.Context(), leasesConfig{
		log: a.log, clock: a.clock, journal: j, boxes: a.boxes, dirs: ipamplugin.Dirs{Sockets: []string{l.dir}},
		exists: func(_ context.Context, id record.NetworkID, _ bool) (bool, error) {
			if l.away {
				return false, errors.New("the store is away")
			}
			return l.nets[id], nil
		},
		network: func(record.NetworkID) (*record.Network, bool) { return nil, false },
	})
	if err != nil {
		l.t.Fatal(err)
	}
	l.Agent, l.end = a, func() {
		if err := client.Close(); err != nil {
			l.t.Error(err)
		}
	}
}

// crash ends a life, and begins the next.
func (l *lessee) crash() {
	l.t.Helper()
	l.end()
	l.live()
}

func (l *lessee) create(r api.NetworkRequest) (*record.Network, func(error), error) {
	l.t.Helper()
	r.IPAMDriver = "keeper"
	r.Spec.Name, r.Spec.Driver = "net", bridgeDriver
	done, err := l.withPools(l.t.Context(), &r)
	return &record.Network{ID: r.Spec.ID, Name: "net", Driver: bridgeDriver, Pools: r.Spec.Pools, IPAMDriver: r.Spec.IPAMDriver}, done, err
}

// network makes one for good.
func (l *lessee) network(r api.NetworkRequest) *record.Network {
	l.t.Helper()
	n, done, err := l.create(r)
	if err != nil {
		l.t.Fatal(err)
	}
	l.nets[n.ID] = true
	done(nil)
	return n
}

// attach leases and writes the sandbox down, up or down.
func (l *lessee) attach(n *record.Network, at record.Attachment, up bool) (record.Attachment, error) {
	l.t.Helper()
	at.Network = n.ID
	if at.Endpoint == "" {
		at.Endpoint = record.EndpointID(registry.NewID())
	}
	settle, err := l.leaseOrAssign(l.t.Context(), n, nil, "c", &at, trialOf(at))
	if err != nil {
		return at, err
	}
	l.box(at, up)
	settle()
	return at, nil
}

func (l *lessee) box(at record.Attachment, up bool) {
	l.t.Helper()
	s := &record.Sandbox{ID: record.SandboxID(at.Endpoint), Name: "c" + record.ShortID(at.Endpoint), Up: up, Attachments: []record.Attachment{at}, Status: record.SandboxExited}
	if up {
		s.Status = record.SandboxRunning
	}
	if err := l.boxes.put(l.t.Context(), s); err != nil {
		l.t.Fatal(err)
	}
}

func (l *lessee) out(want ...string) {
	l.t.Helper()
	if got := l.books.Given(); !slices.Equal(got, want) {
		l.t.Errorf("the plugin's books have %v, want %v", got, want)
	}
	if w := l.books.Wrong(); len(w) > 0 {
		l.t.Error(w)
	}
}

func TestLeasesFollowTheSandboxes(t *testing.T) {
	t.Parallel()
	l := newLessee(t)
	ctx := t.Context()
	n := l.network(api.NetworkRequest{})
	dyn, err := l.attach(n, record.Attachment{}, true)
	if err != nil {
		t.Fatal(err)
	}
	static, err := l.attach(n, record.Attachment{IP: netip.MustParseAddr("10.77.0.9")}, true)
	if err != nil {
		t.Fatal(err)
	}
	l.out("10.77.0.2", "10.77.0.9")
	l.leases.pass(ctx)
	l.out("10.77.0.2", "10.77.0.9")

	l.box(dyn, false)
	l.box(static, false)
	l.leases.pass(ctx)
	l.out("10.77.0.9") // what was asked for is kept while the sandbox is down
	calls := len(l.books.Calls())
	if _, err := l.attach(n, static, true); err != nil || len(l.books.Calls()) != calls {
		t.Errorf("an address that is held was asked for again: %v, %v", err, l.books.Calls()[calls:])
	}
	l.crash()
	l.leases.pass(ctx)
	l.out("10.77.0.9")
	if _, err := l.attach(n, record.Attachment{IP: netip.MustParseAddr("10.77.0.9")}, true); err == nil || !strings.Contains(err.Error(), "10.77.0.9 is out already") {
		t.Errorf("a taken address: %v", err)
	}
	s, _ := l.boxes.get(record.SandboxID(static.Endpoint))
	if err := l.boxes.remove(ctx, s); err != nil {
		t.Fatal(err)
	}
	l.leases.pass(ctx)
	l.out()
	done, err := l.leases.leaving(ctx, n)
	if err != nil {
		t.Fatal(err)
	}
	delete(l.nets, n.ID)
	done(nil)
	if got := l.books.Pools(); len(got) > 0 {
		t.Errorf("pools %v are out", got)
	}
	l.out()
}

// A life that ends in the middle of something leaves to the next what it needs to make it good.
func TestWhatACrashLeavesGoesBack(t *testing.T) {
	t.Parallel()
	l := newLessee(t)
	ctx := t.Context()
	_, _, err := l.create(api.NetworkRequest{}) // and no record was written
	if err != nil {
		t.Fatal(err)
	}
	l.crash()
	l.away = true
	l.leases.pass(ctx)
	if got := l.books.Pools(); len(got) != 1 {
		t.Errorf("while nobody can say whether the network is there, %v are out", got)
	}
	l.away = false
	l.leases.pass(ctx)
	if got := l.books.Pools(); len(got) > 0 {
		t.Errorf("of a network that was never made, %v are out", got)
	}

	n, _, err := l.create(api.NetworkRequest{}) // the record was written, and the claim still stands
	if err != nil {
		t.Fatal(err)
	}
	l.nets[n.ID] = true
	l.crash()
	l.leases.pass(ctx)
	if got, claims := l.books.Pools(), must(l.journal.PoolClaims(ctx)); len(got) != 1 || len(claims) > 0 {
		t.Errorf("of a network that is there, %v are out, and claims %v", got, claims)
	}

	at := record.Attachment{Network: n.ID, Endpoint: "e"}
	if _, err := l.leaseOrAssign(ctx, n, nil, "c", &at, trial{}); err != nil { // and the sandbox was not written down
		t.Fatal(err)
	}
	l.leases.pass(ctx)
	if got := l.books.Given(); len(got) != 1 {
		t.Errorf("during the attach %v are out", got)
	}
	l.crash()
	l.leases.pass(ctx)
	l.out()

	if _, err := l.leases.leaving(ctx, n); err != nil { // and the network is still there
		t.Fatal(err)
	}
	l.crash()
	l.leases.pass(ctx)
	if got := l.books.Pools(); len(got) != 1 {
		t.Errorf("of a network whose removal did not come about, %v are out", got)
	}
	if _, err := l.leases.leaving(ctx, n); err != nil {
		t.Fatal(err)
	}
	delete(l.nets, n.ID)
	l.crash()
	l.leases.pass(ctx)
	if got := l.books.Pools(); len(got) > 0 {
		t.Errorf("of a network that was removed, %v are out", got)
	}
	l.out()
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// A plugin that is away is given what is its own when it is back; what weft does meanwhile does not wait for it.
func TestAPluginThatIsAwayGetsItsOwnLater(t *testing.T) {
	t.Parallel()
	l := newLessee(t)
	n := l.network(api.NetworkRequest{})
	at, err := l.attach(n, record.Attachment{}, true)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.books.Stop(); err != nil {
		t.Fatal(err)
	}
	l.box(at, false)
	short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	l.leases.pass(short)
	if err := l.books.Start(); err != nil {
		t.Fatal(err)
	}
	l.out("10.77.0.2")
	l.leases.pass(t.Context())
	l.out()
}

// What was found to be too many, and is taken up again while others are given back, stays.
func TestWhatIsTakenUpAgainIsNotGivenBack(t *testing.T) {
	t.Parallel()
	l := newLessee(t)
	n := l.network(api.NetworkRequest{})
	var ats []record.Attachment
	for range 2 {
		at, err := l.attach(n, record.Attachment{}, true)
		if err != nil {
			t.Fatal(err)
		}
		l.box(at, false)
		ats = append(ats, at)
	}
	var second record.Attachment
	l.books.SetHook(func(call string, args map[string]any) any {
		if call == "IpamDriver.ReleaseAddress" && second.Endpoint == "" {
			if second = ats[0]; args["Address"] == second.Addrs[0].String() {
				second = ats[1]
			}
			if again, err := l.attach(n, second, true); err != nil || !slices.Equal(again.Addrs, second.Addrs) {
				t.Errorf("the second has %v (%v), it had %v", again.Addrs, err, second.Addrs)
			}
		}
		return nil
	})
	l.leases.pass(t.Context())
	l.out(second.Addrs[0].String())
	if held := must(l.journal.Leases(t.Context())); len(held) != 1 {
		t.Errorf("the journal has %v", held)
	}
}

// What a plugin says that cannot be true is refused, and what it gave with it goes back.
func TestLiesAreRefused(t *testing.T) {
	t.Parallel()
	l := newLessee(t)
	n := l.network(api.NetworkRequest{})
	first, err := l.attach(n, record.Attachment{}, true)
	if err != nil {
		t.Fatal(err)
	}
	for answer, want := range map[string]string{
		"10.99.0.5/24": "is outside the pool 10.77.0.0/24", "10.77.0.255/24": "broadcast", "10.77.0.1/24": "gateway", first.Addrs[0].String() + "/24": "had given to another endpoint",
	} {
		l.books.SetHook(func(call string, _ map[string]any) any {
			if call == "IpamDriver.RequestAddress" {
				return map[string]string{"Address": answer}
			}
			return nil
		})
		if _, err := l.attach(n, record.Attachment{}, true); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", answer, err, want)
		}
	}
	l.books.SetHook(func(call string, _ map[string]any) any {
		if call == "IpamDriver.RequestPool" {
			return map[string]any{"PoolID": "x", "Pool": "127.1.0.0/16", "Data": map[string]string{ipamplugin.OptGateway: "127.1.0.1/16"}}
		}
		return nil
	})
	if _, _, err := l.create(api.NetworkRequest{}); err == nil || !strings.Contains(err.Error(), "loopback") {
		t.Error(err)
	}
	l.books.SetHook(nil)
	l.leases.pass(t.Context())
	if claims, held := must(l.journal.PoolClaims(t.Context())), must(l.journal.Leases(t.Context())); len(claims) > 0 || len(held) != 1 {
		t.Errorf("left are the claims %v and the leases %v", claims, held)
	}
}

// What a user has asked for is asked of the plugin, and what was given is what the network has.
func TestPoolsOfAPlugin(t *testing.T) {
	t.Parallel()
	l := newLessee(t)
	n := l.network(api.NetworkRequest{Spec: registry.NetworkSpec{
		Subnets: []string{"10.60.0.0/24", "fd00:60::/64"}, Gateways: []string{"10.60.0.9"}, IPRanges: []string{"10.60.0.128/25"}, Aux: map[string]string{"r": "10.60.0.2"}, IPv6: true,
	}})
	if len(n.Pools) != 2 || n.Pools[0].Gateway.String() != "10.60.0.9" || n.Pools[0].IPRange.String() != "10.60.0.128/25" || n.Pools[0].Auto || n.Pools[0].Handle != "keeper-local/10.60.0.0/24" ||
		n.Pools[1].Gateway.String() != "fd00:60::1" {
		t.Errorf("%+v", n.Pools)
	}
	l.out("10.60.0.2")
	at, err := l.attach(n, record.Attachment{}, true)
	if err != nil || len(at.Addrs) != 2 || at.Addrs[0].String() != "10.60.0.1" || at.Addrs[1].String() != "fd00:60::2" {
		t.Errorf("%v, %v", at.Addrs, err)
	}
	if _, _, err := l.create(api.NetworkRequest{Spec: registry.NetworkSpec{Subnets: []string{"10.60.0.0/24"}}}); err == nil || !strings.Contains(err.Error(), "is out already") {
		t.Errorf("a pool twice: %v", err)
	}
	if _, err := l.leases.plugin(t.Context(), "nobody"); err == nil || !strings.Contains(err.Error(), `could not resolve driver "nobody"`) {
		t.Error(err)
	}
}
