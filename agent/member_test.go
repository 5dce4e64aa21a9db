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
	"testing/synctest"
	"time"

	"weft/agent/journal"
	"weft/agent/registry"
	"weft/store"
	"weft/store/follow"
	"weft/store/memory"
	"weft/store/record"
)

// joiner is a member of a cluster in memory, with what it stands on.
type joiner struct {
	*member
	client *memory.Client
	disk   *memory.Client
	fatal  chan error
	joins  chan struct{}
	cut    chan uint64 // its incarnation when it looked for what it had lost
	stop   func()
}

// join starts a member; it ends with the test.
func join(t *testing.T, w *memory.World, disk *memory.World, vtep string) *joiner {
	t.Helper()
	return joinOver(t, w, disk, vtep, func(s store.Store) store.Store { return s })
}

// joinOver starts a member that sees the store through something.
func joinOver(t *testing.T, w *memory.World, disk *memory.World, vtep string, through func(store.Store) store.Store) *joiner {
	t.Helper()
	j := &joiner{client: w.Client(), disk: disk.Client(), fatal: make(chan error, 1), joins: make(chan struct{}, 64), cut: make(chan uint64, 64)}
	log, seen := slog.New(slog.DiscardHandler), through(j.client)
	jr := journal.New(j.disk, filepath.Join(t.TempDir(), "state"))
	id, err := jr.Identity(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if id.Host == "" {
		id.Host, id.Incarnation = record.HostID("host-"+vtep), 1
	}
	f := follow.New(follow.Config{Store: seen, Cluster: id.Cluster, Log: log})
	ctx, cancel := context.WithCancel(context.Background())
	j.member = newMember(memberConfig{
		log: log, clock: machineClock{}, store: seen, journal: jr, name: func() string { return "etcd://somewhere:2379/weft" }, ttl: 15 * time.Second,
		registry: registry.New(registry.Config{Store: seen, Picture: f.Picture, Now: time.Now}),
		facts: func(context.Context) (record.Host, error) {
			return record.Host{Name: "name-" + vtep, VTEP: netip.MustParseAddr(vtep), MTU: 1500}, nil
		},
		picture:  f.Picture,
		rejoined: func(context.Context) { j.joins <- struct{}{} },
		cleared: func(context.Context) error {
			j.cut <- j.member.identity().Incarnation
			if len(j.cut) == 1 {
				return errors.New("the store went away while it looked")
			}
			return nil
		},
		follow:  func(context.Context) error { return nil },
		created: func() {},
		fatal:   func(err error) { j.fatal <- err },
	}, id)
	var wg sync.WaitGroup
	wg.Go(func() { f.Run(ctx) })
	wg.Go(func() { j.member.run(ctx) })
	j.stop = sync.OnceFunc(func() {
		cancel()
		wg.Wait()
		if err := errors.Join(j.client.Close(), j.disk.Close()); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(j.stop)
	return j
}

func TestAMemberClaims(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, disk := memory.New(), memory.New()
		j := join(t, w, disk, "192.0.2.1")
		as, err := j.claim(t.Context())
		if err != nil || as.Host != "host-192.0.2.1" || as.Incarnation != 1 || as.Session == nil {
			t.Fatalf("claim: %+v, %v", as, err)
		}
		if j.identity().Cluster == "" {
			t.Error("the cluster was not remembered")
		}
		j.stop()

		again := join(t, w, disk, "192.0.2.1") // a restart takes its session over
		second, err := again.claim(t.Context())
		if err != nil || second.Session.ID() != as.Session.ID() || again.identity().Cluster != j.identity().Cluster {
			t.Errorf("after a restart: %+v, %v; the session was %s", second, err, as.Session.ID())
		}
		again.stop()
	})
}

// Without its store a claim is refused within seconds, in words that name the store; it works again by itself.
func TestAMemberWithoutItsStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := join(t, memory.New(), memory.New(), "192.0.2.1")
		if _, err := j.claim(t.Context()); err != nil {
			t.Fatal(err)
		}
		<-j.joins
		j.client.Cut(true)
		for !isDone(t, j) {
			time.Sleep(time.Second)
		}
		before := time.Now()
		_, err := j.claim(t.Context())
		if took := time.Since(before); err == nil || took > 5*time.Second {
			t.Fatalf("claim without a store: %v after %s", err, took)
		}
		if !errors.Is(err, store.ErrUnreachable) || !strings.Contains(err.Error(), "cluster store etcd://somewhere:2379/weft is not reachable") {
			t.Errorf("claim without a store: %v", err)
		}
		if notes := strings.Join(j.say(), " "); !strings.Contains(notes, "is not reachable") {
			t.Errorf("the host says nothing of it: %q", notes)
		}
		j.client.Cut(false)
		<-j.joins
		if _, err := j.claim(t.Context()); err != nil {
			t.Errorf("claim after the store came back: %v", err)
		}
		j.stop()
	})
}

// isDone tells whether the member has noticed that its session may have ended.
func isDone(t *testing.T, j *joiner) bool {
	t.Helper()
	j.member.mu.Lock()
	defer j.member.mu.Unlock()
	return j.member.actor == nil && j.member.why != nil
}

func TestAMemberThatMustNotGoOn(t *testing.T) {
	for name, tc := range map[string]struct {
		disk func(first *memory.World) *memory.World
		vtep string
		want string
	}{
		"another host has its VTEP address": {func(*memory.World) *memory.World { return memory.New() }, "192.0.2.1", "VTEP address 192.0.2.1 is the one of host name-192.0.2.1"},
		"its state directory is a copy":     {func(first *memory.World) *memory.World { return first }, "192.0.2.2", "is in use by an agent that registered as name-192.0.2.1"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, disk := memory.New(), memory.New()
				first := join(t, w, disk, "192.0.2.1")
				if _, err := first.claim(t.Context()); err != nil {
					t.Fatal(err)
				}
				its := tc.disk(disk)
				if tc.vtep == "192.0.2.1" {
					c := its.Client()
					if err := errors.Join(journal.New(c, "").SetIdentity(t.Context(), journal.Identity{Host: "another", Incarnation: 1}), c.Close()); err != nil {
						t.Fatal(err)
					}
				}
				second := join(t, w, its, tc.vtep)
				err := <-second.fatal
				if !strings.Contains(err.Error(), tc.want) {
					t.Errorf("got %v, want %q", err, tc.want)
				}
				if _, err := first.claim(t.Context()); err != nil {
					t.Errorf("the first one: %v", err)
				}
				second.stop()
				first.stop()
			})
		})
	}
}

// A store that lost this host's cluster, or is another's, is joined by nobody who has been in one, and nothing is written to it.
func TestAMemberOfAnotherCluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := memory.New()
		first := join(t, memory.New(), disk, "192.0.2.1")
		if _, err := first.claim(t.Context()); err != nil {
			t.Fatal(err)
		}
		first.stop()
		for name, tc := range map[string]struct {
			prepare func(*memory.World)
			want    string
		}{
			"emptied":   {func(*memory.World) {}, "it was emptied"},
			"another's": {func(w *memory.World) { o := join(t, w, memory.New(), "192.0.2.9"); <-o.joins; o.stop() }, "and this host belongs to"},
		} {
			w := memory.New()
			tc.prepare(w)
			c := w.Client()
			before, err := c.Status(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			j := join(t, w, disk, "192.0.2.1")
			if _, err := j.claim(t.Context()); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%s: %v, want %q", name, err, tc.want)
			}
			after, err := c.Status(t.Context())
			if err != nil || after.Rev != before.Rev {
				t.Errorf("%s: something was written: %v", name, err)
			}
			j.stop()
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
	})
}

// A host that was cleared while it was away comes back in an incarnation above the fence.
func TestAMemberThatWasCleared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, disk := memory.New(), memory.New()
		first := join(t, w, disk, "192.0.2.1")
		if _, err := first.claim(t.Context()); err != nil {
			t.Fatal(err)
		}
		first.stop()
		c := w.Client()
		b, err := record.Encode(&record.Fence{Host: "host-192.0.2.1", Incarnation: 4, By: other})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Txn(t.Context(), store.Txn{Then: []store.Op{store.Put(record.FenceKey("host-192.0.2.1"), b)}}); err != nil {
			t.Fatal(err)
		}
		second := join(t, w, disk, "192.0.2.1")
		<-second.joins
		if as, err := second.claim(t.Context()); err != nil || as.Incarnation != 5 {
			t.Errorf("it claims as %+v, %v", as, err)
		}
		for range 2 { // the first time it could not see all
			if was := <-second.cut; was != 1 {
				t.Errorf("it looked for what it had lost in incarnation %d, want that it did before it began the next one", was)
			}
		}
		if b, err = record.Encode(&record.Fence{Host: "host-192.0.2.1", Incarnation: 5, By: other}); err != nil { // it is removed while it is alive
			t.Fatal(err)
		}
		if _, err := c.Txn(t.Context(), store.Txn{Then: []store.Op{store.Put(record.FenceKey("host-192.0.2.1"), b)}}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		second.lookAgain()
		<-second.joins
		if as, err := second.claim(t.Context()); err != nil || as.Incarnation != 6 {
			t.Errorf("after it was removed alive it claims as %+v, %v", as, err)
		}
		second.stop()
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
}

// clearing is a store in which another host clears one right before it opens its first session. asked is called at each beginning of a joining.
type clearing struct {
	store.Store
	once  *sync.Once
	clear func()
	asked func()
}

func (c clearing) Status(ctx context.Context) (store.Status, error) {
	c.asked()
	return c.Store.Status(ctx)
}

func (c clearing) OpenSession(ctx context.Context, cfg store.SessionConfig) (store.Session, error) {
	c.once.Do(c.clear)
	return c.Store.OpenSession(ctx, cfg)
}

// A host that is cleared while it joins, after it has looked whether it was, does not end: it joins above the fence. Until then it does not
// count as one without its store, which would go on with what it may have lost.
func TestAMemberThatIsClearedWhileItJoins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, disk := memory.New(), memory.New()
		first := join(t, w, disk, "192.0.2.1")
		if _, err := first.claim(t.Context()); err != nil {
			t.Fatal(err)
		}
		first.stop()
		c := w.Client()
		b, err := record.Encode(&record.Fence{Host: "host-192.0.2.1", Incarnation: 1, By: other})
		if err != nil {
			t.Fatal(err)
		}
		clear := func() {
			if _, err := c.Txn(t.Context(), store.Txn{Then: []store.Op{store.Put(record.FenceKey("host-192.0.2.1"), b)}}); err != nil {
				t.Error(err)
			}
		}
		var second *joiner
		begun, ready := 0, make(chan struct{})
		asked := func() {
			<-ready
			if begun++; begun == 2 && second.away() {
				t.Error("it counts as a host without its store")
			}
		}
		second = joinOver(t, w, disk, "192.0.2.1", func(s store.Store) store.Store { return clearing{s, new(sync.Once), clear, asked} })
		close(ready)
		select {
		case err := <-second.fatal:
			t.Errorf("it ends: %v", err)
		case <-second.joins:
		}
		if as, err := second.claim(t.Context()); err != nil || as.Incarnation != 2 {
			t.Errorf("it claims as %+v, %v", as, err)
		}
		second.stop()
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
}

// A sign of life that somebody has deleted, while the session that held it lasts, is given anew: without it nothing can be claimed.
func TestAMemberWhoseSignOfLifeIsDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := memory.New()
		j := join(t, w, memory.New(), "192.0.2.1")
		<-j.joins
		c := w.Client()
		if _, err := c.Txn(t.Context(), store.Txn{Then: []store.Op{store.Del(record.AliveKey("host-192.0.2.1"))}}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		j.lookAgain()
		select {
		case <-j.joins:
		case <-time.After(time.Minute):
			t.Error("it does not join again")
		}
		as, err := j.claim(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if e, err := c.Get(t.Context(), record.AliveKey("host-192.0.2.1")); err != nil || e.Rev != as.Session.Alive().Rev {
			t.Errorf("the store has %+v, %v, and it claims with %+v", e, err, as.Session.Alive())
		}
		synctest.Wait()
		j.lookAgain() // it is there: nothing is to be done
		synctest.Wait()
		if len(j.joins) > 0 {
			t.Error("it has joined again for nothing")
		}
		j.stop()
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
}

// A session of an earlier life that this host cannot take over is waited for as long as its back end may keep it, which may be longer than its
// time to live.
func TestAMemberWaitsForItsEarlierSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, disk := memory.New(), memory.New()
		first := join(t, w, disk, "192.0.2.1")
		if _, err := first.claim(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := first.setIdentity(t.Context(), func(id *journal.Identity) { id.Session, id.Bound = "unknown", 32*time.Second }); err != nil {
			t.Fatal(err)
		}
		first.stop()
		c := w.Client()
		held, err := c.OpenSession(t.Context(), store.SessionConfig{Key: record.AliveKey("host-192.0.2.1"), TTL: 30 * time.Second, Resume: first.actor.Session.ID()})
		if err != nil {
			t.Fatal(err)
		}
		held.Leave()
		second := join(t, w, disk, "192.0.2.1")
		select {
		case err := <-second.fatal:
			t.Errorf("it gave up: %v", err)
		case <-second.joins:
		}
		second.stop()
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestAnErrorOfTheStoreIsOneLine(t *testing.T) {
	t.Parallel()
	late := errors.New("outcome unknown (deadline exceeded)")
	for want, err := range map[string]error{
		"outcome unknown (deadline exceeded)":          errors.Join(late, errors.New("deadline exceeded")),
		"outcome unknown (deadline exceeded); refused": errors.Join(late, errors.New("refused"), late),
	} {
		if got := oneLine(err); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
