package registry_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"time"

	"weft/agent/registry"
	"weft/ipam"
	"weft/store"
	"weft/store/etcd"
	"weft/store/follow"
	"weft/store/record"
	"weft/store/storetest/server"
)

// agent is a registry as an agent has it: on a real store, with the picture that its watches give it.
type agent struct {
	*registry.Registry
	st store.Store
	f  *follow.Follower
	as registry.Actor
}

func agents(t *testing.T, n int) []*agent {
	t.Helper()
	c, err := server.Start(t.Context(), server.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Stop() })
	var out []*agent
	for i := range n {
		s, err := etcd.New(etcd.Config{Endpoints: c.Endpoints(), Prefix: "p"})
		if err != nil {
			t.Fatal(err)
		}
		f := follow.New(follow.Config{Store: s, Log: slog.New(slog.DiscardHandler)})
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		wg.Go(func() { f.Run(ctx) })
		t.Cleanup(func() { cancel(); wg.Wait(); _ = s.Close() })
		a := &agent{st: s, f: f, as: registry.Actor{Host: record.HostID(fmt.Sprintf("h%d", i)), Incarnation: 1}}
		a.Registry = registry.New(registry.Config{Store: s, Now: time.Now, Picture: f.Picture})
		out = append(out, a)
	}
	return out
}

// each lets all agents do the same at once.
func each(as []*agent, do func(i int, a *agent)) {
	var wg sync.WaitGroup
	for i, a := range as {
		wg.Go(func() { do(i, a) })
	}
	wg.Wait()
}

func TestManyWritersRaceOnRealEtcd(t *testing.T) {
	as := agents(t, 6)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var mu sync.Mutex
	won := map[string]int{}
	count := func(what string, err error) {
		mu.Lock()
		defer mu.Unlock()
		if err == nil {
			won[what]++
		} else if registry.KindOf(err) == 0 {
			t.Errorf("%s: %v", what, err)
		}
	}
	each(as, func(i int, a *agent) {
		_, _, err := a.RegisterHost(ctx, record.Host{ID: a.as.Host, Name: string(a.as.Host), VTEP: netip.AddrFrom4([4]byte{192, 0, 2, byte(1 + i/2)}), Incarnation: 1})
		count(fmt.Sprintf("vtep %d", 1+i/2), err)
		_, _, _, err = a.CreateNetwork(ctx, a.as, spec("Shared"))
		count("name", err)
		_, _, _, err = a.CreateNetwork(ctx, a.as, spec(fmt.Sprintf("sub%d", i), fmt.Sprintf("10.200.0.0/%d", 16+i)))
		count("pool", err)
		for k := range 3 {
			_, _, _, err = a.CreateNetwork(ctx, a.as, spec(fmt.Sprintf("auto%d-%d", i, k)))
			count("automatic", err)
		}
	})
	for what, want := range map[string]int{"vtep 1": 1, "vtep 2": 1, "vtep 3": 1, "name": 1, "pool": 1, "automatic": 18} {
		if won[what] != want {
			t.Errorf("%s: %d won, want %d", what, won[what], want)
		}
	}
	check(t, as[0].st)
	attachAll(ctx, t, as)
	check(t, as[0].st)
	clearAll(ctx, t, as)
}

// attachAll lets every agent attach to one network, each with the lowest address that it believes to be free.
func attachAll(ctx context.Context, t *testing.T, as []*agent) {
	const per = 8
	n := byName(ctx, t, as[0], "Shared")
	each(as, func(i int, a *agent) {
		a.f.Follow(n.ID)
		if err := a.f.WaitSynced(ctx, record.NetPartition(n.ID)); err != nil {
			t.Error(err)
			return
		}
		pools := []ipam.Pool{{Subnet: n.Pools[0].Subnet, Gateway: n.Pools[0].Gateway}}
		for k := range per {
			for lost := false; ; lost = true {
				view, _ := a.f.Picture().Net(n.ID)
				addr, err := ipam.Choose(pools, view.Taken, func(netip.Addr) bool { return false })
				if lost {
					addr, err = ipam.ChooseNear(pools, view.Taken, rand.IntN)
				}
				if err != nil {
					t.Error(err)
					return
				}
				ep := &record.Endpoint{
					ID: record.EndpointID(registry.NewID()), Network: n.ID, Host: a.as.Host, Incarnation: 1, Name: fmt.Sprintf("c%d-%d", i, k), Addrs: []netip.Addr{addr},
				}
				var taken *registry.AddrTakenError
				_, err = a.CreateEndpoint(ctx, a.as, ep)
				if errors.As(err, &taken) {
					continue
				}
				if err != nil {
					t.Error(err)
				}
				break
			}
		}
	})
	l, err := as[0].st.List(ctx, record.NetPartition(n.ID))
	if err != nil || len(l.Entries) != 3*per*len(as) {
		t.Errorf("%d keys, want a record, an address and a name for each of %d endpoints; %v", len(l.Entries), per*len(as), err)
	}
}

func byName(ctx context.Context, t *testing.T, a *agent, name string) *record.Network {
	t.Helper()
	e, err := a.st.Get(ctx, record.NetworkNameKey(name))
	if err == nil {
		err = a.f.WaitRev(ctx, store.Meta, e.Rev)
	}
	if err != nil {
		t.Fatal(err)
	}
	n, ok := a.f.Picture().NetworkByName(name)
	if !ok {
		t.Fatalf("no network %s", name)
	}
	return n
}

// clearAll deletes everything, all agents at once, while some still attach. Nothing is left then: nothing has leaked.
func clearAll(ctx context.Context, t *testing.T, as []*agent) {
	var nets []*record.Network
	for n := range as[0].f.Picture().Networks() {
		nets = append(nets, n)
	}
	each(as, func(i int, a *agent) {
		if i == 0 { // slips into whatever is about to go
			for k, n := range nets {
				_, _ = a.CreateEndpoint(ctx, a.as, &record.Endpoint{
					ID: record.EndpointID(registry.NewID()), Network: n.ID, Host: a.as.Host, Name: fmt.Sprintf("late%d", k), Addrs: []netip.Addr{n.Pools[0].Gateway.Next()},
				})
			}
			return
		}
		for _, n := range nets {
			_, _ = a.RemoveNetwork(ctx, a.as, n.ID) // refused while it is used
		}
	})
	check(t, as[0].st)
	for _, n := range nets {
		l, err := as[0].st.List(ctx, record.NetPartition(n.ID))
		if err != nil {
			t.Fatal(err)
		}
		view, _ := record.Empty().Apply(record.NetPartition(n.ID), store.Batch{Rev: l.Rev, Puts: l.Entries}).Net(n.ID)
		for ep := range view.Endpoints() {
			if _, err := as[1].DeleteEndpoint(ctx, as[1].as, n.ID, ep.ID); err != nil {
				t.Error(err)
			}
		}
		if _, err := as[1].RemoveNetwork(ctx, as[1].as, n.ID); err != nil && registry.KindOf(err) != registry.NotFound {
			t.Error(err)
		}
		if l, err = as[0].st.List(ctx, record.NetPartition(n.ID)); err != nil || len(l.Entries) != 0 {
			t.Errorf("network %s left %d keys, %v", n.Name, len(l.Entries), err)
		}
	}
	l, err := as[0].st.List(ctx, store.Meta)
	if err != nil || len(l.Entries) != 7 { // three hosts that got their VTEP, these, and pools-gen
		t.Errorf("left %v, %v", l.Entries, err)
	}
}
