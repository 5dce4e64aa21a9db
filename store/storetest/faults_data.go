package storetest

import (
	"bytes"
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
	cases := []struct {
		name   string
		change func(*testing.T, *site, *past)
	}{
		{"an empty server", emptied},
		{"an older state of the server's disk", olderDisk},
		{"another cluster", otherCluster},
	}
	if w.Kind == server.Consul {
		cases = append(cases, struct {
			name   string
			change func(*testing.T, *site, *past)
		}{"a snapshot restored while the server runs", olderSnapshot})
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) { anotherPast(t, s, c.change) })
	}
}

// past is what a case has written.
type past struct {
	s store.Store
	n int
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
	}
	return last
}

func anotherPast(t *testing.T, s *site, change func(*testing.T, *site, *past)) {
	prefix, host := prefixOf(t), s.host(t)
	p := &past{s: s.client(t, prefix, s.near)}
	p.grow(t, 10)
	there := newFollower(t, "attached", s.client(t, prefix, s.near))
	away := newFollower(t, "absent", s.client(t, prefix, dialFrom(host)))
	before := p.status(t)
	last := p.grow(t, 10)
	there.reaches(t, last, time.Now(), heal)
	away.reaches(t, last, time.Now(), heal)
	heals := cut(t, host, reject)
	change(t, s, p)
	since := time.Now()
	if after := p.status(t); after.ClusterID == before.ClusterID && after.Rev >= last {
		t.Errorf("cluster %s at %d is said to be cluster %s at %d", before.ClusterID, last, after.ClusterID, after.Rev)
	}
	p.follows(t, there, since)
	for rev := p.grow(t, 10); rev <= last; {
		rev = p.grow(t, 10)
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
	l, err := p.s.List(t.Context(), store.Meta)
	if err != nil {
		t.Fatal(err)
	}
	poll(t, heal, func() error { return f.difference(l) })
	t.Logf("measured: %s: the %s watch exact after %v", t.Name(), f.name, time.Since(since).Round(time.Millisecond))
	f.exact(t, l, nil)
}

func emptied(t *testing.T, s *site, _ *past) {
	m := s.cluster.Members[0]
	if err := errors.Join(m.Kill(), m.Lose(), m.Start(), s.cluster.Wait(t.Context())); err != nil {
		t.Fatal(err)
	}
}

// olderDisk puts back what the server had on its disk some transactions ago.
func olderDisk(t *testing.T, s *site, p *past) {
	m := s.cluster.Members[0]
	old := filepath.Join(t.TempDir(), "old")
	if err := errors.Join(m.Kill(), os.CopyFS(old, os.DirFS(m.Dir)), m.Start(), s.cluster.Wait(t.Context())); err != nil {
		t.Fatal(err)
	}
	p.grow(t, 20)
	if err := errors.Join(m.Kill(), m.Lose(), os.CopyFS(m.Dir, os.DirFS(old)), m.Start(), s.cluster.Wait(t.Context())); err != nil {
		t.Fatal(err)
	}
}

// otherCluster starts another cluster, with more in it, at the addresses of the first.
func otherCluster(t *testing.T, s *site, _ *past) {
	m := s.cluster.Members[0]
	if err := m.Kill(); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(s.dir, "another")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	other := s.start(t, dir)
	t.Cleanup(func() { // before the clients close
		if err := errors.Join(other.Stop(), m.Start(), s.cluster.Wait(t.Context())); err != nil {
			t.Log(err)
		}
	})
}

// olderSnapshot restores a snapshot of Consul's own making.
func olderSnapshot(t *testing.T, s *site, p *past) {
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
	p.grow(t, 20)
	if err := cli.Snapshot().Restore(nil, bytes.NewReader(raw)); err != nil {
		t.Fatal(err)
	}
}
