package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"weft/e2e/lab"
	"weft/store/storetest/server"
)

// importers are hosts that will import, with a store of weft's own that is not the old one; their agents are not started.
func importers(t testing.TB, hosts int) *cluster {
	t.Helper()
	if kind == server.Etcd {
		return newCluster(t, hosts, lab.Embedded{})
	}
	c, b := newClusterWithStore(t, hosts)
	b.start()
	return c
}

// on runs a weft command on the host's own network, as one who reads another store needs it, with an answer to what it asks.
func (h *host) on(answer string, args ...string) lab.Result {
	h.c.t.Helper()
	var out, errs bytes.Buffer
	cmd := h.Command(within(h.c.t, patience), args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(answer), &out, &errs
	must(h.c.t, h.Do(cmd.Start))
	var exit *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
		h.c.t.Fatal(err)
	}
	return lab.Result{Stdout: out.String(), Stderr: errs.String(), Code: cmd.ProcessState.ExitCode()}
}

// imports runs an import that must succeed, and returns what it printed.
func (h *host) imports(from string, args ...string) string {
	h.c.t.Helper()
	r := h.on("", append([]string{"import", "docker", "--from", from}, args...)...)
	if r.Code != 0 {
		h.c.t.Fatalf("import from %s: exit %d: %s", from, r.Code, r.Stderr)
	}
	for line := range strings.Lines(r.Stdout) {
		if n := len([]rune(strings.TrimSuffix(line, "\n"))); n > 80 && !slices.Contains(args, "--format") {
			h.c.t.Errorf("a line of %d columns: %s", n, line)
		}
	}
	return r.Stdout
}

// sameAs compares a network with what Docker says of it.
func (h *host) sameAs(want old) {
	h.c.t.Helper()
	got := inspect[old](h, "network", "inspect", want.Name)
	for i := range want.IPAM.Config { // what Docker had chosen itself is in no request: compare what it has
		if want.IPAM.Config[i].Gateway == "" && i < len(got.IPAM.Config) {
			want.IPAM.Config[i].Gateway = got.IPAM.Config[i].Gateway
		}
	}
	a, _ := json.Marshal(want)
	b, _ := json.Marshal(got)
	if !bytes.Equal(a, b) {
		h.c.t.Errorf("network %s:\n docker %s\n weft   %s", want.Name, a, b)
	}
}

// fillDocker makes networks with all that there is to them, and endpoints on two hosts.
func fillDocker(d1, d2 *dockerd) {
	d1.network("web", []object{{"Subnet": "10.50.0.0/24", "Gateway": "10.50.0.254", "IPRange": "10.50.0.128/25",
		"AuxiliaryAddresses": object{"router": "10.50.0.2", "nas": "10.50.0.3"}}},
		object{"Labels": object{"env": "prod", "owner": "team"}, "Options": object{"com.docker.network.driver.mtu": "1400"}})
	d1.network("plain", []object{}, nil)
	d1.network("two", []object{{"Subnet": "10.60.0.0/24", "Gateway": "10.60.0.1"}, {"Subnet": "10.61.0.0/24", "Gateway": "10.61.0.1"}}, nil)
	d1.network("back", []object{{"Subnet": "10.70.0.0/24"}}, object{"Internal": true})
	d1.network("six", []object{{"Subnet": "10.80.0.0/24"}, {"Subnet": "fd00:80::/64"}}, object{"EnableIPv6": true})
	d1.network("fixed", []object{{"Subnet": "10.90.0.0/24"}}, object{"Options": object{"com.docker.network.driver.overlay.vxlanid_list": "7000"}})
	d1.network("secret", []object{{"Subnet": "10.91.0.0/24"}}, object{"Options": object{"encrypted": ""}})
	d1.network("opts", []object{{"Subnet": "10.92.0.0/24"}}, object{"Options": object{"custom.key": "val", "com.docker.network.unknown": "x"}})

	d1.run("web1", "web", object{"IPAMConfig": object{"IPv4Address": "10.50.0.10"}, "Aliases": []string{"www", "front"}}, nil)
	d1.must(http.MethodPost, "/networks/back/connect", object{"Container": "web1", "EndpointConfig": object{"Aliases": []string{"db"}}}, nil)
	d1.run("web2", "web", object{}, object{"MacAddress": "02:42:0a:32:00:99"})
	d1.run("two1", "two", object{}, nil)
	d1.run("fixed1", "fixed", object{}, nil)
	d1.run("six1", "six", object{}, nil)
	d2.run("web3", "web", object{}, nil)
	d2.run("two2", "two", object{"IPAMConfig": object{"IPv4Address": "10.61.0.9"}}, nil)
}

func TestNetworksOfDockerOnEtcdAreImported(t *testing.T) {
	t.Parallel()
	// Given two Docker hosts that share networks through etcd, and a weft cluster beside them
	c := importers(t, 2)
	node := oldEtcd(c)
	url := node.Addr.String() + ":2379"
	from := "etcd2://" + url
	d1, d2 := newDockerd(c, "dock1", "etcd://"+url), newDockerd(c, "dock2", "etcd://"+url)
	d1.launch()
	d2.launch()
	c.start()
	for _, d := range []*dockerd{d1, d2} {
		d.await()
		d.load()
	}
	fillDocker(d1, d2)
	if *updateTrees {
		raw, err := fetch(node, "http://"+url+"/v2/keys/docker?recursive=true")
		must(t, err)
		writeTree(t, "etcd2.json", raw)
	}
	var want []old
	for _, name := range []string{"web", "plain", "two", "back", "fixed"} {
		want = append(want, d1.inspect(name))
	}
	a, b := c.hosts[0], c.hosts[1]
	nothingIsMadeOfAPlan(a, from)

	// When it is imported, then the networks are Docker's
	if out := a.imports(from, "--yes"); !strings.Contains(out, "Created 7 networks, kept 8 addresses.") {
		t.Errorf("import: %s", out)
	}
	for _, n := range want {
		a.sameAs(n)
	}
	b.weft("store", "check") // which finds nothing wrong, what is kept included
	if v := inspect[struct{ VNI uint32 }](a, "network", "inspect", "-v", "fixed").VNI; v != 7000 {
		t.Errorf("VNI %d, want 7000", v)
	}

	// And Docker is not needed any more
	d1.kill()
	d2.kill()
	keptAddressesAreTheirNames(c, a, b)
	whatIsKeptCanBeReleased(b, from, d1.node.Addr)
	wrongSourcesAreNamed(a, url)
}

// nothingIsMadeOfAPlan: neither when only that is asked for, nor when the question is answered with no.
func nothingIsMadeOfAPlan(a *host, from string) {
	t := a.c.t
	t.Helper()
	plan := a.imports(from, "--dry-run")
	for _, words := range []string{
		"web       10.50.0.0/24      256       3           create\n", "secret: skipped: it is encrypted", "two: subnet 10.61.0.0/24 had VNI", "six: IPv6 subnet fd00:80::/64 is left out",
	} {
		if !strings.Contains(plan, words) {
			t.Errorf("the plan has no %q:\n%s", words, plan)
		}
	}
	r := a.on("n\n", "import", "docker", "--from", from)
	if r.Code != 0 || !strings.Contains(r.Stdout, "Create 7 networks and keep 8 addresses? [y/N]") {
		t.Errorf("declined: exit %d: %s%s", r.Code, r.Stdout, r.Stderr)
	}
	if got := a.weft("network", "ls", "-q", "-f", "driver=overlay"); got != "" {
		t.Errorf("networks after a plan: %s", got)
	}
}

// keptAddressesAreTheirNames on any host, and nobody else's.
func keptAddressesAreTheirNames(c *cluster, a, b *host) {
	c.t.Helper()
	b.refuses(125, "10.50.0.10 belongs to web1, for which it is kept", "run", "-d", "--name", "other", "--network", "web", "--ip", "10.50.0.10", "--", "sleep", forever)
	web1, web2, two2 := b.box("web1", "web"), a.box("web2", "web"), b.box("two2", "two")
	for _, k := range []struct {
		box              *box
		network, ip, mac string
	}{{web1, "web", "10.50.0.10", "02:42:0a:32:00:0a"}, {web2, "web", "10.50.0.128", "02:42:0a:32:00:99"}, {two2, "two", "10.61.0.9", "02:42:0a:3d:00:09"}} {
		if got := k.box.view().NetworkSettings.Networks[k.network]; got.IPAddress != k.ip || got.MacAddress != k.mac {
			c.t.Errorf("%s has %s, %s; want %s, %s", k.box.name, got.IPAddress, got.MacAddress, k.ip, k.mac)
		}
	}
	if ip := a.box("other", "web").addr("web"); ip != "10.50.0.130" { // .129 is web3's
		c.t.Errorf("another name got %s", ip)
	}
	// And it is its name's also after a start that failed
	b.refuses(127, "no-such-program", "run", "--name", "web3", "--network", "web", "--", "no-such-program")
	if ip := b.box("web3", "web").addr("web"); ip != "10.50.0.129" {
		c.t.Errorf("web3, which could not be started at first, got %s", ip)
	}
	echo(c, web1.netns, "10.50.0.10")
	conn, err := web2.dial("tcp", "10.50.0.10:"+echoPort, soon)
	must(c.t, err)
	must(c.t, conn.Close())
}

func whatIsKeptCanBeReleased(b *host, from string, dock1 netip.Addr) {
	t := b.c.t
	t.Helper()
	if out := b.imports(from, "-y"); !strings.Contains(out, "There is nothing left to import.") {
		t.Errorf("second import: %s", out)
	}
	b.refuses(1, "keeps imported addresses for fixed1", "network", "rm", "fixed")
	if got := b.weft("import", "release", "--all", "fixed"); got != "fixed1" {
		t.Errorf("released %q", got)
	}
	b.weft("network", "rm", "fixed")
	want := fmt.Sprintf("back web1 10.70.0.2 %[1]s\nsix six1 10.80.0.2 %[1]s\ntwo two1 10.60.0.2 %[1]s", dock1)
	if got := b.weft("import", "ls", "--format", "{{.Network}} {{.Name}} {{.Address}} {{.Host}}"); got != want {
		t.Errorf("kept: %s", got)
	}
}

func wrongSourcesAreNamed(a *host, url string) {
	a.c.t.Helper()
	for from, words := range map[string]string{
		"etcd://" + url:            "write etcd2://" + url,
		"etcd2://" + url + "/prod": "Docker's networks are at etcd2://" + url,
		"consul://" + url:          "does not answer as Consul does",
		"etcd2://192.0.2.2:1":      "cannot be reached",
	} {
		if r := a.on("", "import", "docker", "--from", from, "-y"); r.Code != 1 || !strings.Contains(r.Stderr, words) {
			a.c.t.Errorf("from %s: exit %d: %s", from, r.Code, r.Stderr)
		}
	}
}

// Debian's dockerd is built without Consul. What the recipe below left there, with a dockerd of moby v20.10.24's sources ($DOCKERD), is put into
// a real server. That one was built in a GOPATH as GO111MODULE=off CGO_ENABLED=0 go build -tags "exclude_graphdriver_btrfs
// exclude_graphdriver_devicemapper exclude_disk_quota" ./cmd/dockerd.
func TestNetworksOfDockerOnConsulAreImported(t *testing.T) {
	t.Parallel()
	// Given a Consul with the tree that Docker left, below a path of its own
	c := importers(t, 1)
	node, err := c.lab.AddNode("old")
	must(t, err)
	consul, err := server.Start(within(t, patience), server.Options{
		Kind: server.Consul, Dir: filepath.Join(c.cfg.Dir, "old"), Host: node.Addr.String(), Port: 8500, Dial: node.Dial,
		Start: func(_ *server.Member, cmd *exec.Cmd) error { return node.Start(cmd) },
	})
	must(t, err)
	t.Cleanup(func() { must(t, consul.Stop()) })
	client, err := consul.ConsulClient(0)
	must(t, err)
	from := fmt.Sprintf("consul://%s:8500/prod", node.Addr)
	if *updateTrees {
		recordConsul(c, node, from)
	} else {
		plantPairs(t, client)
	}
	c.start()
	h := c.hosts[0]

	// When it is imported
	if out := h.imports(from, "--yes"); !strings.Contains(out, "Created 1 network, kept 2 addresses.") {
		t.Errorf("import: %s", out)
	}

	// Then the network is there under its ID, with its addresses
	n := inspect[old](h, "network", "inspect", "web")
	if pair, _, err := client.KV().Get("prod/docker/network/v1.0/network/"+n.ID+"/", nil); err != nil || pair == nil || n.Labels["env"] != "prod" {
		t.Errorf("network web is %+v, and the tree has %v, %v", n, pair, err)
	}
	if ip := h.box("web2", "web").addr("web"); ip != "10.50.0.129" { // .128 is the gateway
		t.Errorf("web2 has %s", ip)
	}
	if r := h.on("", "import", "docker", "--from", strings.TrimSuffix(from, "/prod")); r.Code != 1 || !strings.Contains(r.Stderr, "Docker's networks are at "+from) {
		t.Errorf("without the path: exit %d: %s", r.Code, r.Stderr)
	}
}

// Docker 20.10 crashes on ZooKeeper as soon as a container joins a network, but its networks and endpoints are in the tree by then: what the
// recipe below left there is put into a real server.
func TestNetworksOfDockerOnZooKeeperAreImported(t *testing.T) {
	t.Parallel()
	// Given a ZooKeeper with the tree that Docker left
	c := importers(t, 1)
	node, err := c.lab.AddNode("old")
	must(t, err)
	zookeeper, err := server.Start(within(t, patience), server.Options{
		Kind: server.ZooKeeper, Dir: filepath.Join(c.cfg.Dir, "old"), Host: node.Addr.String(), Port: 2181, Dial: node.Dial,
		Start: func(_ *server.Member, cmd *exec.Cmd) error { return node.Start(cmd) },
	})
	must(t, err)
	t.Cleanup(func() { must(t, zookeeper.Stop()) })
	client, err := zookeeper.ZooKeeperClient()
	must(t, err)
	t.Cleanup(client.Close)
	const golden = "../integrations/libnetwork/testdata/zookeeper.json"
	if *updateTrees {
		recordZooKeeper(c, node, client)
	} else {
		plantTree(t, client, golden)
	}
	c.start()
	h, from := c.hosts[0], fmt.Sprintf("zk://%s:2181", node.Addr)

	// When it is imported
	if out := h.imports(from, "--yes"); !strings.Contains(out, "Created 2 networks, kept 3 addresses.") {
		t.Errorf("import: %s", out)
	}

	// Then the networks have the IDs of the tree, and the containers' names their addresses
	for _, name := range []string{"web", "two"} {
		id := inspect[old](h, "network", "inspect", name).ID
		if exists, _, err := client.Exists("/docker/network/v1.0/network/" + id); !exists || err != nil {
			t.Errorf("network %s has ID %s, which the tree has not: %v", name, id, err)
		}
	}
	if ip := h.box("web1", "web").addr("web"); ip != "10.50.0.10" {
		t.Errorf("web1 has %s", ip)
	}
}
