package e2e

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/go-zookeeper/zk"
	consulapi "github.com/hashicorp/consul/api"

	"weft/e2e/lab"
)

// updateTrees makes these stories write what Docker left in each store to the golden files of integrations/libnetwork.
var updateTrees = flag.Bool("update-trees", false, "rewrite integrations/libnetwork/testdata from what Docker writes now")

func writeTree(t testing.TB, name string, raw []byte) {
	t.Helper()
	var pretty bytes.Buffer
	must(t, json.Indent(&pretty, raw, "", " "))
	must(t, os.WriteFile(filepath.Join("../integrations/libnetwork/testdata", name), append(pretty.Bytes(), '\n'), 0o644))
}

// oldEtcd starts Debian's etcd 3.4, whose v2 API Docker spoke, on a node of its own.
func oldEtcd(c *cluster) *lab.Node {
	c.t.Helper()
	needs(c.t, map[string]string{"etcd": "etcd-server"})
	node, err := c.lab.AddNode("old")
	must(c.t, err)
	url := fmt.Sprintf("http://%s:2379", node.Addr)
	cmd := exec.Command("etcd", "--enable-v2", "--data-dir", filepath.Join(c.cfg.Dir, "old"), "--listen-client-urls", url, "--advertise-client-urls", url,
		"--listen-peer-urls", "http://127.0.0.1:2380", "--log-level", "error")
	must(c.t, node.Start(cmd))
	c.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed: its status says so
	})
	eventually(c.t, patience, func() error {
		_, err := fetch(node, url+"/v2/keys/")
		return err
	})
	return node
}

// fetch gets a URL from a node.
func fetch(from *lab.Node, url string) ([]byte, error) {
	client := &http.Client{Transport: &http.Transport{DialContext: from.Dial, DisableKeepAlives: true}, Timeout: patience}
	resp, err := client.Get(url)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", url, resp.Status, raw)
	}
	return raw, err
}

func recordConsul(c *cluster, node *lab.Node, store string) {
	c.t.Helper()
	d := newDockerd(c, "dock1", store)
	d.start()
	d.load()
	d.network("web", []object{{"Subnet": "10.50.0.0/24", "IPRange": "10.50.0.128/25"}}, object{"Labels": object{"env": "prod"}})
	d.run("web1", "web", object{"IPAMConfig": object{"IPv4Address": "10.50.0.10"}}, nil)
	d.run("web2", "web", object{}, nil)
	raw, err := fetch(node, fmt.Sprintf("http://%s:8500/v1/kv/prod/docker?recurse", node.Addr))
	must(c.t, err)
	writeTree(c.t, "consul.json", raw)
	d.kill()
}

// plantPairs puts the recorded answer back.
func plantPairs(t testing.TB, client *consulapi.Client) {
	t.Helper()
	raw, err := os.ReadFile("../integrations/libnetwork/testdata/consul.json")
	must(t, err)
	var pairs consulapi.KVPairs
	must(t, json.Unmarshal(raw, &pairs))
	for _, p := range pairs {
		_, err := client.KV().Put(&consulapi.KVPair{Key: p.Key, Value: p.Value}, nil)
		must(t, err)
	}
}

// recordZooKeeper lets Docker write its tree: it is started again after each crash.
func recordZooKeeper(c *cluster, node *lab.Node, client *zk.Conn) {
	c.t.Helper()
	d := newDockerd(c, "dock1", fmt.Sprintf("zk://%s:2181", node.Addr))
	d.start()
	d.load()
	d.network("web", []object{{"Subnet": "10.50.0.0/24", "Gateway": "10.50.0.254", "IPRange": "10.50.0.128/25", "AuxiliaryAddresses": object{"router": "10.50.0.2"}}}, nil)
	d.network("two", []object{{"Subnet": "10.60.0.0/24"}, {"Subnet": "10.61.0.0/24"}}, nil)
	for _, k := range []struct {
		name, network string
		settings      object
	}{{"web1", "web", object{"IPAMConfig": object{"IPv4Address": "10.50.0.10"}}}, {"web2", "web", object{}}, {"two1", "two", object{}}} {
		d.create(k.name, k.network, k.settings, nil)
		_ = d.ask(http.MethodPost, "/containers/"+k.name+"/start", nil, nil) // it crashes here
		d.kill()
		d.start()
	}
	d.kill()
	tree := map[string]string{}
	must(c.t, collectTree(client, "/docker", tree))
	raw, err := json.Marshal(tree)
	must(c.t, err)
	writeTree(c.t, "zookeeper.json", raw)
}

// collectTree takes each node's value, as base64.
func collectTree(client *zk.Conn, path string, into map[string]string) error {
	value, _, err := client.Get(path)
	if err != nil {
		return err
	}
	into[path] = base64.StdEncoding.EncodeToString(value)
	kids, _, err := client.Children(path)
	for _, k := range kids {
		err = errors.Join(err, collectTree(client, path+"/"+k, into))
	}
	return err
}

// plantTree is the other way round.
func plantTree(t testing.TB, client *zk.Conn, golden string) {
	t.Helper()
	raw, err := os.ReadFile(golden)
	must(t, err)
	tree := map[string]string{}
	must(t, json.Unmarshal(raw, &tree))
	paths := make([]string, 0, len(tree))
	for p := range tree {
		paths = append(paths, p)
	}
	slices.Sort(paths) // parents first
	for _, p := range paths {
		value, err := base64.StdEncoding.DecodeString(tree[p])
		must(t, err)
		_, err = client.Create(p, value, 0, zk.WorldACL(zk.PermAll))
		must(t, err)
	}
}
