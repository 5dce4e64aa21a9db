package follow_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"weft/store"
	"weft/store/follow"
	"weft/store/memory"
	"weft/store/record"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	front = record.NetworkID("front")
	back  = record.NetworkID("back")
)

// world is a store with a client that the follower uses and one that the test writes with.
type world struct {
	*memory.World
	follows, writes *memory.Client
	last            map[string]store.Rev // of each partition, as applied
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := memory.New()
	x := &world{World: w, follows: w.Client(), writes: w.Client(), last: map[string]store.Rev{}}
	t.Cleanup(func() { _ = x.follows.Close(); _ = x.writes.Close() })
	return x
}

func (w *world) apply(t *testing.T, ops ...store.Op) store.Rev {
	t.Helper()
	rev, err := w.writes.Txn(t.Context(), store.Txn{Then: ops})
	if err != nil {
		t.Fatal(err)
	}
	for _, op := range ops {
		w.last[op.Key.Partition] = rev
	}
	return rev
}

func encoded(t *testing.T, k store.Key, r any) store.Op {
	t.Helper()
	b, err := record.Encode(r)
	if err != nil {
		t.Fatal(err)
	}
	return store.Put(k, b)
}

func cluster(t *testing.T, id string) store.Op {
	t.Helper()
	return encoded(t, record.ClusterKey(), &record.Cluster{ID: id})
}

func endpoint(t *testing.T, n record.NetworkID, i int) []store.Op {
	t.Helper()
	id := record.EndpointID(fmt.Sprintf("e%d", i))
	a := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
	ep := &record.Endpoint{ID: id, Network: n, Host: "h", Name: fmt.Sprintf("c%d", i), Addrs: []netip.Addr{a}}
	return []store.Op{
		encoded(t, record.EndpointKey(n, id), ep), store.Put(record.AddrKey(n, a), []byte(id)), store.Put(record.EndpointNameKey(n, ep.Name), []byte(id)),
	}
}

// run starts the follower; it has ended when stop returns, which happens at the test's end at the latest.
func run(t *testing.T, f *follow.Follower) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { f.Run(ctx) })
	stop = func() { cancel(); wg.Wait() }
	t.Cleanup(stop)
	return stop
}

func start(t *testing.T, cfg follow.Config) *follow.Follower {
	t.Helper()
	cfg.Log = slog.New(slog.DiscardHandler)
	f := follow.New(cfg)
	run(t, f)
	return f
}

func synced(t *testing.T, f *follow.Follower, partitions ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for _, p := range partitions {
		if err := f.WaitSynced(ctx, p); err != nil {
			t.Fatalf("%s: %v", p, err)
		}
	}
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(what)
		}
	}
}

func length(f *follow.Follower, n record.NetworkID) int {
	net, ok := f.Picture().Net(n)
	if !ok {
		return -1
	}
	return net.Len()
}

func TestBatchesBecomeThePicture(t *testing.T) {
	w := newWorld(t)
	w.apply(t, cluster(t, "c"), encoded(t, record.HostKey("h"), &record.Host{ID: "h", Name: "alpha", VTEP: netip.MustParseAddr("192.0.2.1")}))
	w.apply(t, endpoint(t, front, 1)...)
	f := start(t, follow.Config{Store: w.follows})
	f.Follow(front)
	f.Follow(front) // twice is no error
	synced(t, f, store.Meta, store.Alive, record.NetPartition(front))
	if h, ok := f.Picture().Host("h"); !ok || h.Name != "alpha" || length(f, front) != 1 {
		t.Fatalf("the first list: host %+v, %d endpoints", h, length(f, front))
	}

	rev := w.apply(t, endpoint(t, front, 2)...)
	if err := f.WaitRev(t.Context(), record.NetPartition(front), rev); err != nil {
		t.Fatal(err)
	}
	if length(f, front) != 2 {
		t.Error("WaitRev returned before the picture had the revision")
	}
	rev = w.apply(t, store.Del(record.EndpointKey(front, "e1")))
	if err := f.WaitRev(t.Context(), record.NetPartition(front), rev); err != nil || length(f, front) != 1 {
		t.Errorf("after a delete: %d endpoints, %v", length(f, front), err)
	}
	if got := f.Following(); !slices.Equal(got, []record.NetworkID{front}) {
		t.Errorf("following %v", got)
	}
	if n := length(f, back); n != -1 {
		t.Errorf("a network that is not followed has %d endpoints; it is to be unknown", n)
	}
}

func TestAnOldPictureDoesNotChange(t *testing.T) {
	w := newWorld(t)
	f := start(t, follow.Config{Store: w.follows})
	f.Follow(front)
	synced(t, f, record.NetPartition(front))
	old := f.Picture()
	rev := w.apply(t, endpoint(t, front, 1)...)
	if err := f.WaitRev(t.Context(), record.NetPartition(front), rev); err != nil {
		t.Fatal(err)
	}
	if n, _ := old.Net(front); n.Len() != 0 {
		t.Error("a reader's picture changed under its hands")
	}
}

// quiet takes what is dirty after the first lists.
func quiet(t *testing.T, f *follow.Follower) {
	t.Helper()
	f.TakeDirty()
	select {
	case <-f.Wake():
	default:
	}
}

func TestDirtySaysWhatChanged(t *testing.T) {
	w := newWorld(t)
	w.apply(t, cluster(t, "c"))
	f := start(t, follow.Config{Store: w.follows})
	f.Follow(front)
	f.Follow(back)
	synced(t, f, store.Meta, store.Alive, record.NetPartition(front), record.NetPartition(back))
	first, _ := f.TakeDirty()
	if !first.Meta || !first.Alive || !first.Nets[front].All || !first.Nets[back].All {
		t.Errorf("after the first lists: %+v, want all", first)
	}
	quiet(t, f)

	many := func(n record.NetworkID, count int) (ops [][]store.Op) {
		for i := range count {
			ops = append(ops, endpoint(t, n, i))
		}
		return ops
	}
	for name, tc := range map[string]struct {
		txns [][]store.Op
		want func(follow.Dirty) bool
	}{
		"nothing":                 {nil, func(d follow.Dirty) bool { return !d.Meta && !d.Alive && len(d.Nets) == 0 }},
		"one endpoint":            {many(front, 1), func(d follow.Dirty) bool { return named(d.Nets[front], "e0") && len(d.Nets) == 1 && !d.Meta }},
		"two, one after another":  {many(front, 2), func(d follow.Dirty) bool { return named(d.Nets[front], "e0", "e1") }},
		"an endpoint that went":   {[][]store.Op{{store.Del(record.EndpointKey(front, "e0"))}}, func(d follow.Dirty) bool { return named(d.Nets[front], "e0") }},
		"more than can be named":  {many(back, 300), func(d follow.Dirty) bool { return d.Nets[back].All && len(d.Nets) == 1 }},
		"the hosts":               {[][]store.Op{{encoded(t, record.FenceKey("h"), &record.Fence{Host: "h"})}}, func(d follow.Dirty) bool { return d.Meta && len(d.Nets) == 0 }},
		"who is alive":            {[][]store.Op{{encoded(t, record.AliveKey("h"), &record.Liveness{Host: "h"})}}, func(d follow.Dirty) bool { return d.Alive && !d.Meta }},
		"two networks in one txn": {[][]store.Op{append(endpoint(t, front, 7), endpoint(t, back, 8)...)}, func(d follow.Dirty) bool { return named(d.Nets[front], "e7") && named(d.Nets[back], "e8") }},
	} {
		t.Run(name, func(t *testing.T) {
			w.apply(t, store.Put(record.EndpointKey(front, "e0"), nil)) // so that it can go
			settle(t, w, f)
			quiet(t, f)
			for _, ops := range tc.txns {
				w.apply(t, ops...)
			}
			settle(t, w, f)
			got, s := f.TakeDirty()
			if !tc.want(got) {
				t.Errorf("got %+v", got)
			}
			if s != f.Picture() {
				t.Error("the picture that came with it is not the newest, and all is quiet")
			}
			again, _ := f.TakeDirty()
			if again.Meta || again.Alive || len(again.Nets) != 0 {
				t.Errorf("taken, and still dirty: %+v", again)
			}
		})
	}
}

func named(d follow.NetDirty, ids ...record.EndpointID) bool {
	if d.All || len(d.Endpoints) != len(ids) {
		return false
	}
	for _, id := range ids {
		if !d.Endpoints[id] {
			return false
		}
	}
	return true
}

// settle waits until the follower has all that was written.
func settle(t *testing.T, w *world, f *follow.Follower) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for p, rev := range w.last {
		if err := f.WaitRev(ctx, p, rev); err != nil {
			t.Fatalf("%s: %v", p, err)
		}
	}
}

func TestWakeComesOnceHoweverMuchIsDirty(t *testing.T) {
	w := newWorld(t)
	f := start(t, follow.Config{Store: w.follows})
	f.Follow(front)
	synced(t, f, store.Meta, store.Alive, record.NetPartition(front))
	var rev store.Rev
	for i := range 20 {
		rev = w.apply(t, endpoint(t, front, i)...)
	}
	if err := f.WaitRev(t.Context(), record.NetPartition(front), rev); err != nil {
		t.Fatal(err)
	}
	<-f.Wake()
	select {
	case <-f.Wake():
		t.Error("woken twice for what one look takes")
	default:
	}
	if d, _ := f.TakeDirty(); len(d.Nets) != 1 {
		t.Errorf("woken, and dirty is %+v", d)
	}
}

func seedOf(t *testing.T, w *world, partitions ...string) *record.Snapshot {
	t.Helper()
	dumps := map[string]store.Snapshot{}
	for _, p := range partitions {
		l, err := w.writes.List(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		dumps[p] = l
	}
	return record.SeedFrom(dumps)
}

func TestTheSeedIsShownUntilTheStoreSpeaks(t *testing.T) {
	w := newWorld(t)
	w.apply(t, cluster(t, "c"))
	w.apply(t, endpoint(t, front, 1)...)
	seed := seedOf(t, w, store.Meta, record.NetPartition(front))
	w.apply(t, endpoint(t, front, 2)...)
	w.follows.Cut(true)
	f := start(t, follow.Config{Store: w.follows, Seed: seed, Cluster: "c"})
	f.Follow(front)
	if f.Picture() != seed || f.Synced(record.NetPartition(front)) || f.Synced(store.Meta) {
		t.Error("the store is away: the seed is all that there is to show, and nothing is synced")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := f.WaitSynced(ctx, store.Meta); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("WaitSynced while the store is away: %v", err)
	}
	w.follows.Cut(false)
	synced(t, f, store.Meta, record.NetPartition(front))
	if length(f, front) != 2 || f.Doubt() != nil {
		t.Errorf("the store has spoken: %d endpoints, doubt %v", length(f, front), f.Doubt())
	}
}

// An empty store has revision 0 in memory; it has spoken all the same.
func TestAnEmptyStoreIsSynced(t *testing.T) {
	w := newWorld(t)
	f := start(t, follow.Config{Store: w.follows})
	f.Follow(front)
	synced(t, f, store.Meta, store.Alive, record.NetPartition(front))
	if !f.Synced(store.Meta) || f.Doubt() != nil || length(f, front) != 0 {
		t.Errorf("synced %v, doubt %v, %d endpoints", f.Synced(store.Meta), f.Doubt(), length(f, front))
	}
}

func TestForgottenHistoryIsNoDoubt(t *testing.T) {
	w := newWorld(t)
	w.apply(t, cluster(t, "c"))
	w.apply(t, endpoint(t, front, 1)...)
	f := start(t, follow.Config{Store: w.follows})
	f.Follow(front)
	synced(t, f, store.Meta, record.NetPartition(front))
	quiet(t, f)
	w.follows.Cut(true)
	w.apply(t, store.Del(record.EndpointKey(front, "e1")))
	rev := w.apply(t, endpoint(t, front, 2)...)
	w.follows.ForgetHistory()
	w.follows.Cut(false)
	if err := f.WaitRev(t.Context(), record.NetPartition(front), rev); err != nil {
		t.Fatal(err)
	}
	n, _ := f.Picture().Net(front)
	if _, gone := n.Endpoint("e1"); gone || n.Len() != 1 || f.Doubt() != nil {
		t.Errorf("%d endpoints, e1 there: %v, doubt %v", n.Len(), gone, f.Doubt())
	}
	if d, _ := f.TakeDirty(); !d.Nets[front].All {
		t.Errorf("dirty %+v, want all of the network: what happened in between is not known", d)
	}
}
