package e2e

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"weft/e2e/lab"
	"weft/store/storetest/server"
)

// Secrets of this file's stories: Consul's tokens are UUIDs.
const (
	firstSecret  = "7a1c0de5-0001-4a9e-8f00-5ec2e7000001"
	secondSecret = "7a1c0de5-0002-4a9e-8f00-5ec2e7000002"
	wrongSecret  = "7a1c0de5-0003-4a9e-8f00-5ec2e7000003"
)

// vault is a store with TLS and authentication on a node of its own, and the files that a host of the cluster is given for it.
type vault struct {
	c      *cluster
	server *server.Cluster
	tenant *server.Tenant
	dir    string
	opts   map[string]string
}

// Args are weftd's.
func (v *vault) Args(*lab.Host) []string {
	out := []string{"--cluster-store", v.server.URL("weft")}
	for _, k := range slices.Sorted(maps.Keys(v.opts)) {
		out = append(out, "--cluster-store-opt", k+"="+v.opts[k])
	}
	return out
}

// newVault starts the store; the one host's agent is not started.
func newVault(t *testing.T, kind server.Kind) (*vault, *host) {
	t.Helper()
	v := &vault{dir: t.TempDir()}
	v.c = newCluster(t, 1, v)
	node, err := v.c.lab.AddNode("store")
	must(t, err)
	v.server, err = server.Start(within(t, 2*time.Minute), server.Options{
		Kind: kind, Secure: true, Dir: t.TempDir(), Host: node.Addr.String(), Port: int(ports[kind]), Dial: node.Dial,
		Start: func(_ *server.Member, cmd *exec.Cmd) error { return node.Start(cmd) },
	})
	must(t, err)
	t.Cleanup(func() { must(t, v.server.Stop()) })
	v.tenant, err = v.server.Grant(within(t, patience), "weft", firstSecret)
	must(t, err)
	v.opts = v.server.StoreOpts()
	v.opts["discovery.ttl"] = "3" // below Consul's floor
	if kind != server.Consul {
		v.opts["kv.user"] = server.TenantName
	}
	v.opts[v.secretOpt()] = filepath.Join(v.dir, "secret")
	v.write(firstSecret)
	return v, v.c.hosts[0]
}

func (v *vault) secretOpt() string {
	if v.server.Kind == server.Consul {
		return "kv.tokenfile"
	}
	return "kv.passwordfile"
}

// write puts a secret into the host's file.
func (v *vault) write(secret string) {
	v.c.t.Helper()
	path := filepath.Join(v.dir, "secret")
	must(v.c.t, errors.Join(os.WriteFile(path+".new", []byte(secret+"\n"), 0o600), os.Rename(path+".new", path)))
}

// hides fails the test where a text shows a secret.
func (v *vault) hides(where, text string) {
	v.c.t.Helper()
	for _, s := range []string{firstSecret, secondSecret, wrongSecret, server.Password, server.Token} {
		if strings.Contains(text, s) {
			v.c.t.Errorf("%s shows a secret: %s", where, text)
		}
	}
}

// hidesAll looks wherever a user of the machine may look.
func (v *vault) hidesAll(h *host) {
	v.c.t.Helper()
	log, err := os.ReadFile(h.LogPath())
	must(v.c.t, err)
	v.hides("the log", string(log))
	for _, args := range [][]string{{"host", "ls"}, {"host", "inspect", h.Name}, {"store", "status"}, {"store", "check"}, {"version"}, {"network", "ls"}, {"network", "inspect", "web"}, {"inspect", "a"}, {"endpoint", "ls"}} {
		r := h.try(args...)
		v.hides("weft "+strings.Join(args, " "), r.Stdout+r.Stderr)
	}
	for _, name := range []string{"cmdline", "environ"} {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", h.PID(), name))
		must(v.c.t, err)
		v.hides(name, string(text))
	}
}

// ends runs an agent at its first start, which must end by itself at once with exit code 1 and say why.
func (v *vault) ends(h *host, words ...string) {
	v.c.t.Helper()
	began := time.Now()
	r, err := h.Run(within(v.c.t, patience))
	must(v.c.t, err)
	if took := time.Since(began); r.Code != 1 || took > 5*time.Second {
		v.c.t.Errorf("exit %d after %s, want 1 within 5 s; it said %s", r.Code, took, r.Stderr)
	}
	lines := strings.Split(strings.TrimSpace(r.Stderr), "\n")
	for _, w := range append(words, "weftd: cluster store "+v.server.URL("weft")+" refuses this host", "check what --cluster-store-opt names") {
		if !strings.Contains(lines[len(lines)-1], w) {
			v.c.t.Errorf("it said last %q, want %q in it", lines[len(lines)-1], w)
		}
	}
	v.hides("the output", r.Stdout+r.Stderr)
}

// with changes options for a while; one without a value is left out.
func (v *vault) with(change map[string]string, do func()) {
	old := v.opts
	defer func() { v.opts = old }()
	v.opts = maps.Clone(old)
	for k, value := range change {
		if v.opts[k] = value; value == "" {
			delete(v.opts, k)
		}
	}
	do()
}

// An agent on a secure store, as a user lives with it: wrong options end it at once, right ones let it work, what changes in its files and in
// the store is followed, and nothing shows a secret.
func TestASecureStore(t *testing.T) {
	kinds := server.Kinds
	if os.Getenv("STORE") != "" {
		kinds = []server.Kind{kind}
	}
	for _, kind := range kinds {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			v, h := newVault(t, kind)
			v.refusedAtFirst(h)

			h.up()
			h.awaitJoined()
			h.weft("network", "create", "-d", "overlay", "web")
			a := h.box("a", "web")
			v.hidesAll(h)
			if log := h.Log(100); strings.Contains(log, "grants no session as short as discovery.ttl") != (kind == server.Consul) {
				t.Errorf("of the session's time to live it logs: %s", log)
			}

			v.rotate(h)
			b := h.box("b", "web")
			eventually(t, settle, func() error { return a.finds("b", b.addr("web")) })
			v.refusedLater(h, a)
			v.hidesAll(h)
		})
	}
}

func (v *vault) refusedAtFirst(h *host) {
	t := v.c.t
	t.Helper()
	v.write(wrongSecret)
	v.ends(h, "refused by the store")
	v.write(firstSecret)
	other, err := server.NewAuthority()
	must(t, err)
	otherCA := filepath.Join(v.dir, "other-ca")
	must(t, os.WriteFile(otherCA, other.Cert, 0o600))
	v.with(map[string]string{"kv.cacertfile": otherCA}, func() { v.ends(h, "certificate of the store's server is not trusted") })
	v.with(map[string]string{"kv.cacertfile": "", "kv.certfile": "", "kv.keyfile": ""}, func() {
		v.ends(h, map[server.Kind]string{server.Etcd: "speaks TLS", server.Consul: "HTTPS server", server.ZooKeeper: "speaks TLS"}[v.server.Kind])
	})
	v.with(map[string]string{"kv.servername": "other.example"}, func() { v.ends(h, "not for other.example") })
	r, err := h.Run(within(t, patience), "--cluster-store", strings.Replace(v.server.URL("weft"), "://", "://weft:"+firstSecret+"@", 1))
	if err != nil || r.Code != 1 || !strings.Contains(r.Stderr, "must not hold a password") {
		t.Errorf("with a password in the URL: %+v, %v", r, err)
	}
	v.hides("the error", r.Stderr)
}

// rotate changes the secret, and then every certificate, under the running agent.
func (v *vault) rotate(h *host) {
	t := v.c.t
	t.Helper()
	must(t, v.tenant.Change(within(t, patience), secondSecret))
	v.write(secondSecret)
	v.creates(h, "second-secret")
	must(t, v.server.Rotate(within(t, 2*patience)))
	v.creates(h, "new-certificates")
}

// creates makes a network as soon as the store lets it.
func (v *vault) creates(h *host, name string) {
	v.c.t.Helper()
	eventually(v.c.t, patience, func() error {
		if r := h.try("network", "create", "-d", "overlay", name); r.Code != 0 && !strings.Contains(r.Stderr, "already exists") {
			return errors.New(r.Stderr)
		}
		return nil
	})
}

// refusedLater starts the agent again with a secret that is wrong by now: it goes on with what it has, says so, and comes back by itself.
func (v *vault) refusedLater(h *host, a *box) {
	t := v.c.t
	t.Helper()
	must(t, h.Stop(within(t, patience)))
	v.write(wrongSecret)
	h.up()
	eventually(t, settle, func() error {
		if text := h.weft("host", "ls"); !strings.Contains(text, "refuses this host") {
			return fmt.Errorf("weft host ls says %q", text)
		}
		return nil
	})
	if addr := a.addr("web"); addr == "" {
		t.Error("the sandbox has no address")
	}
	h.refuses(1, "refuses this host", "network", "create", "-d", "overlay", "while-refused")
	if text := h.Log(50); !strings.Contains(text, "cannot join the cluster yet") || !strings.Contains(text, "refused by the store") {
		t.Errorf("the log does not tell: %s", text)
	}
	v.write(secondSecret)
	h.awaitJoined()
	v.creates(h, "after-all")
}
