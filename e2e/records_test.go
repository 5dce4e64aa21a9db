package e2e

import (
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"weft/store"
	"weft/store/open"
)

// records is the cluster's store as a client of its own reads it, beside the agents. A network's partition can be listed but not found: so
// it watches the networks come and go, and looks also into what those that are gone have left.
type records struct {
	t     testing.TB
	store store.Store

	mu       sync.Mutex
	networks map[string]bool // guarded by mu: every network that ever was
}

const networksPrefix = "networks/"

// records opens the store's client.
func (c *cluster) records() *records {
	c.t.Helper()
	node, url := c.hosts[0].Node, "etcd://"+netip.AddrPortFrom(c.hosts[0].Addr, 2379).String()+"/weft"
	if c.backend != nil {
		node, url = c.backend.node, c.backend.url
	}
	s, err := open.Open(url, nil, open.Options{Dial: node.Dial, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		c.t.Fatal(err)
	}
	r := &records{t: c.t, store: s, networks: map[string]bool{}}
	ctx, cancel := context.WithCancel(context.Background())
	first, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		r.watch(ctx, first)
	}()
	c.t.Cleanup(func() {
		cancel()
		<-ended
		if err := s.Close(); err != nil {
			c.t.Error(err)
		}
	})
	select {
	case <-first:
	case <-within(c.t, patience).Done():
		c.t.Fatalf("the store %s shows nothing", url)
	}
	return r
}

func (r *records) watch(ctx context.Context, first chan<- struct{}) {
	for b := range r.store.Watch(ctx, store.Meta) {
		r.mu.Lock()
		for _, e := range b.Puts {
			if id, ok := strings.CutPrefix(e.Key.Name, networksPrefix); ok {
				r.networks[id] = true
			}
		}
		r.mu.Unlock()
		if first != nil {
			close(first)
			first = nil
		}
	}
}

// endpoints are the keys of all networks' partitions, by their kind: ep, addr, name. The values of addr and name are endpoint IDs.
func (r *records) endpoints() map[string]map[string]string {
	r.t.Helper()
	out := map[string]map[string]string{"ep": {}, "addr": {}, "name": {}}
	for _, e := range r.ofNetworks() {
		kind, id, _ := strings.Cut(e.Key.Name, "/")
		if out[kind] == nil {
			r.t.Fatalf("the store has a key of no known kind: %s", e.Key)
		}
		out[kind][id] = string(e.Value)
	}
	return out
}

// ofNetworks is all that is in the networks' partitions.
func (r *records) ofNetworks() (out []store.Entry) {
	r.t.Helper()
	for _, e := range r.list(store.Meta) { // one that was made just now may not have been seen yet
		if id, ok := strings.CutPrefix(e.Key.Name, networksPrefix); ok {
			r.mu.Lock()
			r.networks[id] = true
			r.mu.Unlock()
		}
	}
	r.mu.Lock()
	ids := slices.Collect(maps.Keys(r.networks))
	r.mu.Unlock()
	for _, id := range ids {
		out = append(out, r.list("net/"+id)...)
	}
	return out
}

func (r *records) list(partition string) []store.Entry {
	r.t.Helper()
	l, err := r.store.List(within(r.t, patience), partition)
	must(r.t, err)
	return l.Entries
}

func (r *records) put(k store.Key, value string) {
	r.t.Helper()
	_, err := r.store.Txn(within(r.t, patience), store.Txn{Then: []store.Op{store.Put(k, []byte(value))}})
	must(r.t, err)
}

// empty deletes every key, as somebody would who takes them for rubbish.
func (r *records) empty() {
	r.t.Helper()
	entries := append(r.ofNetworks(), append(r.list(store.Meta), r.list(store.Alive)...)...)
	for len(entries) > 0 {
		var txn store.Txn
		n := min(len(entries), store.MaxOps)
		for _, e := range entries[:n] {
			txn.Then = append(txn.Then, store.Del(e.Key))
		}
		_, err := r.store.Txn(within(r.t, patience), txn)
		must(r.t, err)
		entries = entries[n:]
	}
}
