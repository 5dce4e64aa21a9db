package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"weft/agent/journal"
	"weft/agent/registry"
	"weft/kernel"
	"weft/kernel/fake"
	"weft/overlay"
	"weft/store"
	"weft/store/follow"
	"weft/store/memory"
	"weft/store/record"
)

const home record.NetworkID = "403e"

func localNetwork(id record.NetworkID, subnet string) *record.Network {
	p := netip.MustParsePrefix(subnet)
	return &record.Network{
		ID: id, Name: "net-" + string(id), Driver: "bridge", Scope: "local", MTU: 1500, State: record.Active,
		Pools: []record.Pool{{Subnet: p, Gateway: p.Addr().Next()}},
	}
}

// keep writes a network of this host, or takes it away.
func (s *site) keep(n *record.Network, there bool) {
	s.t.Helper()
	ops := []store.Op{store.Del(record.NetworkKey(n.ID)), store.Del(record.NetworkNameKey(n.Name))}
	if there {
		b, err := record.Encode(n)
		if err != nil {
			s.t.Fatal(err)
		}
		ops = []store.Op{store.Put(record.NetworkKey(n.ID), b), store.Put(record.NetworkNameKey(n.Name), []byte(n.ID))}
		s.own.Follow(n.ID)
	}
	if _, err := s.disk.Txn(s.t.Context(), store.Txn{Then: ops}); err != nil {
		s.t.Fatal(err)
	}
}

// bridges are the bridges in the host's own namespace.
func (s *site) bridges() []string {
	s.t.Helper()
	have, err := s.kernel.Read(s.t.Context(), []string{kernel.HostNS})
	if err != nil {
		s.t.Fatal(err)
	}
	var out []string
	for k := range have {
		if k.Kind == kernel.KindBridge {
			out = append(out, k.Link)
		}
	}
	slices.Sort(out)
	return out
}

// A local network has its bridge from its creation to its removal, with sandboxes and without; a dirty mark of either scope is looked at by the one
// loop, and what a second life finds right it leaves alone.
func TestTheKernelFollowsLocalNetworks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, k := memory.New(), fake.New(testDir)
		s := newSite(t, w, k)
		defer s.stop()
		s.write(hosts()...)
		pass(time.Second)
		n := localNetwork(home, "172.18.0.0/16")
		s.keep(n, true)
		conf := localNetwork("c04f", "172.19.0.0/16")
		conf.ConfigOnly = true
		s.keep(conf, true)
		pass(time.Millisecond)
		s.holds("a network without sandboxes")
		if got := s.bridges(); !slices.Equal(got, []string{n.Bridge()}) {
			t.Errorf("the bridges are %v", got)
		}

		s.write(network(front, "10.1.0.0/24"))
		pass(time.Millisecond) // an attach finds its network in the picture
		a := box("a", in(home, "e1", "172.18.0.2"), in(front, "e2", "10.1.0.2"))
		s.set(a)
		for _, at := range a.Attachments {
			if err := s.do(t.Context(), at.Network, at.Endpoint); err != nil {
				t.Fatal(err)
			}
		}
		s.holds("a sandbox in networks of both scopes")
		s.write(remote(front, "e8", "10.1.0.8"))
		s.keep(localNetwork("b0b0", "172.20.0.0/16"), true)
		pass(time.Millisecond)
		s.holds("a change in both scopes at once")

		s.set()
		for _, id := range []record.NetworkID{home, front} {
			if err := s.do(t.Context(), id, ""); err != nil {
				t.Fatal(err)
			}
		}
		pass(time.Second)
		s.holds("the sandbox has left")
		k.Log()
		pass(3 * resyncEvery)
		if log := k.Log(); len(log) > 0 {
			t.Errorf("nothing was to be done, and this was: %v", log)
		}
		s.keep(n, false)
		pass(time.Second)
		s.holds("the network is gone")
		if got := s.bridges(); !slices.Equal(got, []string{"br-b0b0"}) {
			t.Errorf("the bridges are %v", got)
		}
	})
}

// As long as it is not known what the cluster's networks should be, this host's own are served and nothing else is touched.
func TestLocalNetworksWaitForNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, k := memory.New(), fake.New(testDir)
		a := box("a", in(front, "e1", "10.1.0.2"))
		first := newSite(t, w, k, a)
		first.write(hosts()...)
		first.write(network(front, "10.1.0.0/24"))
		pass(time.Minute)
		first.stop()
		k.Log()

		s := newSite(t, memory.New(), k, a) // a store that tells nothing
		defer s.stop()
		n := localNetwork(home, "172.18.0.0/16")
		s.keep(n, true)
		waiting := make(chan error, 1)
		go func() { waiting <- s.do(t.Context(), front, "e1") }()
		b := box("b", in(home, "e2", "172.18.0.2"))
		s.set(a, b)
		if err := s.do(t.Context(), home, "e2"); err != nil {
			t.Fatal(err)
		}
		if got := s.bridges(); !slices.Equal(got, []string{n.Bridge()}) {
			t.Errorf("the bridges are %v", got)
		}
		s.set(a)
		s.keep(n, false)
		if err := s.do(t.Context(), home, ""); err != nil {
			t.Fatal(err)
		}
		pass(time.Second)
		if got := s.bridges(); len(got) > 0 {
			t.Errorf("the bridges are %v", got)
		}
		for _, o := range k.Log() {
			if o.Obj.NS == overlay.NetnsPath(s.settings(), front) || o.Obj.NS == "/ns/5ba" || o.Verb == kernel.Del && o.Obj.Kind == kernel.KindTable {
				t.Errorf("of the cluster's networks was done: %s", o)
			}
		}
		select {
		case err := <-waiting:
			t.Errorf("who asked for a network of the cluster was answered: %v", err)
		default:
		}
		s.write(hosts()...)
		s.write(network(front, "10.1.0.0/24"))
		if err := <-waiting; err != nil {
			t.Error(err)
		}
		pass(2 * resyncEvery)
		s.holds("when it is known")
	})
}

// Of what a host gave up, each scope's publisher writes its own, many at a time, and forgets what the store has heard.
func TestReleasesGoToTheirScope(t *testing.T) {
	const many = 3 * releasesAtOnce
	client, disk := memory.New().Client(), memory.New().Client()
	j := journal.New(disk, t.TempDir())
	log := slog.New(slog.DiscardHandler)
	f := follow.New(follow.Config{Store: client, Log: log})
	reg := registry.New(registry.Config{Store: client, Picture: f.Picture, Now: time.Now})
	as := registry.Actor{Host: self, Incarnation: 1}
	for i := range many {
		id := record.EndpointID(fmt.Sprintf("e%d", i))
		n := []record.NetworkID{front, home}[i%2]
		b, err := record.Encode(&record.Endpoint{ID: id, Network: n, Host: self, Incarnation: 1, Name: string(id)})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.Txn(t.Context(), store.Txn{Then: []store.Op{store.Put(record.EndpointKey(n, id), b), store.Put(record.EndpointNameKey(n, string(id)), []byte(id))}}); err != nil {
			t.Fatal(err)
		}
		if err := j.AddRelease(t.Context(), journal.Release{Network: n, Endpoint: id}); err != nil {
			t.Fatal(err)
		}
	}
	p := newPublisher(publisherConfig{
		log: log, clock: machineClock{}, journal: j, boxes: newBoxes(j), scope: &scope{name: globalScope, registry: reg, follower: f},
		mine: func(id record.NetworkID) bool { return id == front },
	})
	if err := p.release(t.Context(), as); err != nil {
		t.Fatal(err)
	}
	for n, want := range map[record.NetworkID]int{front: 0, home: many} { // a record and a name each
		l, err := client.List(t.Context(), record.NetPartition(n))
		if err != nil || len(l.Entries) != want {
			t.Errorf("network %s has %d entries (%v), want %d", n, len(l.Entries), err, want)
		}
	}
	left, err := j.Releases(t.Context())
	if err != nil || len(left) != many/2 || slices.ContainsFunc(left, func(r journal.Release) bool { return r.Network != home }) {
		t.Errorf("the journal keeps %v, %v", left, err)
	}
}

// A store that does not have what is to be released has been told of it, unless it was emptied: its records may come back.
func TestAReleaseThatAnEmptiedStoreHeardIsKept(t *testing.T) {
	client, disk := memory.New().Client(), memory.New().Client()
	j := journal.New(disk, t.TempDir())
	log := slog.New(slog.DiscardHandler)
	f := follow.New(follow.Config{Store: client, Log: log})
	if err := j.AddRelease(t.Context(), journal.Release{Network: front, Endpoint: "e1"}); err != nil {
		t.Fatal(err)
	}
	holds := errLost
	p := newPublisher(publisherConfig{
		log: log, clock: machineClock{}, journal: j, boxes: newBoxes(j), mine: func(record.NetworkID) bool { return true },
		scope: &scope{name: globalScope, registry: registry.New(registry.Config{Store: client, Picture: f.Picture, Now: time.Now}), follower: f},
		holds: func(context.Context) error { return holds },
	})
	for _, want := range []int{1, 0} {
		err := p.release(t.Context(), registry.Actor{Host: self, Incarnation: 1})
		if left, broken := j.Releases(t.Context()); !errors.Is(err, holds) || broken != nil || len(left) != want {
			t.Errorf("%v; the journal keeps %v (%v), want %d", err, left, broken, want)
		}
		holds = nil
	}
}

// Nothing that changes, no new picture: DNS would begin anew with the first address of each name.
func TestThePictureOfBothScopesStaysTheSameOneUntilEitherChanges(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	global, local := memory.New().Client(), memory.New().Client()
	s := newSight(follow.New(follow.Config{Store: global, Log: log}), follow.New(follow.Config{Store: local, Log: log}))
	first := s.Picture()
	if _, taken := s.TakeDirty(); s.Picture() != first || taken != first {
		t.Error("it is another one, and nothing has changed")
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { s.local.Run(ctx) })
	defer wg.Wait()
	defer cancel()
	if err := s.local.WaitSynced(ctx, store.Meta); err != nil {
		t.Fatal(err)
	}
	b, err := record.Encode(localNetwork(home, "172.20.0.0/24"))
	if err != nil {
		t.Fatal(err)
	}
	rev, err := local.Txn(ctx, store.Txn{Then: []store.Op{store.Put(record.NetworkKey(home), b)}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.local.WaitRev(ctx, store.Meta, rev); err != nil {
		t.Fatal(err)
	}
	if _, there := s.Picture().Network(home); !there || s.Picture() == first {
		t.Error("it does not show what has changed")
	}
}
