package memory_test

import (
	"errors"
	"testing"
	"time"

	"go.uber.org/goleak"

	"weft/store"
	"weft/store/memory"
	"weft/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) {
	worlds := map[string]*memory.World{}
	clients := []*memory.Client{}
	w := storetest.World{Floor: 100 * time.Millisecond}
	lock := make(chan struct{}, 1)
	w.Client = func(t *testing.T, prefix string) store.Store {
		lock <- struct{}{}
		defer func() { <-lock }()
		if worlds[prefix] == nil {
			worlds[prefix] = memory.New()
		}
		c := worlds[prefix].Client()
		clients = append(clients, c)
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	w.Compact = func(*testing.T) {
		lock <- struct{}{}
		defer func() { <-lock }()
		for _, c := range clients {
			c.ForgetHistory()
		}
	}
	storetest.Run(t, w)
}

func TestFaultsOnDemand(t *testing.T) {
	world := memory.New()
	c, other := world.Client(), world.Client()
	defer func() { _ = c.Close(); _ = other.Close() }()
	k := store.Key{Partition: store.Meta, Name: "k"}
	txn := store.Txn{If: []store.Cond{{Key: k, Rev: store.Absent}}, Then: []store.Op{store.Put(k, nil)}}

	c.Cut(true)
	if _, err := c.Txn(t.Context(), txn); !errors.Is(err, store.ErrUnreachable) {
		t.Errorf("cut off: %v", err)
	}
	c.Cut(false)
	c.NextUnknown(false)
	if _, err := c.Txn(t.Context(), txn); !errors.Is(err, store.ErrUnknown) {
		t.Errorf("unknown: %v", err)
	}
	if _, err := other.Get(t.Context(), k); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("not applied, and yet: %v", err)
	}
	c.NextUnknown(true)
	if _, err := c.Txn(t.Context(), txn); !errors.Is(err, store.ErrUnknown) {
		t.Errorf("unknown: %v", err)
	}
	if _, err := other.Get(t.Context(), k); err != nil {
		t.Errorf("applied, and yet: %v", err)
	}
}
