package libnetwork

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"

	"weft/store/storetest/server"
)

// etcdServer answers as etcd 3.4 did when the golden file was made, and as it does for what is not there.
func etcdServer(t *testing.T, prefix string) http.Handler {
	whole := golden(t, "etcd2.json")
	if prefix != "" {
		whole = bytes.ReplaceAll(whole, []byte(`"key": "/`), []byte(`"key": "/`+prefix+"/"))
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v2/keys/", func(w http.ResponseWriter, r *http.Request) {
		path := strings.Trim(strings.TrimPrefix(r.URL.Path, "/v2/keys"), "/")
		rest, below := strings.CutPrefix(path, prefix)
		rest = strings.Trim(rest, "/")
		switch {
		case path == "" && prefix == "":
			_, _ = w.Write([]byte(`{"action":"get","node":{"dir":true,"nodes":[{"key":"/docker","dir":true},{"key":"/other","dir":true}]}}`))
		case path == "":
			_, _ = w.Write([]byte(`{"action":"get","node":{"dir":true,"nodes":[{"key":"/` + prefix + `","dir":true},{"key":"/other","dir":true}]}}`))
		case below && rest == root:
			_, _ = w.Write(whole)
		default:
			w.WriteHeader(http.StatusNotFound)
			_, _ = w.Write([]byte(`{"errorCode":100,"message":"Key not found","cause":"/docker","index":7}`))
		}
	})
	return mux
}

func serve(t *testing.T, h http.Handler) (address string) {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func answer(status int, body string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	})
}

func read(t *testing.T, from string, opts map[string]string) (Model, error) {
	t.Helper()
	s, err := ParseSource(from, opts)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	return Read(ctx, s)
}

// deadAddress is one where nobody listens.
func deadAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

func TestReadFromEtcd(t *testing.T) {
	// The prefix of the URL, then kv.path; the first endpoint that answers.
	plain, below := serve(t, etcdServer(t, "")), serve(t, etcdServer(t, "prod"))
	for from, opts := range map[string]map[string]string{
		"etcd2://" + plain:                                       nil,
		"etcd2://" + deadAddress(t) + "," + plain:                nil,
		"etcd2://" + plain + "/":                                 {"kv.path": "docker/nodes", "discovery.ttl": "20"},
		"etcd2://" + below + "/prod":                             nil,
		"etcd2://" + below:                                       {"kv.path": "/prod/"},
		"etcd2://" + serve(t, answer(503, "busy")) + "," + plain: nil,
	} {
		m, err := read(t, from, opts)
		if err != nil || len(m.Networks) != 8 {
			t.Errorf("%s: %d networks, %v", from, len(m.Networks), err)
		}
	}
}

func TestWhatCannotBeReadFromEtcdIsSaid(t *testing.T) {
	below := serve(t, etcdServer(t, "prod"))
	dead := deadAddress(t)
	for name, c := range map[string]struct{ from, words string }{
		"nobody there":     {dead, dead + " cannot be reached"},
		"other prefix":     {below + "/test", "it has no test/docker/network/v1.0; Docker's networks are at etcd2://" + below + "/prod"},
		"no prefix":        {below, "it has no docker/network/v1.0; Docker's networks are at etcd2://" + below + "/prod"},
		"other content":    {serve(t, other(t)), "what is there: a, b, c, d, e, f, g, h and 2 more"},
		"empty":            {serve(t, empty(t)), "this store is empty"},
		"no v2 API":        {serve(t, http.NotFoundHandler()), "start it with --enable-v2"},
		"no rights":        {serve(t, answer(401, `{"errorCode":110,"message":"The request requires user authentication","cause":"Insufficient credentials"}`)), "kv.user"},
		"not etcd":         {serve(t, answer(200, "<html>hello")), "does not answer as etcd does"},
		"half an answer":   {serve(t, answer(200, "{}")), "does not answer as etcd does"},
		"a server's error": {serve(t, answer(500, "no leader\nmore")), `answers 500: "no leader"`},
		"odd status":       {serve(t, answer(302, "elsewhere")), "does not answer as etcd does"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := read(t, "etcd2://"+c.from, nil); err == nil || !strings.Contains(err.Error(), c.words) {
				t.Errorf("%v; want %q", err, c.words)
			}
		})
	}
}

func other(*testing.T) http.Handler {
	return onlyTop(`{"node":{"dir":true,"nodes":[{"key":"/b"},{"key":"/a"},{"key":"/c"},{"key":"/d"},{"key":"/e"},{"key":"/f"},{"key":"/g"},{"key":"/h"},{"key":"/i"},{"key":"/j"}]}}`)
}

func empty(*testing.T) http.Handler { return onlyTop(`{"node":{"dir":true}}`) }

func onlyTop(top string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v2/keys/" {
			_, _ = w.Write([]byte(top))
			return
		}
		w.WriteHeader(http.StatusNotFound)
		_, _ = w.Write([]byte(`{"errorCode":100}`))
	})
}

func TestReadingEndsWithItsContext(t *testing.T) {
	// Given servers that take connections and say nothing
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	for _, scheme := range []string{"etcd2", "consul", "zk"} {
		s, err := ParseSource(scheme+"://"+l.Addr().String(), nil)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		_, err = Read(ctx, s)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", scheme, err)
		}
	}
}

func TestReadOverTLSWithCredentials(t *testing.T) {
	// Given an etcd that speaks TLS, wants a certificate of its clients, and a password
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		if len(r.TLS.PeerCertificates) != 1 || user != "docker" || password != "s3cret" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		etcdServer(t, "").ServeHTTP(w, r)
	}))
	s.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	s.StartTLS()
	t.Cleanup(s.Close)
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	certPEM := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
	key, err := keyPEM(s.TLS.Certificates[0])
	if err != nil {
		t.Fatal(err)
	}
	good := map[string]string{
		"kv.cacertfile": file("ca.pem", certPEM), "kv.certfile": file("cert.pem", certPEM), "kv.keyfile": file("key.pem", key),
		"kv.user": "docker", "kv.passwordfile": file("password", "s3cret\n"), "kv.servername": "example.com",
	}
	from := "etcd2://" + s.Listener.Addr().String()
	with := func(change func(map[string]string)) map[string]string {
		out := map[string]string{}
		for k, v := range good {
			out[k] = v
		}
		change(out)
		return out
	}

	// When all is given, then the tree is read
	if m, err := read(t, from, good); err != nil || len(m.Networks) != 8 {
		t.Errorf("%d networks, %v", len(m.Networks), err)
	}

	// When something of it is missing or wrong, then the error says what
	for words, opts := range map[string]map[string]string{
		"give kv.cacertfile":          nil,
		"certificate is valid for":    with(func(o map[string]string) { o["kv.servername"] = "elsewhere.test" }),
		"give --from-opt kv.user=":    with(func(o map[string]string) { o["kv.passwordfile"] = file("other", "wrong") }),
		"certificate required":        with(func(o map[string]string) { delete(o, "kv.certfile"); delete(o, "kv.keyfile") }),
		"signed by unknown authority": with(func(o map[string]string) { delete(o, "kv.cacertfile"); delete(o, "kv.servername") }),
	} {
		_, err := read(t, from, opts)
		if err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%v; want %q", err, words)
		}
		if err != nil && (strings.Contains(err.Error(), "s3cret") || strings.Contains(err.Error(), "wrong")) {
			t.Errorf("a secret is in an error: %v", err)
		}
	}
	plain := serve(t, etcdServer(t, ""))
	if _, err := read(t, "etcd2://"+plain, good); err == nil || !strings.Contains(err.Error(), "does not speak TLS") {
		t.Errorf("TLS to a server without: %v", err)
	}
}

// consulServer answers as Consul does.
func consulServer(t *testing.T) http.Handler {
	whole := golden(t, "consul.json")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		switch {
		case r.Header.Get("X-Consul-Token") != "t0ken":
			w.WriteHeader(http.StatusForbidden)
			_, _ = w.Write([]byte("Permission denied: token lacks permission 'key:read' on \"prod\""))
		case r.URL.Path == "/v1/kv/prod/docker/network/v1.0/" && q.Has("recurse") && q.Has("consistent"):
			_, _ = w.Write(whole)
		case r.URL.Path == "/v1/kv/" && q.Has("keys"):
			_, _ = w.Write([]byte(`["prod/","prod","test"]`))
		case r.URL.Path == "/v1/kv/prod/docker/network/v1.0/" && q.Has("keys"):
			_, _ = w.Write([]byte(`["prod/docker/network/v1.0/network/"]`))
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	})
}

func TestReadFromConsul(t *testing.T) {
	addr := serve(t, consulServer(t))
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("t0ken"), 0o600); err != nil {
		t.Fatal(err)
	}
	opts := map[string]string{"kv.tokenfile": token}
	m, err := read(t, "consul://"+addr+"/prod", opts)
	if err != nil || len(m.Networks) != 1 || len(m.Networks[0].Endpoints) != 2 || m.Networks[0].Name != "web" {
		t.Errorf("%+v, %v", m, err)
	}
	for name, c := range map[string]struct {
		from, words string
		opts        map[string]string
	}{
		"no prefix":      {addr, "Docker's networks are at consul://" + addr + "/prod", opts},
		"no token":       {addr + "/prod", "kv.tokenfile", nil},
		"empty":          {serve(t, answer(404, "")), "this store is empty, or these credentials see nothing of it", nil},
		"not Consul":     {serve(t, answer(404, "404 page not found")), "does not answer as Consul does", nil},
		"no JSON":        {serve(t, answer(200, "hello")), "does not answer as Consul does", nil},
		"no leader":      {serve(t, answer(500, "No cluster leader")), "No cluster leader", nil},
		"nobody is left": {deadAddress(t), "cannot be reached", nil},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := read(t, "consul://"+c.from, c.opts); err == nil || !strings.Contains(err.Error(), c.words) {
				t.Errorf("%v; want %q", err, c.words)
			}
		})
	}
}

func TestReadFromZooKeeper(t *testing.T) {
	// Given a real ZooKeeper with the tree that Docker left, and below another path one that only Docker may read
	c, err := server.Start(t.Context(), server.Options{Kind: server.ZooKeeper, Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
	})
	conn, err := c.ZooKeeperClient()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	if err := conn.AddAuth("digest", []byte("docker:s3cret")); err != nil {
		t.Fatal(err)
	}
	plant(t, conn, "/prod", zk.WorldACL(zk.PermAll))
	plant(t, conn, "/locked", zk.DigestACL(zk.PermAll, "docker", "s3cret"))
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte("s3cret"), 0o600); err != nil {
		t.Fatal(err)
	}
	opts := map[string]string{"kv.user": "docker", "kv.passwordfile": password}
	addr := c.Endpoints()[0]

	// When they are read, then all is there
	for from, opts := range map[string]map[string]string{"zk://" + addr + "/prod": nil, "zk://" + deadAddress(t) + "," + addr + "/locked": opts} {
		m, err := read(t, from, opts)
		if err != nil || len(m.Networks) != 2 || len(m.Networks[0].Endpoints)+len(m.Networks[1].Endpoints) != 3 || len(m.Problems) != 0 {
			t.Errorf("%s: %+v, %v", from, m, err)
		}
	}

	// When it cannot be, then the error says why
	dead := deadAddress(t)
	for from, words := range map[string]string{
		addr:             "Docker's networks are at zk://" + addr + "/",
		addr + "/nope":   "it has no nope/docker/network/v1.0",
		addr + "/locked": "kv.user",
		dead:             dead + " cannot be reached",
	} {
		if _, err := read(t, "zk://"+from, nil); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: %v; want %q", from, err, words)
		}
	}
}

// plant puts the recorded nodes below a path; what is in them only may be restricted.
func plant(t *testing.T, conn *zk.Conn, prefix string, acl []zk.ACL) {
	t.Helper()
	nodes := zooNodes(t)
	paths := []string{""}
	for p := range nodes {
		paths = append(paths, p)
	}
	slices.Sort(paths) // parents first
	for _, p := range paths {
		use := zk.WorldACL(zk.PermAll)
		if strings.Count(p, "/") > 5 {
			use = acl
		}
		if _, err := conn.Create(prefix+p, nodes[p], 0, use); err != nil {
			t.Fatalf("%s%s: %v", prefix, p, err)
		}
	}
}
