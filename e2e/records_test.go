package e2e

import (
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weft/identity"
	"weft/store"
	"weft/store/open"
)

// records is the cluster's store as a client of its own reads it, beside the agents.
type records struct {
	t     testing.TB
	store store.Store
}

const networksPrefix = "networks/"

// records opens the store's client.
func (c *cluster) records() *records {
	c.t.Helper()
	var s store.Store
	var err error
	if c.backend != nil {
		s, err = open.Open(c.backend.url, nil, open.Options{Dial: c.backend.node.Dial})
	} else {
		s, err = c.embedded()
	}
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() {
		if err := s.Close(); err != nil {
			c.t.Error(err)
		}
	})
	return &records{c.t, s}
}

// embedded is a client of the etcd in the first host's agent, with that host's certificate.
func (c *cluster) embedded() (store.Store, error) {
	h := c.hosts[0]
	keeper, err := identity.Open(filepath.Join(h.StateDir, "pki"), time.Now, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	url := "etcd://" + netip.AddrPortFrom(h.Addr, 2379).String() + "/weft"
	return open.Open(url, map[string]string{"kv.certificate": "host"}, open.Options{Dial: h.Dial, Certificate: keeper.ClientTLS(identity.Host{})})
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

// ofNetworks is all that is in the networks' partitions, also in those of networks that are no more.
func (r *records) ofNetworks() (out []store.Entry) {
	r.t.Helper()
	all, err := r.store.(store.Partitioner).Partitions(within(r.t, patience))
	must(r.t, err)
	for _, p := range all {
		if strings.HasPrefix(p, "net/") {
			out = append(out, r.list(p)...)
		}
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
