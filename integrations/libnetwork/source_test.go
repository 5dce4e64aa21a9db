package libnetwork

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// keyPEM is a certificate's key as a file has it.
func keyPEM(c tls.Certificate) (string, error) {
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), err
}

func TestParseSource(t *testing.T) {
	for raw, want := range map[string]Source{
		"etcd2://h1":                          {Scheme: "etcd2", Endpoints: []string{"h1:2379"}},
		"etcd2://h1:1,h2/a/b/":                {Scheme: "etcd2", Endpoints: []string{"h1:1", "h2:2379"}, Prefix: "a/b"},
		"consul://192.0.2.7/":                 {Scheme: "consul", Endpoints: []string{"192.0.2.7:8500"}},
		"zk://[2001:db8::1],[2001:db8::2]:99": {Scheme: "zk", Endpoints: []string{"[2001:db8::1]:2181", "[2001:db8::2]:99"}},
	} {
		got, err := ParseSource(raw, nil)
		if err != nil || got.Scheme != want.Scheme || !slices.Equal(got.Endpoints, want.Endpoints) || got.Prefix != want.Prefix || got.TLS != nil {
			t.Errorf("%s: %+v, %v", raw, got, err)
		}
	}
}

func TestASourceThatIsNone(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	opt := func(kv ...string) map[string]string {
		m := map[string]string{}
		for i := 0; i < len(kv); i += 2 {
			m[kv[i]] = kv[i+1]
		}
		return m
	}
	for _, c := range []struct {
		raw   string
		opts  map[string]string
		words string
	}{
		{"h1:2379", nil, "is no URL"},
		{"etcd://h1:2379/p", nil, "Docker kept its networks in the v2 API, which is apart from it: write etcd2://h1:2379/p"},
		{"boltdb://x", nil, `unknown scheme "boltdb"`},
		{"etcd2://", nil, "is not HOST:PORT"},
		{"etcd2://h1,", nil, "is not HOST:PORT"},
		{"etcd2://h1:x", nil, "is not HOST:PORT"},
		{"etcd2://2001:db8::1", nil, "is not HOST:PORT"},
		{"etcd2://root:s3cret@h1", nil, "must not hold a password"},
		{"etcd2://h1", opt("kv.nope", "x"), "unknown --from-opt kv.nope"},
		{"etcd2://h1", opt("kv.certfile", "x"), "go together"},
		{"etcd2://h1", opt("kv.user", "x"), "go together"},
		{"consul://h1", opt("kv.user", "x", "kv.passwordfile", "y"), "Consul knows tokens"},
		{"zk://h1", opt("kv.tokenfile", "x"), "only Consul knows tokens"},
		{"consul://h1", opt("kv.tokenfile", "/nowhere"), "no such file"},
		{"consul://h1", opt("kv.tokenfile", empty), "is empty"},
		{"etcd2://h1", opt("kv.user", "x", "kv.passwordfile", empty), "is empty"},
		{"etcd2://h1", opt("kv.cacertfile", "/nowhere"), "no such file"},
		{"etcd2://h1", opt("kv.cacertfile", empty), "holds no certificate"},
		{"etcd2://h1", opt("kv.certfile", empty, "kv.keyfile", empty), "kv.certfile, kv.keyfile"},
		{"etcd2://h1", opt("kv.servername", "x"), "is for TLS"},
	} {
		_, err := ParseSource(c.raw, c.opts)
		if err == nil || !strings.Contains(err.Error(), c.words) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s %v: %v; want %q", c.raw, c.opts, err, c.words)
		}
	}
}

func FuzzSource(f *testing.F) {
	f.Add("etcd2://h1:2379,h2/p/q")
	f.Add("zk://[::1]:2181")
	f.Fuzz(func(t *testing.T, raw string) {
		s, err := ParseSource(raw, nil)
		if err != nil {
			return
		}
		if again, err := ParseSource(s.String(), nil); err != nil || again.String() != s.String() {
			t.Errorf("%q is %q, and that is %q, %v", raw, s, again, err)
		}
	})
}

func TestCandidates(t *testing.T) {
	// Given networks of all kinds
	m := Parse(etcdTree(t))
	got := map[string]Candidate{}
	for _, c := range m.Candidates() {
		got[c.Network.Name] = c
	}
	plain := m.network(t, "plain")
	for name, change := range map[string]func(*Network){
		"removing": func(n *Network) { n.Removing = true }, "ingress": func(n *Network) { n.Ingress = true }, "config": func(n *Network) { n.ConfigOnly = true },
		"weave": func(n *Network) { n.Driver = "weavemesh" }, "local": func(n *Network) { n.Scope = "local" }, "infoblox": func(n *Network) { n.IPAM = "infoblox" },
		"secure": func(n *Network) { n.Encrypted = true }, "ancient": func(n *Network) { n.Scope, n.IPAM = "", "" },
	} {
		n := plain
		change(&n)
		n.Name = name
		got[name] = n.candidate()
	}

	// Then each says what weft cannot have of it, and nothing else
	for name, want := range map[string]struct{ obstacle, note string }{
		"web": {}, "plain": {}, "back": {}, "fixed": {}, "ancient": {},
		"secret":   {obstacle: "encrypted"},
		"two":      {note: "subnet 10.61.0.0/24 had VNI"},
		"six":      {note: "IPv6 subnet fd00:80::/64 is left out"},
		"opts":     {note: "option com.docker.network.unknown is left out"},
		"removing": {obstacle: "had begun to remove it"},
		"ingress":  {obstacle: "ingress"},
		"config":   {obstacle: "--config-only"},
		"weave":    {obstacle: "driver is weavemesh"},
		"local":    {obstacle: "scope is local"},
		"infoblox": {obstacle: "IPAM driver infoblox"},
		"secure":   {obstacle: "encrypted"},
	} {
		c, ok := got[name]
		if notes := strings.Join(c.Notes, "\n"); !ok || !strings.Contains(c.Obstacle, want.obstacle) || (want.obstacle == "") != (c.Obstacle == "") ||
			!strings.Contains(notes, want.note) || (want.note == "") != (notes == "") {
			t.Errorf("%s: %q, %q", name, c.Obstacle, c.Notes)
		}
	}

	// And what it can have is in the request
	web := got["web"].Network
	if p := web.Pools[0]; len(web.Pools) != 1 || p.Subnet != "10.50.0.0/24" || p.Gateway != "10.50.0.254" || p.IpRange != "10.50.0.128/25" || p.AuxAddresses["nas"] != "10.50.0.3" {
		t.Errorf("web: %v", web)
	}
	if web.Options[optMTU] != "1400" || web.Labels["env"] != "prod" || web.Vni == 0 || web.Created == nil || len(web.Endpoints) != 3 || web.Endpoints[1].MacAddress != "02:42:0a:32:00:99" {
		t.Errorf("web: %v", web)
	}
	if six := got["six"].Network; len(six.Pools) != 1 || six.Endpoints[0].Address != "10.80.0.2" {
		t.Errorf("six: %v", six)
	}
	if o := got["opts"].Network.Options; len(o) != 1 || o["custom.key"] != "val" {
		t.Errorf("options: %v", o)
	}
}
