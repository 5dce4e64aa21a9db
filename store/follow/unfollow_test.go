package follow_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"

	"weft/store"
	"weft/store/follow"
	"weft/store/record"
)

func TestUnfollowMakesANetworkUnknown(t *testing.T) {
	w := newWorld(t)
	w.apply(t, endpoint(t, front, 1)...)
	f := start(t, follow.Config{Store: w.follows})
	f.Unfollow(back) // never followed: no error
	f.Follow(front)
	synced(t, f, record.NetPartition(front))
	f.Unfollow(front)
	if length(f, front) != -1 || f.Synced(record.NetPartition(front)) || len(f.Following()) != 0 {
		t.Errorf("%d endpoints, following %v", length(f, front), f.Following())
	}
	w.apply(t, endpoint(t, front, 2)...)
	f.Follow(front)
	synced(t, f, record.NetPartition(front))
	if length(f, front) != 2 {
		t.Errorf("followed again: %d endpoints", length(f, front))
	}
}

// A seed may have networks that nobody follows any more: they are let go of like others, and what was not there stays unknown.
func TestUnfollowForgetsWhatOnlyTheSeedHad(t *testing.T) {
	w := newWorld(t)
	w.apply(t, endpoint(t, front, 1)...)
	first := start(t, follow.Config{Store: w.follows})
	first.Follow(front)
	synced(t, first, record.NetPartition(front))
	f := start(t, follow.Config{Store: w.follows, Seed: first.Picture()})
	if length(f, front) != 1 {
		t.Fatalf("the seed has %d endpoints", length(f, front))
	}
	f.Unfollow(front)
	f.Unfollow(back)
	if length(f, front) != -1 || length(f, back) != -1 {
		t.Errorf("%d and %d endpoints, want that neither is known", length(f, front), length(f, back))
	}
}

func TestAFollowBeforeTheStartCounts(t *testing.T) {
	w := newWorld(t)
	w.apply(t, endpoint(t, front, 1)...)
	f := follow.New(follow.Config{Store: w.follows, Log: slog.New(slog.DiscardHandler)})
	f.Follow(front)
	f.Follow(back)
	f.Unfollow(back)
	run(t, f)
	synced(t, f, record.NetPartition(front))
	if length(f, front) != 1 || length(f, back) != -1 {
		t.Errorf("%d and %d endpoints", length(f, front), length(f, back))
	}
}

func TestWaitersEndWithTheirContext(t *testing.T) {
	w := newWorld(t)
	f := start(t, follow.Config{Store: w.follows})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- f.WaitRev(ctx, store.Meta, 1000) }()
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// Following, unfollowing, writing, reading and the end all at once: what is followed at the end is exact.
func TestFollowAndUnfollowRace(t *testing.T) {
	w := newWorld(t)
	f := follow.New(follow.Config{Store: w.follows, Log: slog.New(slog.DiscardHandler)})
	nets := []record.NetworkID{"n0", "n1", "n2"}
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for k := range 200 {
				n := nets[(i+k)%len(nets)]
				switch k % 4 {
				case 0, 1:
					f.Follow(n)
				case 2:
					f.Unfollow(n)
				default:
					f.TakeDirty()
					f.Picture().Net(n)
				}
			}
		})
	}
	stop := run(t, f)
	for i := range 100 {
		w.apply(t, endpoint(t, nets[i%3], i)...)
	}
	wg.Wait()
	for _, n := range nets {
		f.Follow(n)
	}
	settle(t, w, f)
	total := 0
	for _, n := range nets {
		total += length(f, n)
	}
	if total != 100 {
		t.Errorf("%d endpoints, want 100", total)
	}
	for i := range 4 { // the end races with more of the same
		wg.Go(func() {
			for k := range 100 {
				f.Unfollow(nets[(i+k)%3])
				f.Follow(nets[k%3])
			}
		})
	}
	stop()
	wg.Wait()
}
