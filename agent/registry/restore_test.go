package registry_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"weft/agent/registry"
	"weft/store"
	"weft/store/memory"
	"weft/store/record"
)

// town is a store with a cluster of two hosts, two networks, and endpoints in them.
func town(t *testing.T, cluster string) (*memory.World, *host) {
	t.Helper()
	w := memory.New()
	h := newHost(t, w, "h1")
	if _, err := h.EnsureCluster(t.Context(), record.Cluster{ID: cluster}); err != nil {
		t.Fatal(err)
	}
	for i, name := range []record.HostID{"h1", "h2"} {
		r := record.Host{ID: name, Name: string(name), Incarnation: 1, VTEP: netip.MustParseAddr(fmt.Sprintf("192.0.2.%d", i+1))}
		if _, _, err := h.RegisterHost(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 2 {
		n := create(t, h, spec(fmt.Sprintf("n%d", i), fmt.Sprintf("10.%d.0.0/16", i)))
		for j := range 30 {
			ep := endpoint(n, h, fmt.Sprintf("c%d", j), fmt.Sprintf("10.%d.0.%d", i, j+2))
			if j%3 == 0 { // some share an alias with a virtual address
				ep.Aliases, ep.VIPAliases = []string{"api"}, []string{"api"}
			}
			if _, err := h.CreateEndpoint(t.Context(), h.as, ep); err != nil {
				t.Fatal(err)
			}
		}
	}
	return w, h
}

func backedUp(t *testing.T, h *host) []byte {
	t.Helper()
	var file bytes.Buffer
	if err := h.Backup(t.Context(), &file); err != nil {
		t.Fatal(err)
	}
	return file.Bytes()
}

// kept is what of a world a backup must bring back, by key; the cluster's record without its history.
func kept(t *testing.T, w *memory.World) map[store.Key]string {
	t.Helper()
	out := map[store.Key]string{}
	for _, e := range w.Backup().Entries {
		switch {
		case e.Key.Partition == store.Alive || strings.HasPrefix(e.Key.Name, "moves"):
			continue
		case e.Key == record.ClusterKey():
			c := record.Cluster{}
			if err := c.Decode(e.Value); err != nil {
				t.Fatal(err)
			}
			out[e.Key] = c.ID
			continue
		}
		out[e.Key] = string(e.Value)
	}
	return out
}

func sameWorlds(t *testing.T, got, want map[store.Key]string) {
	t.Helper()
	for k, v := range want {
		if got[k] != v {
			t.Errorf("%s: %q, want %q", k, got[k], v)
		}
	}
	for k := range got {
		if _, ok := want[k]; !ok {
			t.Errorf("%s is there and was not in the backup", k)
		}
	}
}

func historyOf(t *testing.T, s store.Store) string {
	t.Helper()
	e, err := s.Get(t.Context(), record.ClusterKey())
	if err != nil {
		t.Fatal(err)
	}
	c := record.Cluster{}
	if err := c.Decode(e.Value); err != nil {
		t.Fatal(err)
	}
	return c.History
}

func restored(h *host, ctx context.Context, file []byte, f func(*registry.RestoreRequest)) (registry.RestoreResult, error) {
	req := registry.RestoreRequest{By: "h1"}
	if f != nil {
		f(&req)
	}
	return h.Restore(ctx, req, bytes.NewReader(file))
}

func TestABackupComesBackIntoAnyStore(t *testing.T) {
	w, h := town(t, "c")
	file := backedUp(t, h)
	want := kept(t, w)
	for name, into := range map[string]func(t *testing.T) (*memory.World, *host){
		"an empty one": func(t *testing.T) (*memory.World, *host) {
			w := memory.New()
			return w, newHost(t, w, "h1")
		},
		"one with an empty cluster of this host's": func(t *testing.T) (*memory.World, *host) {
			w := memory.New()
			h := newHost(t, w, "h1")
			if _, err := h.EnsureCluster(t.Context(), record.Cluster{ID: "new"}); err != nil {
				t.Fatal(err)
			}
			if _, _, err := h.RegisterHost(t.Context(), record.Host{ID: "h1", Name: "h1", Incarnation: 1, VTEP: netip.MustParseAddr("192.0.2.77")}); err != nil {
				t.Fatal(err)
			}
			return w, h
		},
		"the same, changed since": func(t *testing.T) (*memory.World, *host) {
			w, h := town(t, "c")
			create(t, h, spec("later", "10.99.0.0/16"))
			return w, h
		},
	} {
		t.Run(name, func(t *testing.T) {
			w2, h2 := into(t)
			before := kept(t, w2)
			dry, err := restored(h2, t.Context(), file, func(r *registry.RestoreRequest) { r.DryRun = true })
			if err != nil {
				t.Fatal(err)
			}
			sameWorlds(t, kept(t, w2), before)
			got, err := restored(h2, t.Context(), file, nil)
			if err != nil || got.Backup.Cluster != "c" || got.Puts+got.Same != len(want) || got.Puts != dry.Puts || got.Dels != dry.Dels || got.Same != dry.Same {
				t.Errorf("%+v, %v; the dry run said %+v; the backup has %d keys", got, err, dry, len(want))
			}
			sameWorlds(t, kept(t, w2), want)
			if s, err := h2.Inspect(t.Context()); err != nil || len(s.Findings) > 0 {
				t.Errorf("%+v, %v", s.Findings, err)
			}
			if historyOf(t, h2.st) == "" {
				t.Error("the restored records have no history of their own")
			}
			h2.look(t)
			create(t, h2, spec("after", "10.200.0.0/16"))
		})
	}
}

func TestWhatARestoreRefuses(t *testing.T) {
	_, h := town(t, "c")
	file := backedUp(t, h)
	w2, other := town(t, "other")
	before := kept(t, w2)
	if _, err := restored(other, t.Context(), file, nil); registry.KindOf(err) != registry.Exists || !strings.Contains(err.Error(), "--force") {
		t.Errorf("into another cluster: %v", err)
	}
	if _, err := other.Restore(t.Context(), registry.RestoreRequest{}, strings.NewReader("rubbish\n")); err == nil {
		t.Error("rubbish was taken")
	}
	sameWorlds(t, kept(t, w2), before)
	adopted := ""
	got, err := restored(other, t.Context(), file, func(r *registry.RestoreRequest) {
		r.Force, r.Adopt = true, func(_ context.Context, c string) error { adopted = c; return nil }
	})
	if err != nil || got.Replaced != "other" || adopted != "c" {
		t.Errorf("%+v, %v, adopted %q", got, err, adopted)
	}

	move, err := record.Encode(&record.Move{ID: "m", State: record.MoveMoved, To: "etcd://elsewhere"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.st.Txn(t.Context(), store.Txn{Then: []store.Op{store.Put(record.MovesKey(), move)}}); err != nil {
		t.Fatal(err)
	}
	if _, err := restored(other, t.Context(), file, nil); registry.KindOf(err) != registry.InUse || !strings.Contains(err.Error(), "etcd://elsewhere") {
		t.Errorf("into a store that the records have left: %v", err)
	}
	if err := memoryOnly(t).Backup(t.Context(), &bytes.Buffer{}); registry.KindOf(err) != registry.NotFound {
		t.Errorf("a backup of nothing: %v", err)
	}
}

func memoryOnly(t *testing.T) *host { return newHost(t, memory.New(), "h1") }

// breaking is a store whose writes fail after some.
type breaking struct {
	*memory.Client
	left int
}

func (b *breaking) Txn(ctx context.Context, t store.Txn) (store.Rev, error) {
	if b.left--; b.left < 0 {
		return 0, errors.New("broken")
	}
	return b.Client.Txn(ctx, t)
}

// Given a restore that breaks off after any number of writes, then no agent can write, the check says why, and the same command ends it.
func TestARestoreThatBreaksOffIsEndedByTheNext(t *testing.T) {
	_, h := town(t, "c")
	file := backedUp(t, h)
	for writes := 0; ; writes++ {
		w2, h2 := town(t, "c")
		if _, err := h2.DeleteEndpoint(t.Context(), h2.as, firstNetwork(t, h2), "no such"); err != nil {
			t.Fatal(err)
		}
		b := &breaking{Client: w2.Client(), left: writes}
		r := registry.New(registry.Config{Store: b, Picture: record.Empty, Now: time.Now})
		_, err := r.Restore(t.Context(), registry.RestoreRequest{By: "h1"}, bytes.NewReader(file))
		if err == nil {
			if writes < 5 {
				t.Errorf("it took %d writes only", writes)
			}
			_ = b.Close()
			return
		}
		if writes > 0 {
			if _, _, _, err := h2.CreateNetwork(t.Context(), h2.as, spec("x", "10.50.0.0/24")); registry.KindOf(err) != registry.InUse || !strings.Contains(err.Error(), "weft restore") {
				t.Errorf("a write in the middle of a restore: %v", err)
			}
			if h, err := h2.holdings(t.Context()); err != nil || len(record.Check(h)) == 0 {
				t.Errorf("the check finds nothing in a store that is half restored: %v", err)
			}
			if err := h2.Backup(t.Context(), &bytes.Buffer{}); registry.KindOf(err) != registry.InUse {
				t.Errorf("a backup in the middle of a restore: %v", err)
			}
		}
		if _, err := restored(h2, t.Context(), file, nil); err != nil {
			t.Errorf("after %d writes the restore cannot be ended: %v", writes, err)
		}
		if s, err := h2.Inspect(t.Context()); err != nil || len(s.Findings) > 0 {
			t.Errorf("after %d writes, and the restore ended: %+v, %v", writes, s.Findings, err)
		}
		_ = b.Close()
	}
}

// holdings are all that the store has now.
func (h *host) holdings(ctx context.Context) (record.Holdings, error) {
	out := record.Holdings{Others: map[string]store.Snapshot{}}
	names, err := h.st.Partitions(ctx)
	for _, p := range names {
		s, e := h.st.List(ctx, p)
		out.Others[p], err = s, errors.Join(err, e)
	}
	out.Meta, out.Alive = out.Others[store.Meta], out.Others[store.Alive]
	delete(out.Others, store.Meta)
	delete(out.Others, store.Alive)
	return out, err
}

func firstNetwork(t *testing.T, h *host) record.NetworkID {
	t.Helper()
	h.look(t)
	for n := range h.picture.Networks() {
		return n.ID
	}
	t.Fatal("no network")
	return ""
}

// Given a store whose outcomes are not always known, then the restore is right all the same.
func TestARestoreWithUnknownOutcomes(t *testing.T) {
	w, h := town(t, "c")
	file := backedUp(t, h)
	want := kept(t, w)
	for i := range 6 {
		for _, applied := range []bool{true, false} {
			w2 := memory.New()
			h2 := newHost(t, w2, "h1")
			for range i {
				h2.st.NextUnknown(true)
			}
			h2.st.NextUnknown(applied)
			if _, err := restored(h2, t.Context(), file, nil); err != nil {
				if i == 0 && !applied { // nothing was done, and it says so
					continue
				}
				t.Errorf("outcome %d unknown, applied %v: %v", i, applied, err)
				continue
			}
			sameWorlds(t, kept(t, w2), want)
		}
	}
}

// Given a cluster that changes while it is backed up, then what was backed up is sound.
func TestABackupOfAClusterThatChanges(t *testing.T) {
	w, h := town(t, "c")
	b := &between{Client: w.Client()}
	t.Cleanup(func() { _ = b.Close() })
	made := 0
	b.before = func(int, string) {
		if made++; made > 4 {
			return
		}
		h.look(t)
		if _, _, err := h.RegisterHost(t.Context(), record.Host{ID: record.HostID(fmt.Sprintf("new%d", made)), Name: "new", Incarnation: 1, VTEP: netip.MustParseAddr(fmt.Sprintf("192.0.2.%d", 100+made))}); err != nil {
			t.Error(err)
		}
		n := create(t, h, spec(fmt.Sprintf("new%d", made), fmt.Sprintf("10.%d.0.0/16", 100+made)))
		ep := endpoint(n, h, "c", fmt.Sprintf("10.%d.0.9", 100+made))
		ep.Host = record.HostID(fmt.Sprintf("new%d", made))
		if _, err := h.CreateEndpoint(t.Context(), h.as, ep); err != nil {
			t.Error(err)
		}
	}
	r := registry.New(registry.Config{Store: b, Picture: record.Empty, Now: time.Now})
	var file bytes.Buffer
	if err := r.Backup(t.Context(), &file); err != nil {
		t.Fatal(err)
	}
	w2 := memory.New()
	h2 := newHost(t, w2, "h1")
	if _, err := restored(h2, t.Context(), file.Bytes(), nil); err != nil {
		t.Fatal(err)
	}
	if s, err := h2.Inspect(t.Context()); err != nil || len(s.Findings) > 0 {
		t.Errorf("%+v, %v", s.Findings, err)
	}
}
