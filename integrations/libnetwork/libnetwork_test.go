package libnetwork

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The trees were written by a real dockerd 20.10.24 (Debian's docker.io): `go test ./e2e -run TestNetworksOfDocker -update-trees` makes them
// again, and -update here says what is in them.
var update = flag.Bool("update", false, "rewrite the golden models from the trees")

func golden(t testing.TB, name string) []byte {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// etcdTree is the recorded answer of etcd.
func etcdTree(t testing.TB) Tree {
	t.Helper()
	node, err := parseEtcd(http.StatusOK, golden(t, "etcd2.json"))
	if err != nil {
		t.Fatal(err)
	}
	tree := Tree{}
	if err := node.collect(tree, "docker/network/v1.0", 0); err != nil {
		t.Fatal(err)
	}
	return tree
}

func consulTree(t testing.TB) Tree {
	t.Helper()
	tree, err := parseConsul(golden(t, "consul.json"), "prod/docker/network/v1.0")
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// zooNodes are the recorded nodes of ZooKeeper.
func zooNodes(t testing.TB) map[string][]byte {
	t.Helper()
	var text map[string]string
	if err := json.Unmarshal(golden(t, "zookeeper.json"), &text); err != nil {
		t.Fatal(err)
	}
	out := map[string][]byte{}
	for path, v := range text {
		b, err := base64.StdEncoding.DecodeString(v)
		if err != nil {
			t.Fatal(err)
		}
		out[path] = b
	}
	return out
}

func zooTree(t testing.TB) Tree {
	t.Helper()
	tree := Tree{}
	for path, v := range zooNodes(t) {
		if rel, below := strings.CutPrefix(path, "/docker/network/v1.0/"); below {
			if err := tree.put(rel, v); err != nil {
				t.Fatal(err)
			}
		}
	}
	return tree
}

func TestTheTreesThatDockerWrote(t *testing.T) {
	for name, tree := range map[string]func(testing.TB) Tree{"etcd2": etcdTree, "consul": consulTree, "zookeeper": zooTree} {
		t.Run(name, func(t *testing.T) {
			m := Parse(tree(t))
			for _, p := range m.Problems {
				t.Errorf("%s: %v", p.Key, p.Err)
			}
			got, err := json.MarshalIndent(m.Networks, "", " ")
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, '\n')
			file := filepath.Join("testdata", name+".model.json")
			if *update {
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if d := cmp.Diff(string(golden(t, name+".model.json")), string(got)); d != "" {
				t.Errorf("(-want +got; go test -update rewrites it):\n%s", d)
			}
		})
	}
}

// network finds one by name.
func (m Model) network(t testing.TB, name string) Network {
	t.Helper()
	for _, n := range m.Networks {
		if n.Name == name {
			return n
		}
	}
	t.Fatalf("there is no network %s", name)
	return Network{}
}

func TestWhatThereIsToANetwork(t *testing.T) {
	m := Parse(etcdTree(t))
	web := m.network(t, "web")
	if p := web.Pools[0]; len(web.Pools) != 1 || p.Subnet != netip.MustParsePrefix("10.50.0.0/24") || p.Gateway != netip.MustParseAddr("10.50.0.254") ||
		p.Range != netip.MustParsePrefix("10.50.0.128/25") || p.Aux["nas"] != netip.MustParseAddr("10.50.0.3") || p.Aux["router"] != netip.MustParseAddr("10.50.0.2") {
		t.Errorf("pools of web: %+v", web.Pools)
	}
	if web.Driver != "overlay" || web.Scope != "global" || web.IPAM != "default" || web.Labels["owner"] != "team" || web.Options[optMTU] != "1400" ||
		time.Since(web.Created) < 0 || web.Created.Year() < 2020 || web.VNI() == 0 {
		t.Errorf("web: %+v", web)
	}
	if len(web.Endpoints) != 3 {
		t.Fatalf("endpoints of web: %+v", web.Endpoints)
	}
	if e := web.Endpoints[0]; e.Name != "web1" || e.Addr != netip.MustParseAddr("10.50.0.10") || e.MAC != "02:42:0a:32:00:0a" || e.Sandbox == "" ||
		len(e.Aliases) != 3 || e.Aliases[0] != "www" || !netip.MustParseAddr(e.Host).IsValid() {
		t.Errorf("web1: %+v", e)
	}
	if e := web.Endpoints[1]; e.MAC != "02:42:0a:32:00:99" {
		t.Errorf("web2, whose MAC address was given: %+v", e)
	}
	two := m.network(t, "two")
	if len(two.Pools) != 2 || two.Pools[0].VNI == 0 || two.Pools[1].VNI == 0 || two.Pools[0].VNI == two.Pools[1].VNI || two.VNI() != two.Pools[0].VNI {
		t.Errorf("pools of two: %+v", two.Pools)
	}
	if six := m.network(t, "six"); !six.IPv6 || len(six.Pools) != 2 || !six.Pools[1].Subnet.Addr().Is6() || !six.Endpoints[0].Addr6.Is6() {
		t.Errorf("six: %+v", six)
	}
	if n := m.network(t, "secret"); !n.Encrypted || n.VNI() != 0 {
		t.Errorf("secret: %+v", n)
	}
	if n := m.network(t, "back"); !n.Internal {
		t.Errorf("back: %+v", n)
	}
	if n := m.network(t, "fixed"); n.VNI() != 7000 {
		t.Errorf("fixed: %+v", n)
	}
}

func TestARecordThatCannotBeReadSpoilsNoOther(t *testing.T) {
	good := etcdTree(t)
	web := Parse(good).network(t, "web")
	net, ep := "network/"+web.ID, "endpoint/"+web.ID+"/"+web.Endpoints[0].ID
	set := func(value string) func(Tree, string) { return func(t Tree, k string) { t[k] = []byte(value) } }
	replace := func(old, new string) func(Tree, string) {
		return func(t Tree, k string) { t[k] = bytes.ReplaceAll(t[k], []byte(old), []byte(new)) }
	}
	for name, c := range map[string]struct {
		key      string
		spoil    func(Tree, string)
		words    string
		networks int // that are missing
		problems int
	}{
		"a network that is no JSON":     {net, set("{"), "unexpected end of JSON", 1, 4}, // with its endpoints
		"a network of another type":     {net, set(`{"name":1}`), "cannot unmarshal", 1, 4},
		"a network without a name":      {net, set(`{"id":"x"}`), "without an ID, a name or a driver", 1, 4},
		"a network under another's ID":  {net, replace(web.ID, strings.Repeat("0", 64)), "names itself", 1, 4},
		"a network with a bad pool":     {net, replace(`\\\"Pool\\\":\\\"10.50.0.0/24`, `\\\"Pool\\\":\\\"10.50.0.0`), "IPv4 pools: subnet", 1, 4},
		"a network with a bad gateway":  {net, replace(`10.50.0.254/24`, `x`), "gateway of 10.50.0.0/24", 1, 4},
		"a network with bad aux":        {net, replace(`10.50.0.3/24`, `x`), "auxiliary address nas", 1, 4},
		"a network with a bad range":    {net, replace(`\"SubPool\":\"10.50.0.128/25`, `\"SubPool\":\"x`), "range of 10.50.0.0/24", 1, 4},
		"a network of no date":          {net, replace(`"created":"2`, `"created":"x`), "when it was made", 1, 4},
		"VNIs that are no JSON":         {"overlay/" + net, set("x"), "VNIs of network web", 0, 1},
		"VNIs of another subnet":        {"overlay/" + net, replace("10.50.0.0", "10.51.0.0"), "it has no subnet 10.51.0.0/24", 0, 1},
		"VNIs of no subnet":             {"overlay/" + net, replace("10.50.0.0/24", "x"), "VNIs of network web", 0, 1},
		"an endpoint that is no JSON":   {ep, set("[]"), "read an endpoint", 0, 1},
		"an endpoint without a name":    {ep, set(`{"id":"x"}`), "without an ID or a name", 0, 1},
		"an endpoint under another ID":  {ep, replace(web.Endpoints[0].ID, "y"), "names itself", 0, 1},
		"an endpoint with a bad addr":   {ep, replace("10.50.0.10/24", "x"), "its address", 0, 1},
		"an endpoint with a bad MAC":    {ep, replace("02:42:0a:32:00:0a", "02"), "MAC address", 0, 1},
		"an endpoint of no network":     {"endpoint/none/e", set(`{"id":"e","name":"lost"}`), "endpoint lost is in a network that has no record", 0, 1},
		"a key that is none":            {"endpoint/e", set("{}"), "no endpoint's key", 0, 1},
		"a key below an endpoint":       {ep + "/more", set("{}"), "no endpoint's key", 0, 1},
		"a network without its VNIs":    {"overlay/" + net, func(t Tree, k string) { delete(t, k) }, "", 0, 0},
		"VNIs as the first versions":    {"overlay/" + net, set(`[{"SubnetIP":"10.50.0.0/24","GwIP":"10.50.0.254/24","Vni":99}]`), "", 0, 0},
		"a network without a date":      {net, replace(`"created":`, `"was created":`), "", 0, 0},
		"an endpoint without addresses": {ep, replace(`"addr":"10.50.0.10/24",`, ""), "", 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			tree := Tree{}
			for k, v := range good {
				tree[k] = bytes.Clone(v)
			}
			c.spoil(tree, c.key)
			m := Parse(tree)
			if len(m.Problems) != c.problems || len(m.Networks) != 8-c.networks {
				t.Fatalf("%d networks, problems: %v", len(m.Networks), m.Problems)
			}
			if c.problems == 0 {
				return
			}
			found := false
			for _, p := range m.Problems {
				found = found || p.Key == c.key && strings.Contains(p.Err.Error(), c.words)
			}
			if !found {
				t.Errorf("no word of %q at %s: %v", c.words, c.key, m.Problems)
			}
		})
	}
}

func TestAStoreThatHoldsTooMuchIsNotRead(t *testing.T) {
	tree := Tree{}
	for i := range maxKeys {
		if err := tree.put(fmt.Sprint(i), []byte{2}); err != nil {
			t.Fatal(err)
		}
	}
	if err := tree.put("more", []byte{2}); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("one more: %v", err)
	}
	deep := etcdNode{Key: "x", Dir: true}
	for range maxDepth + 2 {
		deep = etcdNode{Key: "x", Dir: true, Nodes: []etcdNode{deep}}
	}
	if err := deep.collect(Tree{}, "", 0); err == nil || !strings.Contains(err.Error(), "within each other") {
		t.Errorf("deep: %v", err)
	}
}

// What fuzzing finds must be refused or read, and no more than that: no panic, and no endless work.

func FuzzNetwork(f *testing.F) {
	for k, v := range etcdTree(f) {
		if strings.HasPrefix(k, "network/") {
			f.Add(v)
		}
	}
	f.Add([]byte(`{"id":"a","name":"b","networkType":"c","ipamV4Info":"[{}]"}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		n, err := parseNetwork(raw)
		if err != nil {
			return
		}
		if c := n.candidate(); c.Network.Id == "" || c.Network.Name == "" {
			t.Errorf("a network without ID or name was taken: %+v", n)
		}
		for _, p := range n.Pools {
			if !p.Subnet.IsValid() || p.Subnet != p.Subnet.Masked() {
				t.Errorf("subnet %s", p.Subnet)
			}
		}
	})
}

func FuzzSubnets(f *testing.F) {
	for k, v := range etcdTree(f) {
		if strings.HasPrefix(k, "overlay/") {
			f.Add(v)
		}
	}
	f.Add([]byte(`[{"SubnetIP":"10.50.0.0/24","Vni":99}]`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		n := &Network{Name: "web", Pools: []Pool{{Subnet: netip.MustParsePrefix("10.50.0.0/24")}}}
		if err := n.takeSubnets(raw); err != nil && !strings.Contains(err.Error(), "web") {
			t.Errorf("an error that does not say of what: %v", err)
		}
		if len(n.Pools) != 1 {
			t.Errorf("pools %v", n.Pools)
		}
	})
}

func FuzzEndpoint(f *testing.F) {
	for k, v := range etcdTree(f) {
		if strings.HasPrefix(k, "endpoint/") {
			f.Add(v)
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if ep, err := parseEndpoint(raw); err == nil && (ep.ID == "" || ep.Name == "") {
			t.Errorf("an endpoint without ID or name was taken: %+v", ep)
		}
	})
}

func FuzzEtcd(f *testing.F) {
	f.Add(golden(f, "etcd2.json"))
	f.Add([]byte(`{"errorCode":100,"message":"Key not found"}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		node, err := parseEtcd(http.StatusOK, raw)
		if err != nil {
			return
		}
		tree := Tree{}
		if err := node.collect(tree, root, 0); err == nil {
			Parse(tree)
		}
	})
}

func FuzzConsul(f *testing.F) {
	f.Add(golden(f, "consul.json"))
	f.Add([]byte(`[{"Key":"docker/network/v1.0/network/a/","Value":"e30="}]`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if tree, err := parseConsul(raw, root); err == nil {
			Parse(tree)
		}
	})
}
