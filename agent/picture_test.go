package agent

import (
	"context"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"

	"weft/agent/journal"
	"weft/store"
	"weft/store/follow"
	"weft/store/memory"
	"weft/store/record"
)

// Given an agent that ends, in any moment, while the records are put where their revisions are lower, then its next life believes the store:
// nothing that was written down before is compared with it, whether the network was followed or not.
func TestAPictureThatIsKeptWhileTheRecordsMove(t *testing.T) {
	put := func(w *memory.World, ops ...store.Op) {
		c := w.Client()
		defer func() { _ = c.Close() }()
		if _, err := c.Txn(t.Context(), store.Txn{Then: ops}); err != nil {
			t.Fatal(err)
		}
	}
	encoded := func(k store.Key, r any) store.Op {
		b, err := record.Encode(r)
		if err != nil {
			t.Fatal(err)
		}
		return store.Put(k, b)
	}
	endpoint := func(n record.NetworkID) store.Op {
		return encoded(record.EndpointKey(n, "e"), &record.Endpoint{ID: "e", Network: n, Host: "h", Name: "c"})
	}
	old, w := memory.New(), memory.New()
	old.Restore(memory.Backup{Rev: 5000})
	put(old, encoded(record.ClusterKey(), &record.Cluster{ID: "c"}), endpoint("used"), endpoint("unused"))
	put(w, encoded(record.ClusterKey(), &record.Cluster{ID: "c", History: "m1", Generation: 1}), endpoint("used"), endpoint("unused"))

	dir := t.TempDir()
	life := func(w *memory.World, networks ...record.NetworkID) error {
		disk := memory.New().Client()
		a := &Agent{log: slog.New(slog.DiscardHandler), journal: journal.New(disk, filepath.Join(dir, "state"))}
		seed, errs := a.journal.Picture("c")
		if len(errs) > 0 {
			t.Fatal(errs)
		}
		client := w.Client()
		a.follower = follow.New(follow.Config{Store: client, Seed: seed, Cluster: "c", Log: a.log})
		a.member = newMember(memberConfig{clock: machineClock{}}, journal.Identity{Cluster: "c"})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { a.follower.Run(ctx) })
		defer func() { cancel(); wg.Wait(); _ = client.Close(); _ = disk.Close() }()
		if err := a.follower.WaitSynced(ctx, store.Meta); err != nil {
			return err
		}
		for _, n := range networks {
			a.follower.Follow(n)
			if err := a.follower.WaitSynced(ctx, record.NetPartition(n)); err != nil {
				return err
			}
		}
		a.savePicture(map[string]savedPart{})
		return nil
	}
	for i, networks := range [][]record.NetworkID{{"used", "unused"}, {}, {"used"}, {"used", "unused"}} {
		if i == 0 {
			if err := life(old, networks...); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := life(w, networks...); err != nil {
			t.Errorf("life %d: %v", i, err)
		}
	}
}
