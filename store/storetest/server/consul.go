package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"
)

const consulVersion = "v1.22.7"

// consulMod builds Consul's server from its own module. Two old msgpack versions must be excluded; `go mod tidy` would resolve what Consul's
// own tests need. Its licence (BUSL) allows this use as a tool of the tests; nothing of it is in weft.
const consulMod = `module tools/consul

go 1.26

tool github.com/hashicorp/consul

require (
	github.com/hashicorp/consul ` + consulVersion + `
	github.com/hashicorp/consul/api v1.34.1
)

exclude (
	github.com/hashicorp/go-msgpack v1.1.5
	github.com/hashicorp/go-msgpack v1.1.6
)
`

// buildTime is for a cold build: 54 s to download and 377 s to compile were measured on two idle cores. It does not count against the time
// that a caller gives a cluster to start in.
const buildTime = 30 * time.Minute

// consul is built from its module.
type consul struct{ bin string }

func (d *consul) prepare(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), buildTime)
	defer cancel()
	d.bin, err = cached(ctx, "consul-"+consulVersion, buildConsul)
	return err
}

func buildConsul(ctx context.Context, path string) error {
	dir, err := os.MkdirTemp("", "weft-consul-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte(consulMod), 0o644); err != nil {
		return err
	}
	return goBuild(ctx, dir, []string{"GOFLAGS=-mod=mod", "GOWORK=off"}, "build", "-trimpath", "-ldflags=-s -w", "-o", path, "github.com/hashicorp/consul")
}

func (d *consul) ports() int { return 3 } // HTTP(S), server RPC, gossip

func (d *consul) command(m *Member) (*exec.Cmd, error) {
	host, client, err := split(m.ports[0])
	_, rpc, err2 := split(m.ports[1])
	_, serf, err3 := split(m.ports[2])
	if err := errors.Join(err, err2, err3); err != nil {
		return nil, err
	}
	var join []string
	for _, x := range m.cluster.Members {
		if x != m {
			join = append(join, x.ports[2])
		}
	}
	ports := map[string]int{"http": client, "https": -1, "dns": -1, "grpc": -1, "grpc_tls": -1, "server": rpc, "serf_lan": serf, "serf_wan": -1}
	cfg := map[string]any{
		"server": true, "bootstrap_expect": len(m.cluster.Members), "node_name": m.Name, "data_dir": m.Dir, "bind_addr": host, "client_addr": host,
		"retry_join": join, "retry_interval": "1s", "ports": ports, "performance": map[string]any{"raft_multiplier": 1},
		"limits":    map[string]any{"http_max_conns_per_client": 2000}, // 200 for one address: all clients of all tests have the same
		"log_level": "warn", "disable_update_check": true, "connect": map[string]any{"enabled": false},
	}
	if id := m.cluster.identity(); id != nil {
		ports["http"], ports["https"] = -1, client
		cfg["tls"] = map[string]any{"https": map[string]any{"ca_file": id.ca, "cert_file": id.serverCert, "key_file": id.serverKey, "verify_incoming": true}}
		cfg["acl"] = map[string]any{"enabled": true, "default_policy": "deny", "tokens": map[string]any{"initial_management": Token}}
	}
	maps.Copy(cfg, m.cluster.opts.Consul)
	raw, err := json.Marshal(cfg)
	if err != nil {
		return nil, err
	}
	file := m.Dir + ".json"
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		return nil, err
	}
	return exec.Command(d.bin, "agent", "-config-file", file), nil
}

func split(addr string) (string, int, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, err
	}
	n, err := strconv.Atoi(port)
	return host, n, err
}

// ConsulClient returns a plain client of one member. Its idle connections close by themselves.
func (c *Cluster) ConsulClient(member int) (*api.Client, error) {
	cli, _, err := c.consulClient(member)
	return cli, err
}

// consulClient returns a client, and how to close its connections.
func (c *Cluster) consulClient(member int) (*api.Client, func(), error) {
	tr := &http.Transport{DialContext: c.opts.Dial, MaxIdleConnsPerHost: 128, IdleConnTimeout: 10 * time.Second}
	cfg := &api.Config{Address: c.Members[member].Endpoint, Scheme: "http", HttpClient: &http.Client{Transport: tr}}
	if id := c.identity(); id != nil {
		var err error
		if tr.TLSClientConfig, err = id.clientTLS(); err != nil {
			return nil, nil, err
		}
		cfg.Scheme, cfg.Token = "https", Token
	}
	cli, err := api.NewClient(cfg)
	return cli, tr.CloseIdleConnections, err
}

func (d *consul) wait(ctx context.Context, c *Cluster) error {
	cli, end, err := c.consulClient(0)
	if err != nil {
		return err
	}
	defer end()
	for {
		try, cancel := context.WithTimeout(ctx, 2*time.Second)
		_, err := cli.KV().Put(&api.KVPair{Key: "ready"}, (&api.WriteOptions{}).WithContext(try))
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("consul is not ready: %w", err)
		}
	}
}

func (d *consul) leader(ctx context.Context, c *Cluster) (int, error) {
	for i := range c.Members {
		cli, end, err := c.consulClient(i)
		if err != nil {
			return 0, err
		}
		try, cancel := context.WithTimeout(ctx, 2*time.Second)
		addr, err := cli.Status().LeaderWithQueryOptions((&api.QueryOptions{}).WithContext(try))
		cancel()
		end()
		if err != nil {
			continue
		}
		for j, m := range c.Members {
			if strings.EqualFold(m.ports[1], addr) {
				return j, nil
			}
		}
	}
	return 0, errors.New("no member leads")
}
