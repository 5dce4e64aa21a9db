package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"weft/e2e/lab"
	"weft/store/storetest/server"
)

// cluster is a lab whose failures are the test's.
type cluster struct {
	t       testing.TB
	cfg     lab.Config
	lab     *lab.Lab
	hosts   []*host
	backend *backend // nil: the etcd that the first host's agent embeds
	ailing  string   // why doctor need not find the hosts well when the story has ended; "": it must
	looked  bool     // wellAtTheEnd will be called
}

type host struct {
	*lab.Host
	c      *cluster
	ailing string // as the cluster's
}

// patience is for what has no bound of its own: far above what it takes, for machines that are busy.
const patience = 30 * time.Second

var labNumber atomic.Int64

// newCluster makes hosts whose agents are not started.
func newCluster(t testing.TB, hosts int, store lab.Store) *cluster {
	t.Helper()
	return newClusterOf(t, weftdPath, hosts, store)
}

// newClusterOf is newCluster with another agent's program.
func newClusterOf(t testing.TB, weftd string, hosts int, store lab.Store) *cluster {
	t.Helper()
	c := &cluster{t: t, cfg: lab.Config{
		Dir: fmt.Sprintf("%s%d-%d", labRoot, os.Getpid(), labNumber.Add(1)), Weft: weftPath, Weftd: weftd, Store: store,
	}}
	l, err := lab.New(t.Context(), c.cfg)
	if err != nil {
		t.Fatal(err)
	}
	c.lab = l
	t.Cleanup(c.close)
	for i := range hosts {
		c.addHost(fmt.Sprintf("host%d", i+1))
	}
	return c
}

// up is a cluster of three hosts that have joined, with a store to which nothing will happen.
func up(t testing.TB) *cluster {
	t.Helper()
	if kind != server.Etcd {
		c, _ := upWithStore(t)
		return c
	}
	c := newCluster(t, 3, lab.Embedded{})
	c.start()
	return c
}

func (c *cluster) addHost(name string) *host {
	c.t.Helper()
	h, err := c.lab.AddHost(name)
	if err != nil {
		c.t.Fatal(err)
	}
	c.hosts = append(c.hosts, &host{Host: h, c: c})
	return c.hosts[len(c.hosts)-1]
}

// start starts all agents at once and waits until all have joined.
func (c *cluster) start() {
	c.t.Helper()
	for _, h := range c.hosts {
		if err := h.Host.Start(); err != nil {
			c.t.Fatal(err)
		}
	}
	for _, h := range c.hosts {
		h.awaitJoined()
	}
}

// close shows the agents' logs of a failed test, and takes care that nothing stays.
func (c *cluster) close() {
	for _, h := range c.hosts {
		text, _ := os.ReadFile(h.LogPath())
		for _, word := range []string{"DATA RACE", "panic:", "panicked", "goroutine "} {
			if at := strings.Index(string(text), word); at >= 0 {
				c.t.Errorf("the agent of %s logged %q: %s", h.Name, word, text[at:min(at+6000, len(text))])
				break
			}
		}
	}
	for _, h := range c.hosts {
		if c.t.Failed() {
			c.t.Logf("last lines of the log of %s:\n%s", h.Name, h.Log(25))
		}
	}
	if err := c.lab.Close(); err != nil {
		c.t.Error(err)
	}
	if left, err := lab.Left(c.cfg); err != nil || len(left) > 0 {
		c.t.Errorf("left on the machine: %q, %v", left, err)
	}
}

func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// eventually asks until what is true, at most for limit.
func eventually(t testing.TB, limit time.Duration, what func() error) {
	t.Helper()
	end := time.Now().Add(limit)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := what()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("not within %s: %v", limit, err)
		}
		<-tick.C
	}
}

func (h *host) awaitJoined() {
	h.c.t.Helper()
	if !h.c.looked { // only now: what is cleaned up first is what came last, and that must not be the store
		h.c.looked = true
		h.c.t.Cleanup(h.c.wellAtTheEnd)
	}
	if err := h.Ready(within(h.c.t, patience)); err != nil {
		h.c.t.Fatal(err)
	}
	if err := h.Joined(within(h.c.t, patience)); err != nil {
		h.c.t.Fatal(err)
	}
}

// up starts the agent and waits until it answers.
func (h *host) up() {
	h.c.t.Helper()
	if err := h.Host.Up(within(h.c.t, patience)); err != nil {
		h.c.t.Fatal(err)
	}
}

func (h *host) kill() {
	h.c.t.Helper()
	if err := h.Host.Kill(); err != nil {
		h.c.t.Fatal(err)
	}
}

// try runs a weft command that may fail.
func (h *host) try(args ...string) lab.Result {
	h.c.t.Helper()
	r, err := h.Host.Weft(within(h.c.t, patience), args...)
	if err != nil {
		h.c.t.Fatal(err)
	}
	return r
}

// weft runs a command that must succeed, and returns what it printed.
func (h *host) weft(args ...string) string {
	h.c.t.Helper()
	r := h.try(args...)
	if r.Code != 0 {
		h.c.t.Fatalf("%s$ weft %s: exit %d: %s", h.Name, strings.Join(args, " "), r.Code, r.Stderr)
	}
	return strings.TrimSuffix(r.Stdout, "\n")
}

// refuses runs a command that must fail with a code, with the words in its error.
func (h *host) refuses(code int, words string, args ...string) {
	h.c.t.Helper()
	r := h.try(args...)
	if r.Code != code || !strings.Contains(r.Stderr, words) {
		h.c.t.Errorf("%s$ weft %s: exit %d, error %q; want exit %d and %q", h.Name, strings.Join(args, " "), r.Code, r.Stderr, code, words)
	}
}

// inspect returns what `weft network inspect` or `weft inspect` prints, decoded.
func inspect[T any](h *host, args ...string) T {
	h.c.t.Helper()
	var out []T
	text := h.weft(args...)
	if err := json.Unmarshal([]byte(text), &out); err != nil || len(out) != 1 {
		h.c.t.Fatalf("%s$ weft %s: %v: %s", h.Name, strings.Join(args, " "), err, text)
	}
	return out[0]
}
