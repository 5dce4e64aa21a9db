package consul_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"weft/store"
	"weft/store/consul"
	"weft/store/storetest/server"
)

// gate is a way to a server that can be closed.
type gate struct{ closed atomic.Bool }

func (g *gate) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	if g.closed.Load() {
		return nil, errors.New("the gate is closed")
	}
	c, err := (&net.Dialer{}).DialContext(ctx, network, address)
	return &gatedConn{c, g}, err
}

type gatedConn struct {
	net.Conn
	g *gate
}

// Read loses what comes while the gate is closed, and the connection with it.
func (c *gatedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.g.closed.Load() {
		return 0, errors.Join(errors.New("cut"), c.Conn.Close())
	}
	return n, err
}

// A journal stays short whoever writes; what it loses is kept for a watch that is away, which hears of each transaction by itself.
func TestAJournalIsShortAndAWatchThatWasAwayMissesNothing(t *testing.T) {
	t.Parallel()
	var g gate
	away := with(t, consul.Config{Endpoints: single.Endpoints(), Prefix: "away", Dial: g.Dial})
	writer := client(t, single, "away")
	if _, err := writer.Txn(t.Context(), txn); err != nil {
		t.Fatal(err)
	}
	w := away.Watch(t.Context(), store.Meta)
	next(t, w)
	g.closed.Store(true)
	const n = 1500
	var last store.Rev
	for i := range n {
		var err error
		if last, err = writer.Txn(t.Context(), store.Txn{Then: []store.Op{store.Put(key("k"), fmt.Append(nil, i)), store.Put(key(fmt.Sprint(i%10)), nil)}}); err != nil {
			t.Fatal(err)
		}
	}
	journal, archive, err := consul.History(t.Context(), writer, store.Meta)
	if err != nil || journal > 600 || journal+archive < n {
		t.Errorf("%d entries in the journal and %d in its archive, %v", journal, archive, err)
	}
	t.Logf("%d entries in the journal, %d in its archive", journal, archive)
	g.closed.Store(false)
	begin := time.Now()
	for i := range n {
		b := next(t, w)
		if b.Resync || len(b.Puts) != 2 || string(b.Puts[0].Value) != fmt.Sprint(i) {
			t.Fatalf("batch %d: %+v", i, b)
		}
		if i == n-1 && b.Rev != last {
			t.Errorf("the last one at %d, want %d", b.Rev, last)
		}
	}
	if d := time.Since(begin); d > 5*time.Second {
		t.Errorf("it took %v", d)
	}
}

// Consul is restored from a snapshot, whose indexes are lower: watches are told the exact difference, also one that comes back only when the
// new history has grown beyond the old one.
func TestARestoredSnapshotIsTold(t *testing.T) {
	t.Parallel()
	c := own(t, 1)
	var g gate
	s, away := client(t, c, "p"), with(t, consul.Config{Endpoints: c.Endpoints(), Prefix: "p", Dial: g.Dial})
	write := func(name, value string) (rev store.Rev) {
		t.Helper()
		rev, err := s.Txn(t.Context(), store.Txn{Then: []store.Op{store.Put(key(name), []byte(value))}})
		if err != nil {
			t.Fatal(err)
		}
		return rev
	}
	write("stays", "1")
	changed := write("changes", "1")
	x, err := s.OpenSession(t.Context(), store.SessionConfig{Key: store.Key{Partition: store.Alive, Name: "h"}, TTL: 20 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	snapshot := save(t, c)
	id, err := s.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	write("changes", "2")
	write("goes", "1")
	there, gone := s.Watch(t.Context(), store.Meta), away.Watch(t.Context(), store.Meta)
	next(t, there)
	next(t, gone)
	g.closed.Store(true)
	last := write("goes", "2")
	next(t, there)
	begin := time.Now()
	restore(t, c, snapshot)
	if b := next(t, there); !b.Resync || len(b.Puts) != 1 || b.Puts[0].Rev != changed || string(b.Puts[0].Value) != "1" || len(b.Dels) != 1 || b.Dels[0] != key("goes") {
		t.Errorf("the watch that was there: %+v", b)
	}
	if d := time.Since(begin); d > 5*time.Second {
		t.Errorf("it took %v", d)
	}
	if st, err := s.Status(t.Context()); err != nil || st.ClusterID != id.ClusterID || st.Rev >= last {
		t.Errorf("%+v, %v, before the restore at %d", st, err, last)
	}
	var rev store.Rev
	for rev <= last {
		rev = write("new", "1")
	}
	if b := next(t, there); b.Resync || len(b.Puts) != 1 {
		t.Errorf("after the restore: %+v", b)
	}
	g.closed.Store(false)
	if b := next(t, gone); !b.Resync || len(b.Puts) != 2 || len(b.Dels) != 1 {
		t.Errorf("the watch that was away: %+v", b)
	}
	if _, err := s.Txn(t.Context(), store.Txn{If: []store.Cond{x.Alive()}, Then: txn.Then}); err != nil {
		t.Errorf("fenced write of a session that was in the snapshot: %v", err)
	}
	if err := x.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

func save(t *testing.T, c *server.Cluster) []byte {
	t.Helper()
	cli, err := c.ConsulClient(0)
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
	return raw
}

func restore(t *testing.T, c *server.Cluster, snapshot []byte) {
	t.Helper()
	cli, err := c.ConsulClient(0)
	if err != nil {
		t.Fatal(err)
	}
	if err := cli.Snapshot().Restore(nil, bytes.NewReader(snapshot)); err != nil {
		t.Fatal(err)
	}
}

func own(t *testing.T, size int) *server.Cluster {
	t.Helper()
	c, err := server.Start(t.Context(), server.Options{Kind: server.Consul, Size: size, Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Stop() })
	return c
}
