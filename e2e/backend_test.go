package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"weft/e2e/lab"
	"weft/store/storetest/server"
)

// kind is the store that the stories run on: the environment's STORE, or etcd. With etcd, a story that does nothing to its store runs on the
// one that the first agent embeds.
var kind = server.Etcd

func chooseKind() error {
	name := server.Kind(os.Getenv("STORE"))
	switch {
	case name == "":
		return nil
	case !slices.Contains(server.Kinds, name):
		return fmt.Errorf("STORE=%s: the stores are %v", name, server.Kinds)
	}
	kind = name
	return nil
}

// ports are those that the servers' own documentation has for clients.
var ports = map[server.Kind]uint16{server.Etcd: 2379, server.Consul: 8500, server.ZooKeeper: 2181}

// backend is a real server on a node of its own, which the hosts' agents use as the cluster's store.
type backend struct {
	c      *cluster
	node   *lab.Node
	server *server.Cluster
	url    string
}

// Args are weftd's.
func (b *backend) Args(*lab.Host) []string { return []string{"--cluster-store", b.url} }

// newClusterWithStore makes hosts and a node for the store; neither agents nor store are started.
func newClusterWithStore(t testing.TB, hosts int) (*cluster, *backend) {
	t.Helper()
	return newClusterWithStoreOf(t, weftdPath, hosts)
}

// newClusterWithStoreOf is newClusterWithStore with another agent's program.
func newClusterWithStoreOf(t testing.TB, weftd string, hosts int) (*cluster, *backend) {
	t.Helper()
	b := &backend{}
	b.c = newClusterOf(t, weftd, hosts, b)
	b.c.backend = b
	var err error
	if b.node, err = b.c.lab.AddNode("store"); err != nil {
		t.Fatal(err)
	}
	b.url = fmt.Sprintf("%s://%s/weft", kind, netip.AddrPortFrom(b.node.Addr, ports[kind]))
	return b.c, b
}

// upWithStore is three hosts that have joined.
func upWithStore(t testing.TB) (*cluster, *backend) {
	t.Helper()
	c, b := newClusterWithStore(t, 3)
	b.start()
	c.start()
	return c, b
}

// start starts the server the first time.
func (b *backend) start() {
	b.c.t.Helper()
	var err error
	b.server, err = server.Start(within(b.c.t, 2*time.Minute), server.Options{
		Kind: kind, Dir: b.c.t.TempDir(), Host: b.node.Addr.String(), Port: int(ports[kind]), Dial: b.node.Dial,
		Start: func(_ *server.Member, cmd *exec.Cmd) error { return b.node.Start(cmd) },
	})
	if err != nil {
		b.c.t.Fatal(err)
	}
	b.c.t.Cleanup(func() {
		if err := b.server.Stop(); err != nil {
			b.c.t.Error(err)
		}
	})
}

func (b *backend) down() {
	b.c.t.Helper()
	if err := b.server.Members[0].Kill(); err != nil {
		b.c.t.Fatal(err)
	}
}

// lose takes all that the server, which is down, had on its disk.
func (b *backend) lose() {
	b.c.t.Helper()
	must(b.c.t, b.server.Members[0].Lose())
}

// save copies what the server, which is down, has on its disk; the returned function puts it in the place of what is there then.
func (b *backend) save() (putBack func()) {
	b.c.t.Helper()
	dir, copied := b.server.Members[0].Dir, filepath.Join(b.c.t.TempDir(), "old")
	must(b.c.t, os.CopyFS(copied, os.DirFS(dir)))
	return func() {
		b.c.t.Helper()
		b.lose()
		must(b.c.t, os.CopyFS(dir, os.DirFS(copied)))
	}
}

func (b *backend) up() {
	b.c.t.Helper()
	if err := errors.Join(b.server.Members[0].Start(), b.server.Wait(within(b.c.t, patience))); err != nil {
		b.c.t.Fatal(err)
	}
}
