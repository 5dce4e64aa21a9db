package registry_test

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"weft/agent/registry"
	"weft/store"
	"weft/store/memory"
	"weft/store/record"
)

// teller is a host of a town that knows some of it, and tells it when a reseed asks for that.
type teller struct {
	*host
	id   record.HostID
	know registry.Knowledge
}

// tellers are the hosts of a town: h1 follows network n0, and h2 network n1, unless said otherwise.
func tellers(t *testing.T, w *memory.World, h *host, both bool) (h1, h2 *teller) {
	t.Helper()
	h.look(t)
	nets := map[string]record.NetworkID{}
	for n := range h.picture.Networks() {
		nets[n.Name] = n.ID
	}
	of := func(id record.HostID, follows ...string) *teller {
		x := &teller{host: newHost(t, w, string(id)), id: id}
		var ids []record.NetworkID
		for _, f := range follows {
			ids = append(ids, nets[f])
		}
		x.look(t, ids...)
		x.know = registry.Knowledge{Picture: x.picture, Histories: map[string]string{}}
		for _, p := range x.picture.Partitions() {
			x.know.Histories[p] = x.picture.Cluster().History
		}
		return x
	}
	if both {
		return of("h1", "n0", "n1"), of("h2", "n0", "n1")
	}
	return of("h1", "n0"), of("h2", "n1")
}

// answers has a host tell what it knows as soon as it is asked.
func (x *teller) answers(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for told := ""; ctx.Err() == nil; time.Sleep(5 * time.Millisecond) {
			if m, rev, err := x.Move(ctx); err == nil && m != nil && m.Reseed && m.ID != told && x.Retell(ctx, x.id, m, rev, x.know) == nil {
				told = m.ID
			}
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
}

func (x *teller) reseeds(ctx context.Context, change ...func(*registry.ReseedRequest)) (registry.ReseedResult, error) {
	req := registry.ReseedRequest{By: x.id, Patience: 300 * time.Millisecond}
	for _, c := range change {
		c(&req)
	}
	return x.Reseed(ctx, req, x.know)
}

func force(r *registry.ReseedRequest)  { r.Force = true }
func dryRun(r *registry.ReseedRequest) { r.DryRun = true }

// content is what of a world a reseed must bring back.
func content(t *testing.T, w *memory.World) map[store.Key]string {
	t.Helper()
	out := kept(t, w)
	delete(out, record.PoolsGenKey()) // of which the revision alone matters
	return out
}

func (h *host) sound(t *testing.T) {
	t.Helper()
	if s, err := h.Inspect(t.Context()); err != nil || len(s.Findings) > 0 {
		t.Errorf("%+v, %v", s.Findings, err)
	}
}

// Given a store that was emptied, or set back to an old backup, when it is reseeded, then it holds what was there before the loss, told by two hosts
// of which none knows all: what was removed after the backup stays removed, and what came since is back.
func TestAReseedPutsBackWhatTheHostsKnow(t *testing.T) {
	for name, lose := range map[string]func(w *memory.World, early memory.Backup){
		"emptied":           func(w *memory.World, _ memory.Backup) { w.Restore(memory.Backup{}) },
		"an old backup":     func(w *memory.World, early memory.Backup) { w.Restore(early) },
		"record deleted":    func(w *memory.World, early memory.Backup) { w.Restore(without(w.Backup(), record.ClusterKey())) },
		"old, and outgrown": func(w *memory.World, early memory.Backup) { early.Rev += 100000; w.Restore(early) },
	} {
		t.Run(name, func(t *testing.T) {
			w, h := town(t, "c")
			doomed := create(t, h, spec("doomed", "10.60.0.0/16"))
			early := w.Backup()
			h.look(t)
			if _, err := h.RemoveNetwork(t.Context(), h.as, doomed.ID); err != nil {
				t.Fatal(err)
			}
			n0 := networkNamed(t, h, "n0")
			if _, err := h.DeleteEndpoint(t.Context(), h.as, n0.ID, firstEndpoint(t, h, n0.ID)); err != nil {
				t.Fatal(err)
			}
			if _, err := h.CreateEndpoint(t.Context(), h.as, endpoint(n0, h, "new", "10.0.7.7")); err != nil {
				t.Fatal(err)
			}
			h1, h2 := tellers(t, w, h, false)
			want := content(t, w)
			lose(w, early)
			before := content(t, w)
			if _, err := h1.reseeds(t.Context(), dryRun); err != nil {
				t.Fatal(err)
			}
			sameWorlds(t, content(t, w), before)
			h2.answers(t)
			got, err := h1.reseeds(t.Context())
			if err != nil || len(got.Pending)+len(got.Skipped) > 0 || got.Cluster != "c" {
				t.Fatalf("%+v, %v", got, err)
			}
			if n := got.Networks + got.Hosts + got.Endpoints + got.Same; n != 2+2+60 {
				t.Errorf("%+v: %d records, want those of two networks, two hosts and sixty endpoints", got, n)
			}
			sameWorlds(t, content(t, w), want)
			h1.sound(t)
			if historyOf(t, h1.st) == "" {
				t.Error("the records have no history of their own")
			}
			h1.look(t)
			create(t, h1.host, spec("after", "10.200.0.0/16"))
		})
	}
}

func without(b memory.Backup, k store.Key) memory.Backup {
	b.Entries = slices.DeleteFunc(b.Entries, func(e store.Entry) bool { return e.Key == k })
	return b
}

func networkNamed(t *testing.T, h *host, name string) *record.Network {
	t.Helper()
	h.look(t)
	for n := range h.picture.Networks() {
		if n.Name == name {
			return n
		}
	}
	t.Fatalf("no network %s", name)
	return nil
}

func firstEndpoint(t *testing.T, h *host, n record.NetworkID) record.EndpointID {
	t.Helper()
	h.look(t, n)
	net, _ := h.picture.Net(n)
	ids := []record.EndpointID{}
	for ep := range net.Endpoints() {
		ids = append(ids, ep.ID)
	}
	return slices.Min(ids)
}

// Given two hosts of which one has not heard of the last changes, then the other's word counts, whichever of them is asked.
func TestTheNewestWordCountsInAReseed(t *testing.T) {
	for _, newest := range []string{"h1", "h2"} {
		t.Run(newest, func(t *testing.T) {
			w, h := town(t, "c")
			old1, old2 := tellers(t, w, h, true)
			n0 := networkNamed(t, h, "n0")
			if _, err := h.DeleteEndpoint(t.Context(), h.as, n0.ID, firstEndpoint(t, h, n0.ID)); err != nil {
				t.Fatal(err)
			}
			h.look(t)
			create(t, h, spec("late", "10.61.0.0/16"))
			new1, new2 := tellers(t, w, h, true)
			asked, other := new1, old2
			if newest == "h2" {
				asked, other = old1, new2
			}
			want := content(t, w)
			w.Restore(memory.Backup{})
			other.answers(t)
			if got, err := asked.reseeds(t.Context(), force); err != nil || len(got.Pending) > 0 {
				t.Fatalf("%+v, %v", got, err)
			}
			sameWorlds(t, content(t, w), want)
			asked.sound(t)
		})
	}
}

// Given a host that is away, then a network of which nobody else knows the addresses keeps the store from being believed, unless that is insisted
// upon; what others know of it is held for it.
func TestAReseedWhileAHostIsAway(t *testing.T) {
	w, h := town(t, "c")
	h1, _ := tellers(t, w, h, false)
	w.Restore(memory.Backup{})
	_, err := h1.reseeds(t.Context())
	if registry.KindOf(err) != registry.InUse || !strings.Contains(err.Error(), "n1") || !strings.Contains(err.Error(), "h2") || !strings.Contains(err.Error(), "--force") {
		t.Fatalf("%v", err)
	}
	if _, err := h1.st.Get(t.Context(), record.ClusterKey()); err == nil {
		t.Error("the store is believed after a reseed that has not ended")
	}
	if _, _, _, err := h1.CreateNetwork(t.Context(), h1.as, spec("x", "10.50.0.0/24")); registry.KindOf(err) != registry.InUse || !strings.Contains(err.Error(), "weft store reseed") {
		t.Errorf("a write in the middle of a reseed: %v", err)
	}
	if got, err := h1.reseeds(t.Context(), force); err != nil || !slices.Equal(got.Pending, []string{"h2"}) {
		t.Fatalf("%+v, %v", got, err)
	}
	h1.sound(t)

	w, h = town(t, "c")
	h1, _ = tellers(t, w, h, true)
	want := content(t, w)
	w.Restore(memory.Backup{})
	if got, err := h1.reseeds(t.Context()); err != nil || !slices.Equal(got.Pending, []string{"h2"}) {
		t.Fatalf("%+v, %v", got, err)
	}
	sameWorlds(t, content(t, w), want)
}

// Given an endpoint that a host's journal has and no picture, then it is put back, unless its address is another one's.
func TestAReseedPutsBackWhatOnlyAJournalHas(t *testing.T) {
	w, h := town(t, "c")
	h1, h2 := tellers(t, w, h, true)
	n0 := networkNamed(t, h, "n0")
	mine, clash := endpoint(n0, h, "mine", "10.0.9.9"), endpoint(n0, h, "clash", "10.0.0.2")
	mine.Host, clash.Host = "h2", "h2"
	mine.Aliases, mine.VIPAliases = []string{"solo"}, []string{"solo"}
	h2.know.Own = []*record.Endpoint{mine, clash}
	w.Restore(memory.Backup{})
	h2.answers(t)
	got, err := h1.reseeds(t.Context())
	if err != nil || len(got.Skipped) != 1 || !strings.Contains(got.Skipped[0], "clash") || !strings.Contains(got.Skipped[0], "10.0.0.2") {
		t.Fatalf("%+v, %v", got, err)
	}
	h1.look(t, n0.ID)
	net, _ := h1.picture.Net(n0.ID)
	if ep, ok := net.ByAddr(netip.MustParseAddr("10.0.9.9")); !ok || ep.Name != "mine" {
		t.Errorf("10.0.9.9 is %+v's", ep)
	}
	h1.sound(t)
}

// Given a reseed that breaks off after any number of writes, of the one that asked or of one that was asked, then the store is not believed, and
// the next reseed ends it.
func TestAReseedThatBreaksOffIsEndedByTheNext(t *testing.T) {
	t.Parallel()
	for writes := 0; ; writes++ {
		w, h := town(t, "c")
		h1, _ := tellers(t, w, h, true)
		want := content(t, w)
		w.Restore(memory.Backup{})
		b := &breaking{Client: w.Client(), left: writes}
		broken := registry.New(registry.Config{Store: b, Picture: record.Empty, Now: time.Now})
		_, err := broken.Reseed(t.Context(), registry.ReseedRequest{By: "h1", Patience: time.Millisecond}, h1.know)
		_ = b.Close()
		if err == nil {
			if writes < 10 {
				t.Errorf("it took %d writes only", writes)
			}
			sameWorlds(t, content(t, w), want)
			return
		}
		if _, err := h1.st.Get(t.Context(), record.ClusterKey()); err == nil {
			t.Errorf("after %d writes the store is believed", writes)
		}
		if _, err := h1.reseeds(t.Context(), func(r *registry.ReseedRequest) { r.Patience = time.Millisecond }); err != nil {
			t.Errorf("after %d writes the reseed cannot be ended: %v", writes, err)
		}
		sameWorlds(t, content(t, w), want)
		h1.sound(t)
	}
}

// Given a host that dies while it puts a partition back, then another that knows it does, after a while.
func TestAnotherHostGoesOnWithAPartition(t *testing.T) {
	t.Parallel()
	w, h := town(t, "c")
	h1, h2 := tellers(t, w, h, true)
	want := content(t, w)
	w.Restore(memory.Backup{})
	h1.answers(t)
	dying := &breaking{Client: w.Client(), left: 6}
	t.Cleanup(func() { _ = dying.Close() })
	d := registry.New(registry.Config{Store: dying, Picture: record.Empty, Now: time.Now})
	if _, err := d.Reseed(t.Context(), registry.ReseedRequest{By: "h2", Patience: time.Second}, h2.know); err == nil {
		t.Fatal("it has not died")
	}
	if got, err := h2.reseeds(t.Context(), func(r *registry.ReseedRequest) { r.Patience = 8 * time.Second }); err != nil || len(got.Pending) > 0 {
		t.Fatalf("%+v, %v", got, err)
	}
	sameWorlds(t, content(t, w), want)
	h1.sound(t)
}

// hazy is a store that does not say what became of one write.
type hazy struct {
	*memory.Client
	before  int // it
	applied bool
}

func (z *hazy) Txn(ctx context.Context, t store.Txn) (store.Rev, error) {
	if z.before--; z.before == -1 {
		if z.applied {
			_, _ = z.Client.Txn(ctx, t)
		}
		return 0, store.ErrUnknown
	}
	return z.Client.Txn(ctx, t)
}

// Given a store that does not say what became of any one of a reseed's writes, then it is right all the same.
func TestAReseedWithUnknownOutcomes(t *testing.T) {
	t.Parallel()
	for n := 0; ; n++ {
		past := false
		for _, applied := range []bool{true, false} {
			w, h := town(t, "c")
			h1, _ := tellers(t, w, h, true)
			want := content(t, w)
			w.Restore(memory.Backup{})
			z := &hazy{Client: w.Client(), before: n, applied: applied}
			r := registry.New(registry.Config{Store: z, Picture: record.Empty, Now: time.Now})
			if _, err := r.Reseed(t.Context(), registry.ReseedRequest{By: "h1", Patience: time.Millisecond}, h1.know); err != nil {
				t.Errorf("outcome %d unknown, applied %v: %v", n, applied, err)
			}
			_ = z.Close()
			sameWorlds(t, content(t, w), want)
			past = z.before >= 0
		}
		if past {
			return
		}
	}
}

func TestWhatAReseedRefuses(t *testing.T) {
	w, h := town(t, "c")
	h1, _ := tellers(t, w, h, true)
	w2, _ := town(t, "other")
	stranger := &teller{host: newHost(t, w2, "h1"), id: "h1", know: h1.know}
	before := content(t, w2)
	if _, err := stranger.reseeds(t.Context()); registry.KindOf(err) != registry.Exists || !strings.Contains(err.Error(), "--force") {
		t.Errorf("into another cluster: %v", err)
	}
	sameWorlds(t, content(t, w2), before)
	want := content(t, w)
	if _, err := stranger.reseeds(t.Context(), force); err != nil {
		t.Error(err)
	}
	sameWorlds(t, content(t, w2), want)
	stranger.sound(t)
	newcomer := &teller{host: newHost(t, memory.New(), "h9"), id: "h9", know: registry.Knowledge{Picture: record.Empty()}}
	if _, err := newcomer.reseeds(t.Context()); registry.KindOf(err) != registry.NotFound {
		t.Errorf("a host that knows nothing: %v", err)
	}
}
