package server

import (
	"cmp"
	"context"
	"errors"
	"path"
	"strings"

	"github.com/go-zookeeper/zk"
	"github.com/hashicorp/consul/api"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// TenantName is a tenant's user.
const TenantName = "weft"

// Tenant is an identity of a secure cluster that may use one prefix and nothing else.
type Tenant struct {
	c      *Cluster
	prefix string
	token  string // Consul's accessor of the token
}

// Grant makes a tenant with a password, which for Consul must be a UUID: it is the token.
func (c *Cluster) Grant(ctx context.Context, prefix, secret string) (*Tenant, error) {
	t := &Tenant{c: c, prefix: prefix}
	switch c.Kind {
	case Consul:
		return t, t.grantConsul(ctx, secret)
	case ZooKeeper:
		return t, t.zookeeper(func(cli *zk.Conn) error { return t.grantZooKeeper(cli, secret) })
	}
	return t, t.etcd(func(cli *clientv3.Client) error { return t.grantEtcd(ctx, cli, secret) })
}

// Change gives the tenant another secret in place of the one that it had.
func (t *Tenant) Change(ctx context.Context, secret string) error {
	switch t.c.Kind {
	case Consul:
		return t.changeConsul(ctx, secret)
	case ZooKeeper:
		return t.zookeeper(func(cli *zk.Conn) error { return t.changeZooKeeper(cli, secret) })
	}
	return t.etcd(func(cli *clientv3.Client) error {
		_, err := cli.UserChangePassword(ctx, TenantName, secret)
		return err
	})
}

// Foreign returns the keys that the cluster has beside the prefix and what it came with.
func (t *Tenant) Foreign(ctx context.Context) (out []string, err error) {
	var all []string
	switch t.c.Kind {
	case Consul:
		all, err = t.namesInConsul(ctx)
	case ZooKeeper:
		err = t.zookeeper(func(cli *zk.Conn) error {
			return walk(cli, "", func(node string) error { all = append(all, strings.Trim(node, "/")); return nil })
		})
	default:
		all, err = t.namesInEtcd(ctx)
	}
	for _, name := range all {
		ours := name == t.prefix || strings.HasPrefix(name, t.prefix+"/") || strings.HasPrefix(t.prefix, name+"/") // a node above it, too
		if name != "" && name != "ready" && !ours && name != "zookeeper" && !strings.HasPrefix(name, "zookeeper/") {
			out = append(out, name)
		}
	}
	return out, err
}

// etcd: a role and a user.
func (t *Tenant) etcd(do func(*clientv3.Client) error) error {
	cli, err := t.c.EtcdClient()
	if err != nil {
		return err
	}
	return errors.Join(do(cli), cli.Close())
}

func (t *Tenant) grantEtcd(ctx context.Context, cli *clientv3.Client, secret string) error {
	from := t.prefix + "/"
	_, err1 := cli.RoleAdd(ctx, TenantName)
	_, err2 := cli.RoleGrantPermission(ctx, TenantName, from, clientv3.GetPrefixRangeEnd(from), clientv3.PermissionType(clientv3.PermReadWrite))
	_, err3 := cli.UserAdd(ctx, TenantName, secret)
	_, err4 := cli.UserGrantRole(ctx, TenantName, TenantName)
	return errors.Join(err1, err2, err3, err4)
}

func (t *Tenant) namesInEtcd(ctx context.Context) (out []string, err error) {
	err = t.etcd(func(cli *clientv3.Client) error {
		r, err := cli.Get(ctx, "", clientv3.WithPrefix(), clientv3.WithKeysOnly())
		if err != nil {
			return err
		}
		for _, kv := range r.Kvs {
			out = append(out, string(kv.Key))
		}
		return nil
	})
	return out, err
}

// Consul: a policy and a token.
func (t *Tenant) grantConsul(ctx context.Context, secret string) error {
	cli, end, err := t.c.consulClient(0)
	if err != nil {
		return err
	}
	defer end()
	rules := `key_prefix "` + t.prefix + `/" { policy = "write" }
		node "weft" { policy = "write" }
		session "weft" { policy = "write" }`
	if _, _, err := cli.ACL().PolicyCreate(&api.ACLPolicy{Name: TenantName, Rules: rules}, (&api.WriteOptions{}).WithContext(ctx)); err != nil {
		return err
	}
	return t.issueToken(ctx, cli, secret)
}

func (t *Tenant) issueToken(ctx context.Context, cli *api.Client, secret string) error {
	token := &api.ACLToken{SecretID: secret, Policies: []*api.ACLTokenPolicyLink{{Name: TenantName}}}
	token, _, err := cli.ACL().TokenCreate(token, (&api.WriteOptions{}).WithContext(ctx))
	if err != nil {
		return err
	}
	t.token = token.AccessorID
	return nil
}

func (t *Tenant) changeConsul(ctx context.Context, secret string) error {
	cli, end, err := t.c.consulClient(0)
	if err != nil {
		return err
	}
	defer end()
	old := t.token
	if err := t.issueToken(ctx, cli, secret); err != nil {
		return err
	}
	_, err = cli.ACL().TokenDelete(old, (&api.WriteOptions{}).WithContext(ctx))
	return err
}

func (t *Tenant) namesInConsul(ctx context.Context) ([]string, error) {
	cli, end, err := t.c.consulClient(0)
	if err != nil {
		return nil, err
	}
	defer end()
	names, _, err := cli.KV().Keys("", "", (&api.QueryOptions{}).WithContext(ctx))
	return names, err
}

// ZooKeeper: lists of who may do what, on each node. A digest's identity is the name with the password: under another password it is
// another one.
func (t *Tenant) zookeeper(do func(*zk.Conn) error) error {
	cli, err := t.c.ZooKeeperClient()
	if err != nil {
		return err
	}
	defer cli.Close()
	return do(cli)
}

// grantZooKeeper makes the prefix's node, whose parents are another's.
func (t *Tenant) grantZooKeeper(cli *zk.Conn, secret string) error {
	node := "/" + t.prefix
	for i, r := range node {
		if r != '/' || i == 0 {
			continue
		}
		if _, err := cli.Create(node[:i], nil, 0, zk.DigestACL(zk.PermAll, "somebody", "else")); err != nil {
			return err
		}
	}
	_, err := cli.Create(node, nil, 0, zk.DigestACL(zk.PermAll, TenantName, secret))
	return err
}

func (t *Tenant) changeZooKeeper(cli *zk.Conn, secret string) error {
	return walk(cli, "/"+t.prefix, func(node string) error {
		_, err := cli.SetACL(node, zk.DigestACL(zk.PermAll, TenantName, secret), -1)
		if errors.Is(err, zk.ErrNoNode) {
			return nil // it has gone meanwhile
		}
		return err
	})
}

func walk(cli *zk.Conn, node string, do func(string) error) error {
	if err := do(node); err != nil {
		return err
	}
	children, _, err := cli.Children(cmp.Or(node, "/"))
	if errors.Is(err, zk.ErrNoNode) {
		return nil
	}
	for _, child := range children {
		err = errors.Join(err, walk(cli, path.Join("/", node, child), do))
	}
	return err
}
