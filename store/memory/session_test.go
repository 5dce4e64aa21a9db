package memory_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"weft/store"
	"weft/store/memory"
)

var host = store.Key{Partition: store.Alive, Name: "h"}

func session(t *testing.T, c *memory.Client, key store.Key, resume string) store.Session {
	t.Helper()
	s, err := c.OpenSession(t.Context(), store.SessionConfig{Key: key, TTL: 15 * time.Second, Resume: resume})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func isDone(s store.Session) bool {
	select {
	case <-s.Done():
		return true
	default:
		return false
	}
}

func TestASessionLivesInVirtualTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		world := memory.New()
		c, other := world.Client(), world.Client()
		defer func() { _ = c.Close(); _ = other.Close() }()
		s := session(t, c, host, "")
		time.Sleep(time.Hour)
		if isDone(s) {
			t.Fatal("it ended although it was renewed")
		}
		c.Cut(true)
		time.Sleep(16 * time.Second)
		synctest.Wait()
		if !isDone(s) {
			t.Error("cut off for longer than the TTL, and not done")
		}
		if _, err := other.Get(t.Context(), host); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("the key of a session that ended: %v", err)
		}
	})
}

func TestAnExpiredSessionLeavesItsSuccessorAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		world := memory.New()
		c, other := world.Client(), world.Client()
		defer func() { _ = c.Close(); _ = other.Close() }()
		old := session(t, c, host, "")
		old.Leave()
		if _, err := other.Txn(t.Context(), store.Txn{Then: []store.Op{store.Del(host)}}); err != nil {
			t.Fatal(err)
		}
		now := session(t, other, host, "")
		time.Sleep(time.Minute)
		synctest.Wait()
		if e, err := other.Get(t.Context(), host); err != nil || e.Rev != now.Alive().Rev {
			t.Errorf("the new session's key: %+v, %v", e, err)
		}
		if err := now.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestASessionOfAnotherKeyIsNotTakenOver(t *testing.T) {
	world := memory.New()
	c := world.Client()
	defer func() { _ = c.Close() }()
	first := session(t, c, host, "")
	second := session(t, c, store.Key{Partition: store.Alive, Name: "other"}, first.ID())
	if second.ID() == first.ID() || isDone(first) {
		t.Errorf("session %s of %v became %s", first.ID(), host, second.ID())
	}
	if !world.Expire(host) || !isDone(first) || isDone(second) {
		t.Error("expiry on demand ended the wrong session, or none")
	}
	if world.Expire(host) {
		t.Error("a session that is gone expired again")
	}
	if _, err := c.Get(t.Context(), host); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("its key: %v", err)
	}
}

func TestARestoredWorldIsToldWhole(t *testing.T) {
	world := memory.New()
	c := world.Client()
	defer func() { _ = c.Close() }()
	put := func(name string) store.Rev {
		rev, err := c.Txn(t.Context(), store.Txn{Then: []store.Op{store.Put(store.Key{Partition: store.Meta, Name: name}, nil)}})
		if err != nil {
			t.Fatal(err)
		}
		return rev
	}
	w := c.Watch(t.Context(), store.Meta)
	<-w
	put("a")
	<-w
	backup := world.Backup()
	put("b")
	<-w
	world.Restore(backup)
	if b := <-w; !b.Resync || b.Rev != backup.Rev || len(b.Puts) != 1 || len(b.Dels) != 1 || b.Dels[0].Name != "b" {
		t.Errorf("after the restore: %+v", b)
	}
	before, _ := c.Status(t.Context())
	world.Restore(memory.Backup{})
	if b := <-w; !b.Resync || b.Rev != 0 || len(b.Dels) != 1 {
		t.Errorf("after the wipe: %+v", b)
	}
	if after, err := c.Status(t.Context()); err != nil || after.ClusterID == before.ClusterID || after.Rev != 0 {
		t.Errorf("status %+v, %v", after, err)
	}
}
