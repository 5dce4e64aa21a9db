package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"weft/e2e/lab"
	"weft/store/storetest/server"
)

// etcd is a real etcd server on a node of its own, which the hosts' agents use as the cluster's store.
type etcd struct {
	c      *cluster
	node   *lab.Node
	server *server.Cluster
	url    string
}

const etcdPort = 2379

// Args are weftd's.
func (e *etcd) Args(*lab.Host) []string { return []string{"--cluster-store", e.url} }

// newEtcdCluster makes hosts and a node for the store; neither agents nor store are started.
func newEtcdCluster(t *testing.T, hosts int) (*cluster, *etcd) {
	t.Helper()
	e := &etcd{}
	e.c = newCluster(t, hosts, e)
	var err error
	if e.node, err = e.c.lab.AddNode("store"); err != nil {
		t.Fatal(err)
	}
	e.url = fmt.Sprintf("etcd://%s/weft", netip.AddrPortFrom(e.node.Addr, etcdPort))
	return e.c, e
}

// upWithEtcd is three hosts that have joined.
func upWithEtcd(t *testing.T) (*cluster, *etcd) {
	t.Helper()
	c, e := newEtcdCluster(t, 3)
	e.start()
	c.start()
	return c, e
}

// start starts the server the first time.
func (e *etcd) start() {
	e.c.t.Helper()
	ctx := within(e.c.t, 2*time.Minute) // the server may have to be built
	server, err := server.Start(ctx, server.Options{
		Dir: e.c.t.TempDir(), Host: e.node.Addr.String(), Port: etcdPort, Dial: e.node.Dial,
		Start: func(_ *server.Member, cmd *exec.Cmd) error { return e.node.Start(cmd) },
	})
	if err != nil {
		e.c.t.Fatal(err)
	}
	e.server = server
	e.c.t.Cleanup(func() {
		if err := server.Stop(); err != nil {
			e.c.t.Error(err)
		}
	})
}

func (e *etcd) down() {
	e.c.t.Helper()
	if err := e.server.Members[0].Kill(); err != nil {
		e.c.t.Fatal(err)
	}
}

// lose takes all that the server, which is down, had on its disk.
func (e *etcd) lose() {
	e.c.t.Helper()
	must(e.c.t, e.server.Members[0].Lose())
}

func (e *etcd) up() {
	e.c.t.Helper()
	if err := errors.Join(e.server.Members[0].Start(), e.server.Wait(within(e.c.t, patience))); err != nil {
		e.c.t.Fatal(err)
	}
}

// storeClient speaks to an etcd from a node.
func storeClient(from *lab.Node, addr netip.AddrPort) (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{
		Endpoints: []string{addr.String()}, Logger: zap.NewNop(), DialTimeout: 5 * time.Second,
		DialOptions: []grpc.DialOption{grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return from.Dial(ctx, "tcp", addr)
		})},
	})
}

// client speaks to the cluster's store.
func (c *cluster) store(e *etcd) *clientv3.Client {
	c.t.Helper()
	node, addr := c.hosts[0].Node, c.hosts[0].Addr
	if e != nil {
		node, addr = e.node, e.node.Addr
	}
	cli, err := storeClient(node, netip.AddrPortFrom(addr, etcdPort))
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = cli.Close() })
	return cli
}

// netKeys are the keys of all networks' partitions, by their kind: ep, addr, name. The values of addr and name are endpoint IDs.
func netKeys(t testing.TB, cli *clientv3.Client) map[string]map[string]string {
	t.Helper()
	out := map[string]map[string]string{"ep": {}, "addr": {}, "name": {}}
	for key, value := range storeKeys(t, cli) {
		if partition, name, _ := strings.Cut(key, "/"); strings.HasPrefix(partition, "net%2F") {
			kind, id, _ := strings.Cut(name, "%2F")
			if out[kind] == nil {
				t.Fatalf("the store has a key of no known kind: %s", key)
			}
			out[kind][id] = value
		}
	}
	return out
}

// storePrefix begins every key; after it come partition and name, escaped.
const storePrefix = "weft/"

// storeKeys is all that the cluster has in its store.
func storeKeys(t testing.TB, cli *clientv3.Client) map[string]string {
	t.Helper()
	r, err := cli.Get(within(t, patience), storePrefix, clientv3.WithPrefix())
	must(t, err)
	out := map[string]string{}
	for _, kv := range r.Kvs {
		out[strings.TrimPrefix(string(kv.Key), storePrefix)] = string(kv.Value)
	}
	return out
}

func put(t testing.TB, cli *clientv3.Client, key, value string) {
	t.Helper()
	_, err := cli.Put(within(t, patience), storePrefix+key, value)
	must(t, err)
}
