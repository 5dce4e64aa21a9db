package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
)

const etcdModule = "go.etcd.io/etcd/server/v3"

// etcd is built from the module that go.mod pins.
type etcd struct{ bin string }

func (e *etcd) prepare(ctx context.Context) error {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Version}}", etcdModule).Output()
	if err != nil {
		return fmt.Errorf("find the version of etcd: %w", err)
	}
	e.bin, err = cached(ctx, "etcd-"+strings.TrimSpace(string(out)), func(ctx context.Context, path string) error {
		return goBuild(ctx, "", nil, "build", "-o", path, etcdModule)
	})
	return err
}

func (e *etcd) ports() int { return 2 }

func (e *etcd) command(m *Member) (*exec.Cmd, error) {
	var peers []string
	for _, x := range m.cluster.Members {
		peers = append(peers, x.Name+"=http://"+x.ports[1])
	}
	client, peer := "http://"+m.Endpoint, "http://"+m.ports[1]
	args := []string{"--name", m.Name, "--data-dir", m.Dir, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
		"--initial-cluster", strings.Join(peers, ","), "--initial-cluster-token", m.cluster.token(), "--heartbeat-interval", "50",
		"--election-timeout", "500", "--log-level", "warn"}
	if id := m.cluster.identity(); id != nil {
		client = "https://" + m.Endpoint
		args = append(args, "--cert-file", id.serverCert, "--key-file", id.serverKey, "--trusted-ca-file", id.ca, "--client-cert-auth")
	}
	return exec.Command(e.bin, append(args, "--listen-client-urls", client, "--advertise-client-urls", client)...), nil
}

// EtcdClient returns a plain client of the cluster.
func (c *Cluster) EtcdClient() (*clientv3.Client, error) {
	return c.etcdClient(Password)
}

func (c *Cluster) etcdClient(password string) (*clientv3.Client, error) {
	cfg := clientv3.Config{Endpoints: c.Endpoints(), DialTimeout: 5 * time.Second, Logger: zap.NewNop(), DialOptions: []grpc.DialOption{
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) { return c.opts.Dial(ctx, "tcp", addr) }),
	}}
	if id := c.identity(); id != nil {
		var err error
		if cfg.TLS, err = id.clientTLS(); err != nil {
			return nil, err
		}
		if password != "" {
			cfg.Username, cfg.Password = User, password
		}
	}
	return clientv3.New(cfg)
}

func (e *etcd) wait(ctx context.Context, c *Cluster) error {
	for {
		err := e.try(ctx, c)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("etcd is not ready: %w", err)
		}
	}
}

func (e *etcd) try(ctx context.Context, c *Cluster) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if c.opts.Secure {
		if err := e.authenticate(ctx, c); err != nil {
			return err
		}
	}
	cli, err := c.EtcdClient()
	if err != nil {
		return err
	}
	defer func() { _ = cli.Close() }()
	_, err = cli.Put(ctx, "ready", "")
	return err
}

// authenticate turns authentication on, with one user who may do all.
func (e *etcd) authenticate(ctx context.Context, c *Cluster) error {
	cli, err := c.etcdClient("")
	if err != nil {
		return err
	}
	defer func() { _ = cli.Close() }()
	st, err := cli.AuthStatus(ctx)
	if err != nil || st.Enabled {
		return err
	}
	for _, step := range []func() error{
		func() error { _, err := cli.UserAdd(ctx, User, Password); return err },
		func() error { _, err := cli.RoleAdd(ctx, "root"); return err },
		func() error { _, err := cli.UserGrantRole(ctx, User, "root"); return err },
		func() error { _, err := cli.AuthEnable(ctx); return err },
	} {
		if err := step(); err != nil && !errors.Is(err, rpctypes.ErrUserAlreadyExist) && !errors.Is(err, rpctypes.ErrRoleAlreadyExist) {
			return err
		}
	}
	return nil
}

func (e *etcd) leader(ctx context.Context, c *Cluster) (int, error) {
	cli, err := c.EtcdClient()
	if err != nil {
		return 0, err
	}
	defer func() { _ = cli.Close() }()
	for i, m := range c.Members {
		one, cancel := context.WithTimeout(ctx, 2*time.Second)
		st, err := cli.Status(one, m.Endpoint)
		cancel()
		if err == nil && st.Header.MemberId == st.Leader {
			return i, nil
		}
	}
	return 0, errors.New("no member leads")
}

// CompactEtcd makes the cluster forget all history.
func (c *Cluster) CompactEtcd(ctx context.Context) error {
	cli, err := c.EtcdClient()
	if err != nil {
		return err
	}
	defer func() { _ = cli.Close() }()
	r, err := cli.Get(ctx, "ready")
	if err != nil {
		return err
	}
	_, err = cli.Compact(ctx, r.Header.Revision)
	if err != nil && strings.Contains(err.Error(), "compacted") {
		return nil // another test was there first
	}
	return err
}
