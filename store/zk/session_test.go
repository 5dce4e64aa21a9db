package zk_test

import (
	"errors"
	"testing"
	"time"

	zookeeper "github.com/go-zookeeper/zk"

	"weft/store"
)

func host(name string) store.Key { return store.Key{Partition: store.Alive, Name: name} }

func session(t *testing.T, s store.Store, name, resume string) store.Session {
	t.Helper()
	x, err := s.OpenSession(t.Context(), store.SessionConfig{Key: host(name), Value: []byte("of " + name), TTL: 2 * time.Second, Resume: resume})
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func acls(t *testing.T, cli *zookeeper.Conn, path string) map[string][]zookeeper.ACL {
	t.Helper()
	out := map[string][]zookeeper.ACL{}
	acl, _, err := cli.GetACL(path)
	if err != nil {
		t.Fatal(err)
	}
	out[path] = acl
	kids, _, err := cli.Children(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, kid := range kids {
		for p, a := range acls(t, cli, path+"/"+kid) {
			out[p] = a
		}
	}
	return out
}

func fenced(t *testing.T, s store.Store, x store.Session) error {
	t.Helper()
	_, err := s.Txn(t.Context(), store.Txn{If: []store.Cond{x.Alive()}, Then: []store.Op{store.Put(key("fenced"), nil)}})
	return err
}

// A successor takes over. What its predecessor still writes is refused, and the predecessor notices, if it is still there.
func TestASessionThatIsTakenOver(t *testing.T) {
	t.Parallel()
	a, b, watcher := client(t, three, t.Name()), client(t, three, t.Name()), client(t, three, t.Name())
	old := session(t, a, "h", "")
	w := watcher.Watch(t.Context(), store.Alive)
	next(t, w)
	successor := session(t, b, "h", old.ID())
	if successor.ID() != old.ID() || successor.Alive() == old.Alive() {
		t.Errorf("session %s at %v became %s at %v", old.ID(), old.Alive(), successor.ID(), successor.Alive())
	}
	if got := next(t, w); got.Rev != successor.Alive().Rev || got.Resync || len(got.Puts) != 1 || len(got.Dels) != 0 {
		t.Errorf("told: %+v", got)
	}
	var c *store.ConflictError
	if err := fenced(t, a, old); !errors.As(err, &c) || c.Have != successor.Alive().Rev {
		t.Errorf("the predecessor's write: %v", err)
	}
	if err := fenced(t, b, successor); err != nil {
		t.Errorf("the successor's write: %v", err)
	}
	select {
	case <-old.Done():
	case <-time.After(3 * old.TTL()):
		t.Error("the predecessor goes on")
	}
	select {
	case <-successor.Done():
		t.Error("the successor has ended")
	case <-time.After(2 * old.TTL()):
	}
	if err := successor.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if got := next(t, w); len(got.Dels) != 1 {
		t.Errorf("after the end: %+v", got)
	}
}

// Somebody else's hand ends a session: its holder knows by its next renewal.
func TestASessionWhoseKeyIsDeleted(t *testing.T) {
	t.Parallel()
	s := client(t, single, t.Name())
	x := session(t, s, "h", "")
	if _, err := s.Txn(t.Context(), store.Txn{If: []store.Cond{x.Alive()}, Then: []store.Op{store.Del(host("h"))}}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-x.Done():
	case <-time.After(x.TTL()):
		t.Error("the holder goes on")
	}
	if err := fenced(t, s, x); err == nil {
		t.Error("a write of an ended session was applied")
	}
	if err := x.Close(t.Context()); err != nil {
		t.Error(err)
	}
	y := session(t, s, "h", x.ID()) // the ZooKeeper session may be alive, its key is not
	if err := fenced(t, s, y); err != nil {
		t.Error(err)
	}
	if err := y.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestConditionsOnASessionsKey(t *testing.T) {
	t.Parallel()
	s := client(t, single, t.Name())
	x := session(t, s, "h", "")
	other := client(t, single, t.Name()) // which has to read what the key's revision means
	for name, tc := range map[string]struct {
		cond store.Cond
		ok   bool
	}{
		"its revision": {x.Alive(), true}, "another": {store.Cond{Key: host("h"), Rev: x.Alive().Rev - 1}, false},
		"exists": {store.Cond{Key: host("h"), Rev: store.Exists}, true}, "absent": {store.Cond{Key: host("h")}, false},
		"nobody exists": {store.Cond{Key: host("nobody"), Rev: store.Exists}, false}, "nobody is absent": {store.Cond{Key: host("nobody")}, true},
	} {
		_, err := other.Txn(t.Context(), store.Txn{If: []store.Cond{tc.cond}})
		var c *store.ConflictError
		if tc.ok != (err == nil) || err != nil && !errors.As(err, &c) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if e, err := other.Get(t.Context(), host("h")); err != nil || e.Rev != x.Alive().Rev || string(e.Value) != "of h" {
		t.Errorf("%+v, %v", e, err)
	}
	if _, err := other.Txn(t.Context(), store.Txn{Then: []store.Op{store.Put(host("h"), nil)}}); !errors.Is(err, store.ErrInvalid) {
		t.Errorf("a put: %v", err)
	}
	if _, err := other.OpenSession(t.Context(), store.SessionConfig{Key: key("k"), TTL: time.Second}); !errors.Is(err, store.ErrInvalid) {
		t.Errorf("a session in another partition: %v", err)
	}
	if err := x.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := other.Get(t.Context(), host("h")); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("after the end: %v", err)
	}
}

// Sessions that come and go between two looks of a watch are told as a difference, never as the transactions that they were not.
func TestSessionsThatComeAndGoUnseen(t *testing.T) {
	t.Parallel()
	away, here := client(t, single, t.Name()), client(t, single, t.Name())
	first := session(t, here, "first", "")
	w := away.Watch(t.Context(), store.Alive)
	next(t, w)
	unseen := session(t, here, "unseen", "") // delivered only when the next batch is asked for: until then the watch stands still
	stays := session(t, here, "stays", "")
	if err := errors.Join(unseen.Close(t.Context()), first.Close(t.Context())); err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{"first": true}
	for done := false; !done; done = !have["first"] && !have["unseen"] && have["stays"] {
		b := next(t, w)
		if !b.Resync && len(b.Puts)+len(b.Dels) != 1 {
			t.Errorf("not one transaction: %+v", b)
		}
		for _, e := range b.Puts {
			have[e.Key.Name] = true
		}
		for _, k := range b.Dels {
			delete(have, k.Name)
		}
	}
	if err := stays.Close(t.Context()); err != nil {
		t.Error(err)
	}
}
