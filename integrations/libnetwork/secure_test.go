package libnetwork

import (
	"encoding/json"
	"maps"
	"strings"
	"testing"

	"github.com/go-zookeeper/zk"
	"github.com/hashicorp/consul/api"

	"weft/store/storetest/server"
)

// secureServer starts a real server with TLS, client certificates and authentication.
func secureServer(t *testing.T, kind server.Kind) *server.Cluster {
	t.Helper()
	c, err := server.Start(t.Context(), server.Options{Kind: kind, Dir: t.TempDir(), Secure: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// readsOnlyWith reads with all options, and not without each of those named.
func readsOnlyWith(t *testing.T, from string, opts map[string]string, networks int, without map[string]string) {
	t.Helper()
	if m, err := read(t, from, opts); err != nil || len(m.Networks) != networks || len(m.Problems) != 0 {
		t.Errorf("%s: %+v, %v", from, m, err)
	}
	for missing, words := range without {
		less := maps.Clone(opts)
		for name := range strings.FieldsSeq(missing) {
			delete(less, name)
		}
		if _, err := read(t, from, less); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%s without %s: %v; want %q", from, missing, err, words)
		}
	}
}

func TestReadFromASecureConsul(t *testing.T) {
	t.Parallel()
	c := secureServer(t, server.Consul)
	client, err := c.ConsulClient(0)
	if err != nil {
		t.Fatal(err)
	}
	var pairs api.KVPairs
	if err := json.Unmarshal(golden(t, "consul.json"), &pairs); err != nil {
		t.Fatal(err)
	}
	for _, p := range pairs {
		if _, err := client.KV().Put(&api.KVPair{Key: p.Key, Value: p.Value}, nil); err != nil {
			t.Fatal(err)
		}
	}
	readsOnlyWith(t, "consul://"+c.Endpoints()[0]+"/prod", c.StoreOpts(), 1, map[string]string{
		"kv.tokenfile":                         "these credentials see nothing of it",
		"kv.certfile kv.keyfile":               "certificate required",
		"kv.cacertfile":                        "unknown authority",
		"kv.cacertfile kv.certfile kv.keyfile": "does not speak plain HTTP",
	})
}

func TestReadFromASecureZooKeeper(t *testing.T) {
	t.Parallel()
	c := secureServer(t, server.ZooKeeper)
	conn, err := c.ZooKeeperClient()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	plant(t, conn, "/prod", zk.DigestACL(zk.PermAll, "docker", "s3cret"))
	readsOnlyWith(t, "zk://"+c.Endpoints()[0]+"/prod", c.StoreOpts(), 2, map[string]string{
		"kv.user kv.passwordfile":              "kv.user",
		"kv.certfile kv.keyfile":               "certificate",
		"kv.cacertfile":                        "unknown authority",
		"kv.cacertfile kv.certfile kv.keyfile": "does not answer as ZooKeeper does",
	})
}
