package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weft/store"
	"weft/store/storetest/server"
)

// storeState is what of `weft store status --format json` the tests read.
type storeState struct {
	Store, Backend, Version, State, Error, Latency, Leader, NoticedWithin string
	ClusterID                                                             string `json:"ClusterId"`
	Embedded                                                              bool
	Endpoints                                                             []string
	Revision                                                              uint64
	Hosts, HostsAlive                                                     int
}

// storeStatus runs `weft store status`, which may fail.
func (h *host) storeStatus() (s storeState, code int, text string) {
	h.c.t.Helper()
	r := h.try("store", "status", "--format", "json")
	if err := json.Unmarshal([]byte(r.Stdout), &s); err != nil {
		h.c.t.Fatalf("%s$ weft store status: %v: %s%s", h.Name, err, r.Stdout, r.Stderr)
	}
	return s, r.Code, r.Stderr
}

// backendNames are those that the back ends have for themselves.
var backendNames = map[server.Kind]string{server.Etcd: "etcd", server.Consul: "consul", server.ZooKeeper: "zookeeper"}

func TestStoreStatusTellsHowTheStoreIs(t *testing.T) {
	t.Parallel()
	c, b := upWithStore(t)
	h := c.hosts[0]
	s, code, text := h.storeStatus()
	if code != 0 || s.State != "connected" || s.Backend != backendNames[kind] || s.Version == "" || s.Revision == 0 || s.ClusterID == "" || len(s.Endpoints) == 0 || s.Embedded {
		t.Errorf("exit %d, %s, %+v", code, text, s)
	}
	if took, err := time.ParseDuration(s.Latency); err != nil || took <= 0 || took > time.Second {
		t.Errorf("latency %q", s.Latency)
	}
	if bound, err := time.ParseDuration(s.NoticedWithin); err != nil || bound < time.Second || bound > time.Minute {
		t.Errorf("a dead host is said to be noticed within %q", s.NoticedWithin)
	}
	eventually(t, settle, func() error {
		if s, _, _ := h.storeStatus(); s.Hosts != 3 || s.HostsAlive != 3 {
			return fmt.Errorf("%d hosts, %d alive", s.Hosts, s.HostsAlive)
		}
		return nil
	})
	b.down()
	s, code, text = h.storeStatus()
	if code != 1 || s.State != "away" || s.Error == "" || s.ClusterID == "" || !strings.Contains(text, "is not reachable") {
		t.Errorf("without its store: exit %d, %s, %+v", code, text, s)
	}
	if r := h.try("store", "status"); r.Code != 1 || !strings.Contains(r.Stdout, "State:      away for ") {
		t.Errorf("without its store: %+v", r)
	}
	b.up()
	eventually(t, patience, func() error {
		if s, code, text := h.storeStatus(); code != 0 || s.State != "connected" {
			return fmt.Errorf("exit %d, %s, %+v", code, text, s)
		}
		return nil
	})
}

func TestStoreStatusOfTheEmbeddedStore(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, nil)
	c.start()
	if s, code, text := c.hosts[0].storeStatus(); code != 0 || !s.Embedded || s.Store != "embedded" || s.Backend != "etcd" || s.State != "connected" {
		t.Errorf("exit %d, %s, %+v", code, text, s)
	}
}

// A cluster at work has no findings, whatever its agents do meanwhile; what somebody else has done to its records is named, key by key.
func TestStoreCheck(t *testing.T) {
	t.Parallel()
	c, _ := upWithStore(t)
	c.leavesAiling("records were made wrong on purpose")
	h1, h2 := c.hosts[0], c.hosts[1]
	h1.weft("network", "create", "-d", "overlay", "--subnet", "10.40.0.0/24", "web")
	a := h1.box("a", "web")
	h2.box("b", "web")
	done := make(chan error, 1)
	go func() { done <- h2.bustle(within(t, patience)) }()
	for working := true; working; {
		select {
		case err := <-done:
			must(t, err)
			working = false
		default:
		}
		if text := h1.weft("store", "check"); !strings.HasPrefix(text, "Nothing is wrong: ") {
			t.Errorf("findings in a cluster at work: %s", text)
		}
	}

	r := c.records()
	id := h1.weft("network", "inspect", "-f", "{{.ID}}", "web")
	addr := a.addr("web")
	r.put(store.Key{Partition: store.Meta, Name: "names/ghost"}, "0123456789abcdef")
	r.put(store.Key{Partition: store.Meta, Name: "vnis/77"}, id)
	r.put(store.Key{Partition: "net/" + id, Name: "addr/" + addr}, "another")
	r.put(store.Key{Partition: store.Meta, Name: "hosts/odd"}, "scribble")
	r.put(store.Key{Partition: "net/gone", Name: "ep/x"}, "scribble")
	got := h2.try("store", "check", "--format", "{{.Key}} {{.Rule}}")
	for _, want := range []string{"meta/names/ghost orphan", "meta/vnis/77 orphan", "net/" + id + "/addr/" + addr + " orphan", "meta/hosts/odd readable", "unclaimed\n"} {
		if !strings.Contains(got.Stdout, want) {
			t.Errorf("not found: %s", want)
		}
	}
	if _, tells := r.store.(store.Partitioner); tells && !strings.Contains(got.Stdout, "net/gone/ep/x network") {
		t.Error("what is left of a network that is gone was not found")
	}
	if got.Code != 1 || !strings.Contains(got.Stderr, "things are wrong with the store's") {
		t.Errorf("exit %d, %s", got.Code, got.Stderr)
	}
	if t.Failed() {
		t.Log(got.Stdout)
	}
}

// bustle makes, uses and removes networks. A network may still be in use for a moment: what a sandbox has released, a store that is slow, or on
// its way to another one, hears later.
func (h *host) bustle(ctx context.Context) error {
	for range 5 {
		for _, args := range [][]string{{"network", "create", "-d", "overlay", "passing"}, {"run", "--rm", "--network", "passing", "--", "true"}, {"network", "rm", "passing"}} {
			r, err := h.Host.Weft(ctx, args...)
			for err == nil && strings.Contains(r.Stderr, "has active endpoints") {
				r, err = h.Host.Weft(ctx, args...)
			}
			if err != nil || r.Code != 0 {
				return fmt.Errorf("weft %v: %+v, %w", args, r, err)
			}
		}
	}
	return nil
}

// Given a store whose disk is lost, when a backup is restored, then the hosts take it for theirs again without a restart and without a packet
// lost; what was made since is gone, but for the sandboxes that run.
func TestRestoreAfterTheStoreWasLost(t *testing.T) {
	t.Parallel()
	c, b := upWithStore(t)
	h1, h2, h3 := c.hosts[0], c.hosts[1], c.hosts[2]
	h1.weft("network", "create", "-d", "overlay", "web")
	a, x := h1.box("a", "web"), h2.box("b", "web").echo()
	file := filepath.Join(t.TempDir(), "backup")
	if text := h1.weft("backup", "-o", file); !strings.Contains(text, "keys of cluster ") {
		t.Errorf("backup said %q", text)
	}
	late := h3.box("late", "web").echo()
	eventually(t, settle, func() error { return a.reaches(late.addr("web")) })
	h1.weft("network", "create", "-d", "overlay", "later")
	traffic := a.flow(x.addr("web"))

	b.down()
	b.lose()
	b.up()
	eventually(t, patience, func() error {
		if s, code, text := h1.storeStatus(); code != 1 || s.State == "away" {
			return fmt.Errorf("exit %d, %s, %+v", code, text, s)
		}
		return nil
	})
	h1.refuses(1, "", "network", "create", "-d", "overlay", "new")
	if text := h1.weft("restore", "--dry-run", file); !strings.Contains(text, "keys to write") {
		t.Errorf("the dry run said %q", text)
	}
	h1.refuses(1, "", "network", "create", "-d", "overlay", "new")
	if text := h1.weft("restore", "--yes", file); !strings.Contains(text, "Restored: ") {
		t.Errorf("restore said %q", text)
	}
	for _, h := range c.hosts {
		eventually(t, patience, func() error { return h.Joined(within(t, patience)) })
		eventually(t, patience, func() error {
			if s, code, text := h.storeStatus(); code != 0 || s.HostsAlive != 3 {
				return fmt.Errorf("exit %d, %s, %+v", code, text, s)
			}
			return nil
		})
	}
	traffic.end()
	if got := h2.weft("network", "ls", "-q", "-f", "name=later"); got != "" {
		t.Errorf("a network that was made after the backup is there: %s", got)
	}
	eventually(t, patience, func() error { // its host has put it back
		if got := h1.weft("endpoint", "ls", "--format", "{{.Name}}"); !strings.Contains(got, "late") {
			return fmt.Errorf("endpoints %q", got)
		}
		return nil
	})
	eventually(t, settle, func() error { return a.reaches(late.addr("web")) })
	d := h3.box("d", "web").echo()
	eventually(t, settle, func() error { return a.reaches(d.addr("web")) })
	eventually(t, patience, func() error {
		if r := h1.try("store", "check"); r.Code != 0 {
			return fmt.Errorf("%s", r.Stdout)
		}
		return nil
	})
}

// Given a cluster at work, when an earlier backup of it is restored, then it goes on with its records.
func TestRestoreIntoALiveCluster(t *testing.T) {
	t.Parallel()
	c := up(t)
	h1, h2 := c.hosts[0], c.hosts[1]
	h1.weft("network", "create", "-d", "overlay", "web")
	a, x := h1.box("a", "web"), h2.box("b", "web").echo()
	file := filepath.Join(t.TempDir(), "backup")
	h2.weft("backup", "-o", file)
	h1.weft("network", "create", "-d", "overlay", "later")
	x2 := h2.box("x2", "web").echo()
	traffic := a.flow(x.addr("web"))
	h1.weft("restore", "-y", file)
	for _, h := range c.hosts {
		eventually(t, patience, func() error {
			if s, code, text := h.storeStatus(); code != 0 || s.HostsAlive != 3 {
				return fmt.Errorf("exit %d, %s, %+v", code, text, s)
			}
			return nil
		})
	}
	traffic.end()
	if got := h1.weft("network", "ls", "-q", "-f", "name=later"); got != "" {
		t.Errorf("a network that was made after the backup is there: %s", got)
	}
	eventually(t, settle, func() error { return a.reaches(x2.addr("web")) })
	h1.weft("network", "create", "-d", "overlay", "after")
	h1.box("c", "after")

	broken, err := os.ReadFile(file)
	must(t, err)
	broken[len(broken)/2] ^= 1
	must(t, os.WriteFile(file, broken, 0o600))
	h1.refuses(1, "is damaged at line", "restore", "-y", file)
	must(t, os.WriteFile(file, broken[:len(broken)/3], 0o600))
	h1.refuses(1, "cut off", "restore", "-y", file)
}
