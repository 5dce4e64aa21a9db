package agent

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"weft/agent/journal"
	"weft/agent/registry"
	"weft/store"
	"weft/store/follow"
	"weft/store/memory"
	"weft/store/record"
	"weft/store/relay"
)

// traveller is what of an agent takes part in moves, over stores in memory. It has not joined.
type traveller struct {
	*Agent
	from, to *memory.World
	there    *memory.Client
}

func travel(t *testing.T, id journal.Identity) *traveller {
	t.Helper()
	tr := &traveller{from: memory.New(), to: memory.New()}
	tr.there = tr.to.Client()
	write(t, tr.from, record.ClusterKey(), &record.Cluster{ID: "c"})
	write(t, tr.to, record.ClusterKey(), &record.Cluster{ID: "c", History: "m1", Generation: 1})
	disk := memory.New().Client()
	log := slog.New(slog.DiscardHandler)
	a := &Agent{cfg: Config{ClusterStore: "etcd://old:2379/weft"}, log: log, clock: machineClock{}, journal: journal.New(disk, filepath.Join(t.TempDir(), "state"))}
	a.relay = relay.New(tr.from.Client())
	a.store = a.relay
	a.placed.Store(&place{name: "etcd://old:2379/weft", url: "etcd://old:2379/weft"})
	a.follower = follow.New(follow.Config{Store: a.store, Cluster: "c", Log: log})
	a.registry = registry.New(registry.Config{Store: a.store, Picture: a.follower.Picture, Now: time.Now})
	a.member = newMember(memberConfig{log: log, clock: a.clock, store: a.store, registry: a.registry, journal: a.journal, ttl: time.Second, name: a.storeName}, id)
	a.mover = newMover(a)
	tr.Agent = a
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { a.follower.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		if err := errors.Join(a.store.Close(), disk.Close(), tr.there.Close()); err != nil {
			t.Error(err)
		}
	})
	for _, p := range []string{store.Meta, store.Alive} {
		if err := a.follower.WaitSynced(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	return tr
}

func write(t *testing.T, w *memory.World, k store.Key, r any) {
	t.Helper()
	c := w.Client()
	defer func() { _ = c.Close() }()
	b, err := record.Encode(r)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Txn(t.Context(), store.Txn{Then: []store.Op{store.Put(k, b)}}); err != nil {
		t.Fatal(err)
	}
}

// at is a foothold in the new store.
func (tr *traveller) at(s store.Session) *foothold {
	return &foothold{move: "m1", place: place{name: "zk://new:2181/weft", url: "zk://new:2181/weft"}, s: tr.there, session: s}
}

func moveTo(state record.MoveState) *record.Move {
	return &record.Move{ID: "m1", State: state, To: "zk://new:2181/weft", By: "dead"}
}

// Given records that are frozen by a host that has died, when no agent has joined, then one that wants to undoes the move.
func TestAMoveOfADeadHostIsUndoneByWhoHasNotJoined(t *testing.T) {
	tr := travel(t, journal.Identity{Host: "h", Incarnation: 1, Cluster: "c"})
	write(t, tr.from, record.MovesKey(), moveTo(record.MoveMoving))
	if err := tr.mover.catchUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	if m, _, err := tr.registry.Move(t.Context()); err != nil || m != nil {
		t.Errorf("the move is still there: %+v, %v", m, err)
	}
}

// Given an agent that ended between its preparation and the end of a move, when the next one follows, then the session that was left in the new
// store is the one to take over there. Where the identity says that the session is the new store's already, it stays.
func TestTheSessionThatAnEarlierLifeHasLeft(t *testing.T) {
	for in, want := range map[string][2]string{"etcd://old:2379/weft": {"there", "here"}, "zk://new:2181/weft": {"here", "there"}} {
		tr := travel(t, journal.Identity{Host: "h", Incarnation: 1, Cluster: "c", Store: in, Session: "here", Next: "there"})
		tr.mover.at = tr.at(nil)
		tr.there = tr.to.Client() // the other one is the relay's from now on
		if err := tr.mover.follow(t.Context(), moveTo(record.MoveMoved)); err != nil {
			t.Fatal(err)
		}
		id := tr.member.identity()
		if id.Session != want[0] || id.Next != want[1] || id.Store != "zk://new:2181/weft" || id.Moved == nil {
			t.Errorf("in %s: %+v", in, id)
		}
	}
}

// Given a host whose options name no store, when the records move, then it has learnt where they are, and there is nothing for its user to change.
func TestAHostThatHasLearntItsStoreFollows(t *testing.T) {
	tr := travel(t, journal.Identity{Host: "h", Incarnation: 1, Cluster: "c", Learnt: &journal.Learnt{URL: "etcd://old:2379/weft"}})
	tr.learnt = true
	tr.mover.at = tr.at(nil)
	tr.there = tr.to.Client()
	move := moveTo(record.MoveMoved)
	move.Opts = map[string]string{"kv.user": "u"}
	if err := tr.mover.follow(t.Context(), move); err != nil {
		t.Fatal(err)
	}
	id, err := tr.journal.Identity(t.Context())
	if err != nil || id.Moved != nil || id.Learnt == nil || id.Learnt.URL != "zk://new:2181/weft" || id.Learnt.Opts["kv.user"] != "u" {
		t.Errorf("it remembers %+v, %v", id, err)
	}
	if name := tr.configured(); name != "" {
		t.Errorf("its options are said to name %s", name)
	}
}

// Given a session in the new store that ended before the switch, then the agent goes there with another.
func TestASessionThatEndedBeforeTheSwitch(t *testing.T) {
	tr := travel(t, journal.Identity{Host: "h", Incarnation: 1, Cluster: "c"})
	open := func(c store.Store) store.Session {
		s, err := c.OpenSession(t.Context(), store.SessionConfig{Key: record.AliveKey("h"), TTL: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	here, lost := open(tr.store), open(tr.there)
	tr.member.host.VTEP = netip.MustParseAddr("192.0.2.1")
	tr.member.set(&registry.Actor{Host: "h", Incarnation: 1, Session: here}, nil)
	if err := lost.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-lost.Done()
	tr.mover.at = tr.at(lost)
	tr.there = tr.to.Client()
	if err := tr.mover.follow(t.Context(), moveTo(record.MoveMoved)); err != nil {
		t.Fatal(err)
	}
	if id := tr.member.identity(); id.Session == lost.ID() || isOver(here) {
		t.Errorf("it goes on with the session that ended: %+v, over %v", id, isOver(here))
	}
	if _, err := tr.there.Get(t.Context(), record.AliveKey("h")); err != nil {
		t.Errorf("this host is not alive in the new store: %v", err)
	}
}

// A store may say where its records went long ago: what is older than what this host has seen is not followed.
func TestWhereOlderRecordsAreNobodyGoes(t *testing.T) {
	tr := travel(t, journal.Identity{Host: "h", Incarnation: 1, Cluster: "c"})
	write(t, tr.from, record.ClusterKey(), &record.Cluster{ID: "c", History: "m2", Generation: 2})
	for c := tr.follower.Changed(); tr.follower.Picture().Cluster().Generation != 2; c = tr.follower.Changed() {
		select {
		case <-c:
		case <-t.Context().Done():
			t.Fatal("the picture does not change")
		}
	}
	tr.mover.at = tr.at(nil)
	tr.there = tr.to.Client()
	if err := tr.mover.follow(t.Context(), moveTo(record.MoveMoved)); err == nil || !strings.Contains(err.Error(), "older than what this host has seen") {
		t.Errorf("got %v", err)
	}
	if id := tr.member.identity(); id.Moved != nil {
		t.Errorf("it is remembered: %+v", id)
	}
}

// What a move leads to is where the options say only if these are the same, too; and a move is from where they said.
func TestAPrefixThatAnOptionGives(t *testing.T) {
	a := &Agent{cfg: Config{ClusterStore: "zk://h:2181", StoreOpts: map[string]string{"kv.path": "a", "discovery.ttl": "9"}}}
	for prefix, same := range map[string]bool{"a": true, "b": false} {
		if got := a.isConfigured(a.placeOf("zk://h:2181", map[string]string{"kv.path": prefix})); got != same {
			t.Errorf("prefix %s is configured: %v", prefix, got)
		}
		if got := a.hasLeft(&journal.Moved{From: "zk://h:2181", FromPath: prefix}); got != same {
			t.Errorf("prefix %s was left: %v", prefix, got)
		}
	}
}
