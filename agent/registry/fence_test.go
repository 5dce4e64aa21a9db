package registry_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"weft/agent/registry"
	"weft/store"
	"weft/store/memory"
	"weft/store/record"
)

// errKilled is what an agent that is dead gets.
var errKilled = errors.New("killed")

// mortal is a store whose user dies at its n-th transaction: before it is applied, or after.
type mortal struct {
	store.Store

	mu    sync.Mutex // guards left
	left  int
	after bool
}

func (m *mortal) Txn(ctx context.Context, t store.Txn) (store.Rev, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.left--
	if m.left < 0 || m.left == 0 && !m.after {
		return 0, errKilled
	}
	rev, err := m.Store.Txn(ctx, t)
	if m.left == 0 {
		return 0, errKilled
	}
	return rev, err
}

// deadHost fills a store with what a host leaves behind: endpoints in two networks, one with aliases of virtual addresses, one of a stopped sandbox, and
// a word for it. It returns the networks.
func deadHost(t *testing.T, dead, other *host) []record.NetworkID {
	t.Helper()
	for i, h := range []*host{dead, other} {
		_, _, err := h.RegisterHost(t.Context(), record.Host{ID: h.as.Host, Name: "name of " + string(h.as.Host), VTEP: netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}), Incarnation: 1, PublicKey: "key"})
		if err != nil {
			t.Fatal(err)
		}
	}
	web, back := create(t, dead, spec("web", "10.1.0.0/24")), create(t, dead, spec("back", "10.2.0.0/24"))
	for i, n := range []*record.Network{web, web, back} {
		ep := endpoint(n, dead, fmt.Sprintf("c%d", i), fmt.Sprintf("10.%d.0.%d", 1+i/2, 4+i))
		ep.Running = i > 0
		if i == 1 {
			for k := range 9 { // more than one transaction deletes
				ep.Aliases = append(ep.Aliases, fmt.Sprintf("alias%d", k))
			}
			ep.VIPAliases = ep.Aliases
		}
		dead.look(t, n.ID)
		if _, err := dead.CreateEndpoint(t.Context(), dead.as, ep); err != nil {
			t.Fatal(err)
		}
	}
	other.look(t, web.ID, back.ID)
	if _, err := other.CreateEndpoint(t.Context(), other.as, endpoint(web, other, "stays", "10.1.0.99")); err != nil {
		t.Fatal(err)
	}
	gone := endpoint(web, dead, "told", "10.1.0.50")
	if _, err := dead.CreateEndpoint(t.Context(), dead.as, gone); err != nil {
		t.Fatal(err)
	}
	if _, _, err := other.ClearEndpoint(t.Context(), other.as, web.ID, gone.ID, registry.Clearing{Live: false, Word: true}); err != nil {
		t.Fatal(err)
	}
	return []record.NetworkID{web.ID, back.ID}
}

// clearHost fences a host and clears it, as an agent does, and returns the names that it cleared.
func clearHost(ctx context.Context, h *host, id record.HostID, how registry.Fencing) ([]string, error) {
	f, err := h.FenceHost(ctx, h.as, id, how)
	if err != nil || f == nil {
		return nil, err
	}
	var names []string
	err = h.ClearHost(ctx, h.as, f, func(ep *record.Endpoint) { names = append(names, ep.Name) })
	return names, err
}

// isCleared checks that nothing is left of a host but its fence and, unless it was removed, its record.
func isCleared(t *testing.T, h *host, nets []record.NetworkID, id record.HostID, removed bool) {
	t.Helper()
	h.look(t, nets...)
	for _, n := range nets {
		net, _ := h.picture.Net(n)
		for ep := range net.Endpoints() {
			if ep.Host == id {
				t.Errorf("endpoint %s is left", ep.Name)
			}
		}
	}
	f, _ := h.picture.Fence(id)
	if f == nil || f.Incarnation != 1 || f.Clearing || f.Removing {
		t.Errorf("the fence is %+v, want one at 1 that is done", f)
	}
	if words := h.picture.ClearedOf(id); (len(words) == 0) != removed {
		t.Errorf("%d words are left; removed: %v", len(words), removed)
	}
	_, listed := h.picture.Host(id)
	if _, claimed := h.picture.VTEPOwner(netip.MustParseAddr("192.0.2.1")); listed == removed || claimed == removed {
		t.Errorf("it is listed: %v, its VTEP is claimed: %v; removed: %v", listed, claimed, removed)
	}
	check(t, h.st)
}

// Wherever an agent that clears a host dies, another one ends it: each endpoint goes once, and what is others' stays.
func TestAnyAgentEndsAClearingThatAnotherBegan(t *testing.T) {
	t.Parallel()
	for _, remove := range []bool{false, true} {
		for _, after := range []bool{false, true} {
			for n := 1; ; n++ {
				w := memory.New()
				dead, first, second := newHost(t, w, "dead"), newHost(t, w, "first"), newHost(t, w, "second")
				nets := deadHost(t, dead, second)
				m := &mortal{Store: first.st, left: n, after: after}
				first.use(m, "first")
				first.look(t, nets...)
				second.look(t, nets...)
				how := registry.Fencing{Remove: remove, Busy: func(id record.HostID) bool { return id != "first" }}

				names, err := clearHost(t.Context(), first, "dead", how)

				if err == nil && m.left > 0 {
					if n < 6 {
						t.Fatalf("it took %d transactions only", n-1)
					}
					isCleared(t, second, nets, "dead", remove)
					break // it was done before it could die
				}
				again, err := clearHost(t.Context(), second, "dead", how)
				if err != nil {
					t.Fatalf("died at transaction %d: %v", n, err)
				}
				for _, name := range again {
					if slices.Contains(names, name) {
						t.Errorf("died at transaction %d: both have cleared %s", n, name)
					}
				}
				if total := len(names) + len(again); total > 3 || total < 2 { // one that died right after a transaction could not tell
					t.Errorf("died at transaction %d: %v and %v were cleared", n, names, again)
				}
				isCleared(t, second, nets, "dead", remove)
				if t.Failed() {
					return
				}
			}
		}
	}
}

func TestOneAgentClearsAHost(t *testing.T) {
	t.Parallel()
	w := memory.New()
	dead := newHost(t, w, "dead")
	hosts := []*host{newHost(t, w, "a"), newHost(t, w, "b"), newHost(t, w, "c"), newHost(t, w, "d")}
	nets := deadHost(t, dead, hosts[0])
	for _, h := range hosts {
		h.look(t, nets...)
	}
	var mu sync.Mutex
	cleared := map[record.HostID][]string{}
	var all sync.WaitGroup
	for _, h := range hosts {
		all.Go(func() {
			names, err := clearHost(t.Context(), h, "dead", registry.Fencing{Busy: func(record.HostID) bool { return true }})
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Error(err)
			}
			if len(names) > 0 {
				cleared[h.as.Host] = names
			}
		})
	}
	all.Wait()
	if len(cleared) != 1 {
		t.Errorf("%v have cleared it, want one", cleared)
	}
	for by, names := range cleared {
		if slices.Sort(names); !slices.Equal(names, []string{"c0", "c1", "c2"}) {
			t.Errorf("%s has cleared %v", by, names)
		}
	}
	isCleared(t, hosts[1], nets, "dead", false)
}

func TestWhichHostIsFenced(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		alive   bool
		how     registry.Fencing
		refused registry.Kind
	}{
		{"one that is gone", false, registry.Fencing{}, 0},
		{"one that is alive", true, registry.Fencing{}, registry.InUse},
		{"one that is alive, by force", true, registry.Fencing{Live: true}, 0},
		{"one that is gone, for good", false, registry.Fencing{Remove: true}, 0},
		{"one that is alive, for good", true, registry.Fencing{Remove: true}, registry.InUse},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := memory.New()
			dead, other := newHost(t, w, "dead"), newHost(t, w, "other")
			nets := deadHost(t, dead, other)
			if c.alive {
				live(t, dead)
			}
			_, err := clearHost(t.Context(), other, "dead", c.how)
			if c.refused != 0 {
				if registry.KindOf(err) != c.refused {
					t.Errorf("got %v, want a refusal", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			isCleared(t, other, nets, "dead", c.how.Remove)
			names, err := clearHost(t.Context(), other, "dead", c.how)
			if err != nil || len(names) > 0 {
				t.Errorf("a second time: %v, %v", names, err)
			}
			// What the host would still write is refused, and it comes back in another incarnation.
			n, _ := other.picture.Network(nets[0])
			dead.look(t, nets...)
			if _, err := dead.CreateEndpoint(t.Context(), dead.as, endpoint(n, dead, "late", "10.1.0.77")); registry.KindOf(err) != registry.Cleared {
				t.Errorf("the host writes on: %v", err)
			}
			dead.as.Incarnation = 2
			_, warnings, err := dead.RegisterHost(t.Context(), record.Host{ID: "dead", Name: "name of dead", VTEP: netip.MustParseAddr("192.0.2.1"), Incarnation: 2, PublicKey: "key"})
			if err != nil || (len(warnings) > 0) != c.how.Remove {
				t.Errorf("it registers again: %v, %v", warnings, err)
			}
			dead.look(t, nets...)
			if h, _ := dead.picture.Host("dead"); (h.PublicKey == "") != c.how.Remove {
				t.Errorf("its key is %q; it was removed: %v", h.PublicKey, c.how.Remove)
			}
			if _, err := dead.CreateEndpoint(t.Context(), dead.as, endpoint(n, dead, "back", "10.1.0.77")); err != nil {
				t.Error(err)
			}
			if _, err := clearHost(t.Context(), dead, "dead", c.how); registry.KindOf(err) != registry.InUse {
				t.Errorf("a host that clears itself: %v", err)
			}
		})
	}
}

// A loss that has ended between the decision and the fence is none.
func TestAHostThatIsBackIsNotFenced(t *testing.T) {
	t.Parallel()
	w := memory.New()
	dead, other := newHost(t, w, "dead"), newHost(t, w, "other")
	nets := deadHost(t, dead, other)
	names, err := clearHost(t.Context(), other, "dead", registry.Fencing{Still: func() bool { return false }})
	other.look(t, nets...)
	if f, _ := other.picture.Fence("dead"); err != nil || len(names) > 0 || f != nil {
		t.Errorf("got %v, %v, and the fence %+v; want nothing", names, err, f)
	}
}

// A host that comes back while it is cleared, and takes its endpoints again, keeps those.
func TestWhatAHostHasTakenAgainIsNotCleared(t *testing.T) {
	t.Parallel()
	w := memory.New()
	dead, other := newHost(t, w, "dead"), newHost(t, w, "other")
	nets := deadHost(t, dead, other)
	f, err := other.FenceHost(t.Context(), other.as, "dead", registry.Fencing{})
	if err != nil {
		t.Fatal(err)
	}
	dead.look(t, nets...)
	dead.as.Incarnation = 2
	net, _ := dead.picture.Net(nets[0])
	ep, _ := net.ByName("c0")
	if _, err := dead.UpdateEndpoint(t.Context(), dead.as, nets[0], ep.ID, func(r *record.Endpoint) { r.Incarnation = 2 }); err != nil {
		t.Fatal(err)
	}
	var names []string
	if err := other.ClearHost(t.Context(), other.as, f, func(ep *record.Endpoint) { names = append(names, ep.Name) }); err != nil {
		t.Fatal(err)
	}
	if slices.Sort(names); !slices.Equal(names, []string{"c1", "c2"}) {
		t.Errorf("cleared %v, want c1 and c2", names)
	}
	check(t, other.st)
}

// The same on a real etcd, with an agent that dies now and then.
func TestClearingOnRealEtcd(t *testing.T) {
	t.Parallel()
	as := agents(t, 4)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	dead := as[0]
	if _, _, err := dead.RegisterHost(ctx, record.Host{ID: dead.as.Host, Name: "dead", VTEP: netip.MustParseAddr("192.0.2.1"), Incarnation: 1}); err != nil {
		t.Fatal(err)
	}
	n, _, _, err := dead.CreateNetwork(ctx, dead.as, spec("web", "10.1.0.0/24"))
	if err != nil {
		t.Fatal(err)
	}
	const all = 20
	for i := range all {
		ep := endpoint(n, &host{as: dead.as}, fmt.Sprintf("c%d", i), fmt.Sprintf("10.1.0.%d", 10+i))
		if _, err := dead.CreateEndpoint(ctx, dead.as, ep); err != nil {
			t.Fatal(err)
		}
	}
	var mu sync.Mutex
	cleared := map[string]int{}
	each(as[1:], func(i int, a *agent) {
		r := registry.New(registry.Config{Store: &mortal{Store: a.st, left: 4 + i, after: i%2 == 0}, Now: time.Now, Picture: a.f.Picture})
		for range 50 { // its agent is started again each time
			f, err := r.FenceHost(ctx, a.as, dead.as.Host, registry.Fencing{})
			if err == nil && f == nil {
				return
			}
			if err == nil {
				err = r.ClearHost(ctx, a.as, f, func(ep *record.Endpoint) {
					mu.Lock()
					defer mu.Unlock()
					cleared[ep.Name]++
				})
			}
			if err != nil && !errors.Is(err, errKilled) {
				t.Error(err)
			}
			r = registry.New(registry.Config{Store: &mortal{Store: a.st, left: 5 + i, after: i%2 == 0}, Now: time.Now, Picture: a.f.Picture})
		}
		t.Error("it comes to no end")
	})
	for name, times := range cleared {
		if times > 1 {
			t.Errorf("%s was cleared %d times", name, times)
		}
	}
	l, err := as[1].st.List(ctx, record.NetPartition(n.ID))
	if err != nil || len(l.Entries) > 0 {
		t.Errorf("%d keys are left, %v", len(l.Entries), err)
	}
	check(t, as[1].st)
}
