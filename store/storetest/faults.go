package storetest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weft/store"
	"weft/store/storetest/server"
)

// FaultWorld is a back end whose servers and links the suite breaks. It starts the servers itself, in network namespaces of its own.
type FaultWorld struct {
	Kind server.Kind
	// Open returns a new client, which the test closes.
	Open func(t *testing.T, endpoints []string, dial Dial, prefix string) store.Store
	// Compact makes the back end forget the history of a prefix, through a client that is well.
	Compact func(t *testing.T, c *server.Cluster, s store.Store)
	// Floor is the shortest session that the back end grants.
	Floor time.Duration
	// Attempts is how many connections a client with watches, a session and a caller opens at most while its server is down, in a second.
	Attempts int
	// Frames is how many writes to its connection one request is, with what the protocol itself needs.
	Frames int
	// DiskRestart is true where a server whose disk was full must be started anew.
	DiskRestart bool
}

// heal is how soon after a fault every watch is exact again.
const heal = 5 * time.Second

// RunFaults runs the suite. Each group has servers of its own; the groups run together, since they wait more than they compute.
func RunFaults(t *testing.T, w FaultWorld) {
	for name, group := range map[string]func(*testing.T, FaultWorld){
		"a server":    aServer,
		"a client":    aClient,
		"three nodes": threeNodes,
		"data":        lostData,
		"disk":        fullDisk,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			group(t, w)
		})
	}
}

// site is a cluster with clients on a host of their own.
type site struct {
	FaultWorld
	*lab
	cluster *server.Cluster
	dir     string
	near    Dial // from the host that is never cut off
}

func (w FaultWorld) site(t *testing.T, servers int) *site {
	t.Helper()
	return w.siteWith(t, servers, server.Options{Dir: t.TempDir()})
}

// siteWith has its data in a directory of o.Dir.
func (w FaultWorld) siteWith(t *testing.T, servers int, o server.Options) *site {
	t.Helper()
	l := newLab(t, w.Kind, servers)
	o.Dir = filepath.Join(o.Dir, "cluster")
	if err := os.Mkdir(o.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return &site{FaultWorld: w, lab: l, dir: o.Dir, near: dialFrom(l.control), cluster: l.startWith(t, o)}
}

// waited waits until the servers take writes.
func (s *site) waited(t *testing.T) {
	t.Helper()
	if err := s.cluster.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// prefixOf is a test's own.
func prefixOf(t *testing.T) string { return strings.ReplaceAll(t.Name(), "/", "-") }

// client is one on the near host, or with another dial elsewhere.
func (s *site) client(t *testing.T, prefix string, dial Dial) store.Store {
	t.Helper()
	c := s.Open(t, s.cluster.Endpoints(), dial, prefix)
	t.Cleanup(func() { closeStore(t, c) })
	return c
}

func closeStore(t *testing.T, c store.Store) {
	if err := c.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

// scene is what every fault happens to: writers, watches and a session that all should live through it.
type scene struct {
	*site
	prefix  string
	s       store.Store // writes nothing of the load
	load    *load
	watches []*follower
	session store.Session
}

// Of sessions: what a host has, and what outlives the start of a server on a machine that is busy with other servers.
const (
	hostTTL = 15 * time.Second
	longTTL = 40 * time.Second
)

// scene sets it up on the near host.
func (s *site) scene(t *testing.T, prefix string) *scene {
	t.Helper()
	x := &scene{site: s, prefix: prefix, s: s.client(t, prefix, s.near)}
	x.watches = append(x.watches, newFollower(t, "early", x.s))
	var err error
	x.session, err = x.s.OpenSession(t.Context(), store.SessionConfig{Key: store.Key{Partition: store.Alive, Name: "host"}, TTL: longTTL})
	if err != nil {
		t.Fatal(err)
	}
	x.load = newLoad(t, s.client(t, prefix, s.near), s.client(t, prefix, s.near), s.client(t, prefix, s.near))
	x.watches = append(x.watches, newFollower(t, "late", s.client(t, prefix, s.near)))
	x.load.grown(t, 10)
	return x
}

// far adds a watch through a client on a host that can be cut off.
func (x *scene) far(t *testing.T, dial Dial) (store.Store, *follower) {
	t.Helper()
	s := x.client(t, x.prefix, dial)
	f := newFollower(t, "far", s)
	x.watches = append(x.watches, f)
	return s, f
}

// healed waits until every watch is level with the store, which has been well since the given time.
func (x *scene) healed(t *testing.T, since time.Time) {
	t.Helper()
	rev := x.mark(t)
	acked := time.Since(since)
	for _, f := range x.watches {
		t.Logf("measured: %s: writes after %v, the %s watch exact after %v", t.Name(), acked.Round(time.Millisecond), f.name, f.reaches(t, rev, since, max(time.Millisecond, heal-time.Since(since))).Round(time.Millisecond))
	}
	x.load.grown(t, 10)
}

// mark applies a transaction as soon as the store is there.
func (x *scene) mark(t *testing.T) (rev store.Rev) {
	t.Helper()
	poll(t, patience, func() (err error) {
		ctx, cancel := context.WithTimeout(t.Context(), callWait)
		defer cancel()
		rev, err = x.s.Txn(ctx, put("mark", t.Name()))
		if err != nil && !errors.Is(err, store.ErrUnknown) && !errors.Is(err, store.ErrUnreachable) {
			t.Fatalf("a healthy store: %v", err)
		}
		return err
	})
	return rev
}

// settle ends the load and compares all that is known with what is there. Where history was kept, each transaction must have come by itself.
func (x *scene) settle(t *testing.T, historyKept bool) {
	t.Helper()
	x.load.stop()
	rev := x.mark(t)
	for _, f := range x.watches {
		f.reaches(t, rev, time.Now(), heal)
	}
	x.load.check(t, agree(t, x.s, x.watches...))
	for _, f := range x.watches {
		f.exact(t, x.load)
		if n := f.resyncs(); historyKept && n > 0 {
			t.Errorf("the %s watch was told %d differences though no history was lost", f.name, n)
		}
	}
}

// sessionLives checks that the session of a host that lives has lived through it all, and ends it.
func (x *scene) sessionLives(t *testing.T) {
	t.Helper()
	select {
	case <-x.session.Done():
		t.Error("the session ended by itself")
	default:
	}
	if _, err := x.s.Txn(t.Context(), store.Txn{If: []store.Cond{x.session.Alive()}, Then: put("fenced", "").Then}); err != nil {
		t.Errorf("a fenced write of a session that lives: %v", err)
	}
	if err := x.session.Close(t.Context()); err != nil {
		t.Error(err)
	}
}
