package storetest

import (
	"errors"
	"testing"
	"time"
	"weft/store"
)

func (e env) session(t *testing.T, s store.Store, resume string) (store.Session, error) {
	t.Helper()
	return s.OpenSession(e.ctx, store.SessionConfig{
		Key: store.Key{Partition: store.Alive, Name: "host"}, Value: []byte("v"), TTL: max(e.Floor, 2*time.Second), Resume: resume,
	})
}

func sessionCloses(t *testing.T, e env) {
	s, err := e.session(t, e.s, "")
	if err != nil {
		t.Fatal(err)
	}
	w := e.s.Watch(e.ctx, store.Alive)
	if b := next(t, w); len(b.Puts) != 1 || b.Puts[0].Rev != s.Alive().Rev {
		t.Errorf("first batch %+v, session at %v", b, s.Alive())
	}
	if _, err := e.s.Txn(e.ctx, store.Txn{If: []store.Cond{s.Alive()}, Then: []store.Op{store.Put(key("x"), nil)}}); err != nil {
		t.Errorf("fenced write of a live session: %v", err)
	}
	// It lives longer than its TTL as long as it is renewed.
	select {
	case <-s.Done():
		t.Fatal("the session ended by itself")
	case <-time.After(s.TTL() + s.TTL()/2):
	}
	if err := s.Close(e.ctx); err != nil {
		t.Fatal(err)
	}
	<-s.Done()
	if b := next(t, w); len(b.Dels) != 1 {
		t.Errorf("after the end: %+v", b)
	}
	if _, err := e.s.Txn(e.ctx, store.Txn{If: []store.Cond{s.Alive()}, Then: []store.Op{store.Put(key("x"), nil)}}); err == nil {
		t.Error("a write of an ended session was applied")
	}
}

func sessionResumes(t *testing.T, e env) {
	old, err := e.session(t, e.s, "")
	if err != nil {
		t.Fatal(err)
	}
	old.Leave()
	s, err := e.session(t, e.s, old.ID())
	if err != nil {
		t.Fatal(err)
	}
	if s.ID() != old.ID() {
		t.Errorf("session %s became %s", old.ID(), s.ID())
	}
	select {
	case <-s.Done():
		t.Error("the session that was taken over ended")
	case <-time.After(s.TTL() + s.TTL()/2):
	}
	if err := s.Close(e.ctx); err != nil {
		t.Error(err)
	}
	// What is gone cannot be taken over, and is no reason to fail.
	again, err := e.session(t, e.s, old.ID())
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Close(e.ctx); err != nil {
		t.Error(err)
	}
}

func sessionExpires(t *testing.T, e env) {
	s, err := e.session(t, e.s, "")
	if err != nil {
		t.Fatal(err)
	}
	if s.Bound() < s.TTL() {
		t.Errorf("the key may outlive its holder by %v, TTL %v", s.Bound(), s.TTL())
	}
	w := e.s.Watch(e.ctx, store.Alive)
	next(t, w)
	left := time.Now()
	s.Leave()
	select {
	case b := <-w:
		if len(b.Dels) != 1 {
			t.Errorf("after leaving: %+v", b)
		}
	case <-time.After(s.Bound() + slack):
		t.Fatalf("the key is still there %v after it was left, TTL %v, bound %v", time.Since(left), s.TTL(), s.Bound())
	}
	if d := time.Since(left); d < s.TTL()/2 {
		t.Errorf("the key went %v after the last renewal, TTL %v", d, s.TTL())
	}
}

func sessionIsExclusive(t *testing.T, e env) {
	s, err := e.session(t, e.s, "")
	if err != nil {
		t.Fatal(err)
	}
	_, err = e.session(t, e.client(t), "")
	var c *store.ConflictError
	if !errors.As(err, &c) || c.Have != s.Alive().Rev {
		t.Errorf("second session on one key: %v", err)
	}
	if err := s.Close(e.ctx); err != nil {
		t.Error(err)
	}
}
