package registry_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"weft/agent/registry"
	"weft/ipam"
	"weft/store"
	"weft/store/memory"
	"weft/store/record"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// host is one agent's registry over a shared world, with a picture that it takes only when the test says so.
type host struct {
	*registry.Registry
	st      *memory.Client
	mu      sync.Mutex
	picture *record.Snapshot
	as      registry.Actor
}

func newHost(t cleaner, w *memory.World, name string) *host {
	t.Helper()
	h := &host{st: w.Client()}
	h.use(h.st, name)
	t.Cleanup(func() { _ = h.st.Close() })
	return h
}

// cleaner is a *testing.T or a *rapid.T.
type cleaner interface {
	rapid.TB
	Cleanup(func())
}

// use gives the host a registry over a store that leads to h.st.
func (h *host) use(s store.Store, name string) {
	h.picture = record.Empty()
	h.Registry = registry.New(registry.Config{Store: s, Now: time.Now, Picture: func() *record.Snapshot {
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.picture
	}})
	h.as = registry.Actor{Host: record.HostID(name), Incarnation: 1}
}

// look takes the picture as the store has it now.
func (h *host) look(t rapid.TB, nets ...record.NetworkID) {
	t.Helper()
	s := record.Empty()
	for _, p := range append([]string{store.Meta, store.Alive}, partitions(nets)...) {
		l, err := h.st.List(context.Background(), p)
		if err != nil {
			t.Fatal(err)
		}
		s = s.Apply(p, store.Batch{Rev: l.Rev, Resync: true, Puts: l.Entries})
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.picture = s
}

func partitions(nets []record.NetworkID) []string {
	var out []string
	for _, n := range nets {
		out = append(out, record.NetPartition(n))
	}
	return out
}

func check(t rapid.TB, st store.Store) {
	t.Helper()
	meta, err := st.List(context.Background(), store.Meta)
	if err != nil {
		t.Fatal(err)
	}
	view := record.Empty().Apply(store.Meta, store.Batch{Rev: meta.Rev, Puts: meta.Entries})
	nets := map[record.NetworkID]store.Snapshot{}
	for n := range view.Networks() {
		if nets[n.ID], err = st.List(context.Background(), record.NetPartition(n.ID)); err != nil {
			t.Fatal(err)
		}
	}
	for _, err := range registry.Check(meta, nets) {
		t.Error(err)
	}
}

func spec(name string, subnets ...string) registry.NetworkSpec {
	return registry.NetworkSpec{Name: name, Driver: "overlay", Subnets: subnets}
}

func create(t *testing.T, h *host, s registry.NetworkSpec) *record.Network {
	t.Helper()
	n, _, _, err := h.CreateNetwork(t.Context(), h.as, s)
	if err != nil {
		t.Fatal(err)
	}
	h.look(t, n.ID)
	return n
}

func endpoint(n *record.Network, h *host, name, addr string) *record.Endpoint {
	a := netip.MustParseAddr(addr)
	return &record.Endpoint{
		ID: record.EndpointID(registry.NewID()), Network: n.ID, Host: h.as.Host, Incarnation: h.as.Incarnation, Sandbox: record.SandboxID(registry.NewID()),
		Name: name, Addrs: []netip.Addr{a}, MAC: record.MAC(ipam.MAC(a)), Running: true,
	}
}

func TestCreateNetworkRefuses(t *testing.T) {
	h := newHost(t, memory.New(), "h1")
	if _, _, err := h.RegisterHost(t.Context(), record.Host{
		ID: "h1", Name: "alpha", VTEP: netip.MustParseAddr("192.0.2.1"), Incarnation: 1, MTU: 1500,
		Routes: []record.Route{{Prefix: netip.MustParsePrefix("10.77.0.0/16"), Link: "eth7"}},
	}); err != nil {
		t.Fatal(err)
	}
	h.look(t)
	create(t, h, spec("front", "10.1.0.0/24"))
	for name, tc := range map[string]struct {
		spec registry.NetworkSpec
		want string
		kind registry.Kind
	}{
		"taken name":          {spec("front"), "network with name front already exists", registry.Exists},
		"taken in other case": {spec("FRONT"), "network with name FRONT already exists", registry.Exists},
		"pre-defined":         {spec("host"), "already exists", registry.Exists},
		"bad name":            {spec("a/b"), "invalid network name", registry.Invalid},
		"overlap":             {spec("x", "10.1.0.128/25"), "Pool overlaps with other one on this address space: 10.1.0.128/25 overlaps 10.1.0.0/24 of network front", registry.Invalid},
		"route":               {spec("x", "10.77.3.0/24"), "10.77.0.0/16 of host alpha (interface eth7)", registry.Invalid},
		"malformed":           {spec("x", "10.1.0.0/99"), "invalid CIDR address", registry.Invalid},
		"IPv6 not asked for":  {spec("x", "fd00::/64"), "IPv6 is disabled for the new network: subnet fd00::/64 needs --ipv6", registry.Invalid},
		"IPv6, small MTU":     {registry.NetworkSpec{Name: "x", IPv6: true, Options: map[string]string{registry.OptMTU: "1279"}}, "IPv6 needs 1280", registry.Invalid},
		"encrypted":           {registry.NetworkSpec{Name: "x", Options: map[string]string{"encrypted": ""}}, "option encrypted", registry.Unsupported},
		"unknown option":      {registry.NetworkSpec{Name: "x", Options: map[string]string{"weft.bogus": "1"}}, "option weft.bogus", registry.Unsupported},
		"bad MTU":             {registry.NetworkSpec{Name: "x", Options: map[string]string{registry.OptMTU: "12"}}, "from 576", registry.Invalid},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, _, err := h.CreateNetwork(t.Context(), h.as, tc.spec)
			if err == nil || !strings.Contains(err.Error(), tc.want) || registry.KindOf(err) != tc.kind {
				t.Errorf("got %v (kind %d), want %q (kind %d)", err, registry.KindOf(err), tc.want, tc.kind)
			}
		})
	}
	h.look(t)
	n := 0
	for range h.picture.Networks() {
		n++
	}
	if n != 1 {
		t.Errorf("%d networks are there after the refusals, want 1", n)
	}
	check(t, h.st)
	insisted := spec("y", "10.77.3.0/24")
	insisted.Options = map[string]string{registry.OptRouteOverlap: "true"}
	create(t, h, insisted)
}

func TestAutomaticPoolsOverlapNoRouteOfAnyHost(t *testing.T) {
	w := memory.New()
	a, b := newHost(t, w, "a"), newHost(t, w, "b")
	for i, h := range []*host{a, b} {
		if _, _, err := h.RegisterHost(t.Context(), record.Host{
			ID: h.as.Host, Name: string(h.as.Host), VTEP: netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}), Incarnation: 1,
			Routes: []record.Route{{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i), 0}), 24), Link: "eth1"}},
		}); err != nil {
			t.Fatal(err)
		}
	}
	a.look(t)
	if n := create(t, a, spec("n")); n.Pools[0].Subnet != netip.MustParsePrefix("10.0.2.0/24") || !n.Pools[0].Auto {
		t.Errorf("got pool %v", n.Pools[0].Subnet)
	}
	// A route that appears later is reported with the pool's name.
	_, warnings, err := b.RegisterHost(t.Context(), record.Host{
		ID: "b", Name: "b", VTEP: netip.MustParseAddr("192.0.2.2"), Incarnation: 1, Routes: []record.Route{{Prefix: netip.MustParsePrefix("10.0.0.0/16"), Link: "vpn0"}},
	})
	if err != nil || len(warnings) != 1 || !strings.Contains(warnings[0], "vpn0") || !strings.Contains(warnings[0], "network n") {
		t.Errorf("warnings %q, %v", warnings, err)
	}
}

func TestAVTEPHasOneHost(t *testing.T) {
	w := memory.New()
	a, b := newHost(t, w, "a"), newHost(t, w, "b")
	rec := record.Host{ID: "a", Name: "alpha", VTEP: netip.MustParseAddr("192.0.2.1"), Incarnation: 1}
	if _, _, err := a.RegisterHost(t.Context(), rec); err != nil {
		t.Fatal(err)
	}
	rec.ID, rec.Name = "b", "beta"
	if _, _, err := b.RegisterHost(t.Context(), rec); err == nil || !strings.Contains(err.Error(), "host alpha") || registry.KindOf(err) != registry.Exists {
		t.Errorf("second host on one VTEP: %v", err)
	}
	// The first moves away; its address is free then.
	rec.ID, rec.Name, rec.VTEP = "a", "alpha", netip.MustParseAddr("192.0.2.9")
	if _, _, err := a.RegisterHost(t.Context(), rec); err != nil {
		t.Fatal(err)
	}
	rec.ID, rec.Name, rec.VTEP = "b", "beta", netip.MustParseAddr("192.0.2.1")
	if _, _, err := b.RegisterHost(t.Context(), rec); err != nil {
		t.Errorf("after the first moved: %v", err)
	}
	check(t, a.st)
}

func TestCreateEndpointRefuses(t *testing.T) {
	w := memory.New()
	a, b := newHost(t, w, "a"), newHost(t, w, "b")
	n := create(t, a, spec("net", "10.1.0.0/24"))
	b.look(t, n.ID)
	if _, err := a.CreateEndpoint(t.Context(), a.as, endpoint(n, a, "c1", "10.1.0.2")); err != nil {
		t.Fatal(err)
	}
	var addr *registry.AddrTakenError
	if _, err := b.CreateEndpoint(t.Context(), b.as, endpoint(n, b, "c2", "10.1.0.2")); !errors.As(err, &addr) || addr.Owner != "c1" || !strings.Contains(err.Error(), "Address already in use") {
		t.Errorf("taken address: %v", err)
	}
	var name *registry.NameTakenError
	if _, err := b.CreateEndpoint(t.Context(), b.as, endpoint(n, b, "C1", "10.1.0.3")); !errors.As(err, &name) || name.Owner.Name != "c1" || !strings.Contains(err.Error(), "endpoint with name C1 already exists in network net") {
		t.Errorf("taken name: %v", err)
	}
	b.as.Incarnation = 2
	fence, err := record.Encode(&record.Fence{Host: "b", Incarnation: 2, By: "a"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.st.Txn(t.Context(), store.Txn{Then: []store.Op{store.Put(record.FenceKey("b"), fence)}}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.CreateEndpoint(t.Context(), b.as, endpoint(n, b, "c3", "10.1.0.4")); registry.KindOf(err) != registry.Cleared {
		t.Errorf("a host that was cleared: %v", err)
	}
	b.as.Incarnation = 3
	if _, err := b.CreateEndpoint(t.Context(), b.as, endpoint(n, b, "c3", "10.1.0.4")); err != nil {
		t.Errorf("its next incarnation: %v", err)
	}
	check(t, a.st)
}

func TestUnknownOutcomesAreReadBack(t *testing.T) {
	for _, applied := range []bool{true, false} {
		h := newHost(t, memory.New(), "a")
		h.st.NextUnknown(applied)
		n := create(t, h, spec("net", "10.1.0.0/24"))
		ep := endpoint(n, h, "c1", "10.1.0.2")
		h.st.NextUnknown(applied)
		if _, err := h.CreateEndpoint(t.Context(), h.as, ep); err != nil {
			t.Fatalf("create, applied %v: %v", applied, err)
		}
		h.st.NextUnknown(applied)
		if _, err := h.UpdateEndpoint(t.Context(), h.as, n.ID, ep.ID, func(e *record.Endpoint) { e.Running, e.Addrs = false, nil }); err != nil {
			t.Fatalf("update, applied %v: %v", applied, err)
		}
		check(t, h.st)
		h.st.NextUnknown(applied)
		if _, err := h.DeleteEndpoint(t.Context(), h.as, n.ID, ep.ID); err != nil {
			t.Fatalf("delete, applied %v: %v", applied, err)
		}
		for range 2 {
			h.st.NextUnknown(applied)
		}
		if _, err := h.RemoveNetwork(t.Context(), h.as, n.ID); err != nil {
			t.Fatalf("remove, applied %v: %v", applied, err)
		}
		l, err := h.st.List(t.Context(), store.Meta)
		if err != nil || len(l.Entries) != 1 { // pools-gen stays
			t.Errorf("applied %v: left %v, %v", applied, l.Entries, err)
		}
	}
}

func TestRemoveNetworkInUse(t *testing.T) {
	h := newHost(t, memory.New(), "a")
	n := create(t, h, spec("net", "10.1.0.0/24"))
	ep := endpoint(n, h, "c1", "10.1.0.2")
	if _, err := h.CreateEndpoint(t.Context(), h.as, ep); err != nil {
		t.Fatal(err)
	}
	_, err := h.RemoveNetwork(t.Context(), h.as, n.ID)
	want := fmt.Sprintf("network net id %s has active endpoints: c1 on a", n.ID)
	if err == nil || err.Error() != want || registry.KindOf(err) != registry.InUse {
		t.Errorf("got %v, want %s", err, want)
	}
	if _, err := h.RemoveNetwork(t.Context(), h.as, "nope"); registry.KindOf(err) != registry.NotFound {
		t.Errorf("unknown network: %v", err)
	}
}

func TestWhatADeadDeleterLeftIsFinished(t *testing.T) {
	for name, used := range map[string]bool{"empty": false, "used": true} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, memory.New(), "a")
			n := create(t, h, spec("net", "10.1.0.0/24"))
			if used {
				if _, err := h.CreateEndpoint(t.Context(), h.as, endpoint(n, h, "c1", "10.1.0.2")); err != nil {
					t.Fatal(err)
				}
			}
			half := *n
			half.State, half.Deleter = record.Deleting, &record.Deleter{Host: "dead", Incarnation: 1}
			b, err := record.Encode(&half)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := h.st.Txn(t.Context(), store.Txn{Then: []store.Op{store.Put(record.NetworkKey(n.ID), b)}}); err != nil {
				t.Fatal(err)
			}
			if err := h.FinishRemoval(t.Context(), h.as, n.ID); err != nil {
				t.Fatal(err)
			}
			h.look(t, n.ID)
			got, ok := h.picture.Network(n.ID)
			if ok != used || used && (got.State != record.Active || got.Deleter != nil) {
				t.Errorf("the network is there: %v, %+v", ok, got)
			}
			check(t, h.st)
		})
	}
}

// Many hosts do everything at once, with outcomes that stay unknown. What was applied is replayed: the invariants hold at every revision.
func TestInvariantsUnderManyWriters(t *testing.T) {
	w := memory.New()
	var past history
	const hosts, steps = 6, 60
	var wg sync.WaitGroup
	for i := range hosts {
		h := newHost(t, w, fmt.Sprintf("h%d", i))
		h.use(recorder{Client: h.st, past: &past, as: &h.as}, string(h.as.Host))
		r := rand.New(rand.NewPCG(uint64(i), 7))
		wg.Go(func() {
			for step := range steps {
				if r.IntN(6) == 0 {
					h.st.NextUnknown(r.IntN(2) == 0)
				}
				h.step(t, r, fmt.Sprintf("h%d-%d", i, step))
			}
		})
	}
	wg.Wait()
	if n := past.replay(t); n < hosts*steps/4 {
		t.Errorf("only %d transactions were applied", n)
	}
}

// step does one random thing; refusals are part of the game, other errors are not.
func (h *host) step(t *testing.T, r *rand.Rand, name string) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var nets []*record.Network
	h.look(t)
	for n := range h.picture.Networks() {
		nets = append(nets, n)
	}
	var err error
	var n *record.Network
	if len(nets) > 0 {
		n = nets[r.IntN(len(nets))]
		h.look(t, n.ID)
	}
	switch k := r.IntN(10); {
	case n == nil || k < 2:
		s := spec(fmt.Sprintf("net%d", r.IntN(8)))
		if r.IntN(2) == 0 {
			s.Subnets = []string{fmt.Sprintf("10.%d.0.0/%d", r.IntN(4), 16+r.IntN(8))}
		}
		_, _, _, err = h.CreateNetwork(ctx, h.as, s)
	case k < 7:
		_, err = h.CreateEndpoint(ctx, h.as, endpoint(n, h, fmt.Sprintf("c%d", r.IntN(12)), fmt.Sprintf("10.0.0.%d", r.IntN(12))))
	case k < 9:
		net, _ := h.picture.Net(n.ID)
		for ep := range net.Endpoints() {
			if ep.Host == h.as.Host {
				_, err = h.DeleteEndpoint(ctx, h.as, n.ID, ep.ID)
				break
			}
		}
	default:
		_, err = h.RemoveNetwork(ctx, h.as, n.ID)
	}
	if err != nil && registry.KindOf(err) == 0 {
		t.Errorf("%s: %v", name, err)
	}
}
