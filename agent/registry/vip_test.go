package registry_test

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"weft/agent/registry"
	"weft/store"
	"weft/store/memory"
	"weft/store/record"
)

// twoHosts are two agents of one cluster with a network that both have a picture of.
func twoHosts(t *testing.T, subnets ...string) (a, b *host, n *record.Network) {
	t.Helper()
	w := memory.New()
	a, b = newHost(t, w, "h1"), newHost(t, w, "h2")
	n = create(t, a, spec("front", subnets...))
	b.look(t, n.ID)
	return a, b, n
}

func member(n *record.Network, h *host, name, addr string, aliases ...string) *record.Endpoint {
	ep := endpoint(n, h, name, addr)
	ep.VIPAliases = aliases
	return ep
}

func (h *host) join(t *testing.T, ep *record.Endpoint) {
	t.Helper()
	if _, err := h.CreateEndpoint(t.Context(), h.as, ep); err != nil {
		t.Fatalf("%s: %v", ep.Name, err)
	}
}

func (h *host) release(t *testing.T, ep *record.Endpoint) {
	t.Helper()
	if _, err := h.DeleteEndpoint(t.Context(), h.as, ep.Network, ep.ID); err != nil {
		t.Fatalf("%s: %v", ep.Name, err)
	}
}

// vips returns the virtual addresses that the store has, by alias, and checks it.
func vips(t *testing.T, st store.Store, n record.NetworkID) map[string][]netip.Addr {
	t.Helper()
	check(t, st)
	l, err := st.List(context.Background(), record.NetPartition(n))
	if err != nil {
		t.Fatal(err)
	}
	net, _ := record.Empty().Apply(record.NetPartition(n), store.Batch{Rev: l.Rev, Puts: l.Entries}).Net(n)
	out := map[string][]netip.Addr{}
	for v := range net.AllVIPs() {
		out[v.Alias] = v.Addrs
	}
	claims := 0
	for _, e := range l.Entries {
		if _, virtual := record.VIPOf(record.EndpointID(e.Value)); virtual && strings.HasPrefix(e.Key.Name, "addr/") {
			claims++
		}
	}
	for _, addrs := range out {
		claims -= len(addrs)
	}
	if claims != 0 {
		t.Errorf("%d more claims of virtual addresses than there are such addresses", claims)
	}
	return out
}

func TestAVirtualAddressLivesFromItsFirstMemberToItsLast(t *testing.T) {
	t.Parallel()
	// Given two hosts whose pictures are as old as the network
	a, b, n := twoHosts(t, "10.0.0.0/24")

	// When each makes an endpoint with the same alias, in another case
	one, two := member(n, a, "api1", "10.0.0.2", "api"), member(n, b, "api2", "10.0.0.3", "API")
	a.join(t, one)
	first := vips(t, a.st, n.ID)
	b.join(t, two)

	// Then there is one address, which the second has not changed
	if both := vips(t, a.st, n.ID); len(both) != 1 || len(both["api"]) != 1 || both["api"][0] != first["api"][0] {
		t.Fatalf("virtual addresses %v, then %v", first, both)
	}
	if want := netip.MustParseAddr("10.0.0.254"); first["api"][0] != want {
		t.Errorf("address %s, want the end of the pool: %s", first["api"][0], want)
	}
	// And nobody else can have it
	_, err := a.CreateEndpoint(t.Context(), a.as, endpoint(n, a, "thief", "10.0.0.254"))
	if err == nil || !strings.Contains(err.Error(), "Address already in use") || !strings.Contains(err.Error(), "alias api") {
		t.Errorf("its address was given away, or the refusal does not say whose it is: %v", err)
	}

	// When one goes it stays, and with the last it is gone, though each host's picture shows the other's member
	a.look(t, n.ID)
	b.look(t, n.ID)
	a.release(t, one)
	if left := vips(t, a.st, n.ID); len(left) != 1 {
		t.Errorf("with one member left: %v", left)
	}
	b.release(t, two)
	if left := vips(t, a.st, n.ID); len(left) != 0 {
		t.Errorf("without a member: %v", left)
	}
}

func TestOneThatComesWhileTheLastGoesFindsOrMakesTheAddress(t *testing.T) {
	t.Parallel()
	a, b, n := twoHosts(t, "10.0.0.0/24")
	one := member(n, a, "api1", "10.0.0.2", "api")
	a.join(t, one)
	a.look(t, n.ID)
	b.look(t, n.ID) // it has members, as b sees it
	a.release(t, one)
	two := member(n, b, "api2", "10.0.0.3", "api")
	b.join(t, two)
	if got := vips(t, a.st, n.ID); len(got) != 1 {
		t.Errorf("virtual addresses %v", got)
	}
	a.look(t, n.ID)
	three := member(n, a, "api3", "10.0.0.4", "api")
	a.join(t, three) // a's picture knows two; it goes, and then the last
	b.release(t, two)
	if got := vips(t, a.st, n.ID); len(got) != 1 {
		t.Errorf("virtual addresses %v", got)
	}
	a.release(t, three)
	if got := vips(t, a.st, n.ID); len(got) != 0 {
		t.Errorf("virtual addresses %v", got)
	}
}

func TestTwoAliasesDoNotGetOneAddress(t *testing.T) {
	t.Parallel()
	a, b, n := twoHosts(t, "10.0.0.0/24")
	a.join(t, member(n, a, "c1", "10.0.0.2", "x"))
	b.join(t, member(n, b, "c2", "10.0.0.3", "y")) // its picture has x's address as free
	got := vips(t, a.st, n.ID)
	if len(got) != 2 || got["x"][0] == got["y"][0] {
		t.Errorf("virtual addresses %v", got)
	}
}

func TestMoreAliasesThanATransactionHasRoomFor(t *testing.T) {
	t.Parallel()
	// Given an endpoint with twenty aliases
	a, _, n := twoHosts(t, "10.0.0.0/24")
	var aliases []string
	for i := range 20 {
		aliases = append(aliases, fmt.Sprintf("a%d", i))
	}
	ep := member(n, a, "many", "10.0.0.2", aliases...)
	ep.Aliases = append([]string{"plain"}, aliases...)
	// When it is made, all have an address, and its record is whole
	a.join(t, ep)
	if got := vips(t, a.st, n.ID); len(got) != len(aliases) {
		t.Errorf("%d virtual addresses, want %d", len(got), len(aliases))
	}
	a.look(t, n.ID)
	net, _ := a.picture.Net(n.ID)
	if now, _ := net.Endpoint(ep.ID); len(now.VIPAliases) != 20 || len(now.Aliases) != 21 {
		t.Errorf("the record has %d and %d aliases", len(now.VIPAliases), len(now.Aliases))
	}
	// When it is changed to half of them and some new ones, those that are not wanted go
	next := append([]string{"new"}, aliases[10:]...)
	if _, err := a.UpdateEndpoint(t.Context(), a.as, n.ID, ep.ID, func(e *record.Endpoint) { e.VIPAliases, e.Aliases = next, next }); err != nil {
		t.Fatal(err)
	}
	got := vips(t, a.st, n.ID)
	if _, there := got["new"]; len(got) != 11 || !there {
		t.Errorf("virtual addresses %v", got)
	}
	// When it goes, all go
	a.release(t, ep)
	if got := vips(t, a.st, n.ID); len(got) != 0 {
		t.Errorf("virtual addresses %v are left", got)
	}
}

func TestManyMembersAtOnce(t *testing.T) {
	t.Parallel()
	a, b, n := twoHosts(t, "10.0.0.0/24")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for i := range 24 {
		h := []*host{a, b}[i%2]
		ep := member(n, h, fmt.Sprintf("c%d", i), fmt.Sprintf("10.0.0.%d", 2+i), "api")
		wg.Go(func() {
			if _, err := h.CreateEndpoint(ctx, h.as, ep); err != nil {
				t.Error(err)
			}
			if i%3 == 0 {
				return
			}
			if _, err := h.DeleteEndpoint(ctx, h.as, n.ID, ep.ID); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := vips(t, a.st, n.ID); len(got) != 1 {
		t.Errorf("virtual addresses %v", got)
	}
}

func TestAnOutcomeThatStaysUnknownLeaksNoVirtualAddress(t *testing.T) {
	t.Parallel()
	for _, applied := range []bool{true, false} {
		a, _, n := twoHosts(t, "10.0.0.0/24")
		ep := member(n, a, "c1", "10.0.0.2", "x", "y", "z", "u", "v", "w")
		a.st.NextUnknown(applied)
		a.join(t, ep)
		if got := vips(t, a.st, n.ID); len(got) != 6 {
			t.Errorf("applied %v: virtual addresses %v", applied, got)
		}
		a.st.NextUnknown(applied)
		a.release(t, ep)
		if got := vips(t, a.st, n.ID); len(got) != 0 {
			t.Errorf("applied %v: virtual addresses %v are left", applied, got)
		}
	}
}

func TestNoAddressIsLeftForAnAlias(t *testing.T) {
	t.Parallel()
	a, _, n := twoHosts(t, "10.0.0.0/30")
	ep := member(n, a, "c1", "10.0.0.2", "x")
	_, err := a.CreateEndpoint(t.Context(), a.as, ep)
	// The endpoint's own address is claimed in the same transaction: it is the last one.
	if err == nil || registry.KindOf(err) == 0 {
		t.Errorf("error %v", err)
	}
	if got := vips(t, a.st, n.ID); len(got) != 0 {
		t.Errorf("virtual addresses %v", got)
	}
}

// Those who lose a race for an address do not all chase the next one.
func TestLosersOfARaceForAVirtualAddressSpread(t *testing.T) {
	t.Parallel()
	w := memory.New()
	a, b := newHost(t, w, "h1"), newHost(t, w, "h2")
	n := create(t, a, spec("front", "10.0.0.0/24"))
	b.look(t, n.ID) // the alias that comes now is not in its picture
	a.join(t, member(n, a, "c1", "10.0.0.2", "x"))
	b.random(func(most int) int { return most - 1 })
	b.join(t, member(n, b, "c2", "10.0.0.3", "y"))
	if got := vips(t, a.st, n.ID); got["x"][0].String() != "10.0.0.254" || got["y"][0].String() != "10.0.0.238" {
		t.Errorf("virtual addresses %v", got)
	}
}

// random has the host's registry draw its lots by f.
func (h *host) random(f func(int) int) {
	h.Registry = registry.New(registry.Config{Store: h.st, Now: time.Now, Random: f, Picture: func() *record.Snapshot {
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.picture
	}})
}

// A virtual address whose record cannot be read keeps nobody from leaving, takes no new member, and goes with its last one.
func TestAVirtualAddressThatCannotBeReadGoesWithItsLastMember(t *testing.T) {
	a, b, n := twoHosts(t, "10.1.0.0/24")
	first, second := member(n, a, "c1", "10.1.0.2", "web"), member(n, b, "c2", "10.1.0.3", "web")
	a.join(t, first)
	b.look(t, n.ID)
	b.join(t, second)
	if _, err := a.st.Txn(t.Context(), store.Txn{Then: []store.Op{store.Put(record.VIPKey(n.ID, "web"), []byte("{"))}}); err != nil {
		t.Fatal(err)
	}
	a.look(t, n.ID)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if _, err := a.CreateEndpoint(ctx, a.as, member(n, a, "c3", "10.1.0.4", "web")); registry.KindOf(err) != registry.InUse || !strings.Contains(err.Error(), "cannot be read") {
		t.Errorf("a new member: %v", err)
	}
	for _, h := range []struct {
		*host
		ep *record.Endpoint
	}{{a, first}, {b, second}} {
		if _, err := h.DeleteEndpoint(ctx, h.as, n.ID, h.ep.ID); err != nil {
			t.Fatalf("%s leaves: %v", h.ep.Name, err)
		}
	}
	if l, err := a.st.List(t.Context(), record.NetPartition(n.ID)); err != nil || len(l.Entries) > 0 {
		t.Errorf("left are %v, %v", l.Entries, err)
	}
}
