package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"weft/store"
	"weft/store/storetest/server"
)

// lostData gives watches another past than the one that they have seen: each is told the exact difference, also one that comes back only
// after the new past has outgrown the old one.
func lostData(t *testing.T, w FaultWorld) {
	s := w.site(t, 1)
	cases := map[string]loss{
		"an empty server":                     emptied,
		"an older state of the server's disk": olderDisk,
		"another cluster":                     otherCluster,
	}
	if w.Kind == server.Consul {
		cases["a snapshot restored while the server runs"] = olderSnapshot
	}
	for name, prepare := range cases {
		t.Run(name, func(t *testing.T) { anotherPast(t, s, prepare) })
	}
}

// wentBack tells whether what a follower was told of as a difference is older than what it knew. A Consul that is restored while it runs goes
// on counting, so that its newest revision, once anybody writes, says nothing.
func (f *follower) wentBack() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.older
}

// loss prepares a change of the past, at a time when all is well, and returns what makes it.
type loss func(*testing.T, *site) (strike func(*testing.T))

// past is what a case has written.
type past struct {
	s   store.Store
	n   int
	top store.Rev // the highest that any of it had
}

// grow writes so many transactions.
func (p *past) grow(t *testing.T, n int) (last store.Rev) {
	t.Helper()
	for range n {
		p.n++
		txn := put(fmt.Sprintf("k%d", p.n%7), fmt.Sprintf("%s %d", t.Name(), p.n))
		if p.n%5 == 0 {
			txn.Then = append(txn.Then, store.Del(key(fmt.Sprintf("k%d", (p.n+3)%7))))
		}
		poll(t, patience, func() (err error) {
			last, err = p.s.Txn(t.Context(), txn)
			return err
		})
		p.top = max(p.top, last)
	}
	return last
}

func anotherPast(t *testing.T, s *site, prepare loss) {
	prefix, host := prefixOf(t), s.host(t)
	p := &past{s: s.client(t, prefix, s.near)}
	p.grow(t, 10)
	strike := prepare(t, s)
	there := newFollower(t, "attached", s.client(t, prefix, s.near))
	away := newFollower(t, "absent", s.client(t, prefix, dialFrom(host)))
	last := p.grow(t, 10)
	p.only(t, "in the old past")
	there.reaches(t, last, time.Now(), heal)
	away.reaches(t, last, time.Now(), heal)
	heals := cut(t, host, reject)
	before, top := p.status(t), p.top
	strike(t)
	since := time.Now()
	after := p.status(t)
	p.only(t, "in the new past")
	p.follows(t, there, since)
	if after.ClusterID == before.ClusterID && after.Rev >= top && !there.wentBack() {
		t.Errorf("cluster %s at %d is said to be cluster %s at %d, and a watch that it has gone on", before.ClusterID, top, after.ClusterID, after.Rev)
	}
	for p.grow(t, 10) <= top {
		continue
	}
	p.follows(t, there, time.Now())
	heals()
	p.follows(t, away, time.Now())
	p.grow(t, 3)
	p.follows(t, there, time.Now())
	p.follows(t, away, time.Now())
	if there.resyncs() == 0 || away.resyncs() == 0 {
		t.Errorf("%d and %d differences told", there.resyncs(), away.resyncs())
	}
}

// only writes a key that is not written again.
func (p *past) only(t *testing.T, name string) {
	t.Helper()
	rev, err := p.s.Txn(t.Context(), put(name, ""))
	if err != nil {
		t.Fatal(err)
	}
	p.top = max(p.top, rev)
}

func (p *past) status(t *testing.T) (st store.Status) {
	t.Helper()
	poll(t, patience, func() (err error) {
		st, err = p.s.Status(t.Context())
		return err
	})
	return st
}

// follows waits until a watch knows what is there, whatever the revisions say.
func (p *past) follows(t *testing.T, f *follower, since time.Time) {
	t.Helper()
	agree(t, p.s, f)
	t.Logf("measured: %s: the %s watch exact after %v", t.Name(), f.name, time.Since(since).Round(time.Millisecond))
	f.exact(t, &load{})
}

func emptied(_ *testing.T, s *site) func(*testing.T) {
	return func(t *testing.T) {
		m := s.cluster.Members[0]
		if err := errors.Join(m.Kill(), m.Lose(), m.Start(), s.cluster.Wait(t.Context())); err != nil {
			t.Fatal(err)
		}
	}
}

// olderDisk puts back what the server has on its disk now.
func olderDisk(t *testing.T, s *site) func(*testing.T) {
	m := s.cluster.Members[0]
	old := filepath.Join(t.TempDir(), "old")
	if err := errors.Join(m.Kill(), os.CopyFS(old, os.DirFS(m.Dir)), m.Start(), s.cluster.Wait(t.Context())); err != nil {
		t.Fatal(err)
	}
	return func(t *testing.T) {
		if err := errors.Join(m.Kill(), m.Lose(), os.CopyFS(m.Dir, os.DirFS(old)), m.Start(), s.cluster.Wait(t.Context())); err != nil {
			t.Fatal(err)
		}
	}
}

// otherCluster starts another cluster at the addresses of the first.
func otherCluster(t *testing.T, s *site) func(*testing.T) {
	m, dir := s.cluster.Members[0], filepath.Join(s.dir, "another")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // for the next case; the other one has stopped by then
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := errors.Join(m.Start(), s.cluster.Wait(ctx)); err != nil {
			t.Error(err)
		}
	})
	return func(t *testing.T) {
		if err := m.Kill(); err != nil {
			t.Fatal(err)
		}
		s.start(t, dir)
	}
}

// olderSnapshot restores a snapshot of Consul's own making while the server runs.
func olderSnapshot(t *testing.T, s *site) func(*testing.T) {
	cli, err := s.cluster.ConsulClient(0)
	if err != nil {
		t.Fatal(err)
	}
	r, _, err := cli.Snapshot().Save(nil)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil {
		t.Fatal(err)
	}
	return func(t *testing.T) {
		if err := cli.Snapshot().Restore(nil, bytes.NewReader(raw)); err != nil {
			t.Fatal(err)
		}
	}
}
