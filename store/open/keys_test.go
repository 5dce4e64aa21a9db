package open_test

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

// etcdKeys are a user and a role.
type etcdKeys struct{ *secured }

func (k *etcdKeys) do(f func(context.Context, *clientv3.Client) error) {
	k.t.Helper()
	ctx, cancel := context.WithTimeout(k.t.Context(), patience)
	defer cancel()
	cli, err := k.c.EtcdClient()
	if err != nil {
		k.t.Fatal(err)
	}
	defer func() { _ = cli.Close() }()
	if err := f(ctx, cli); err != nil {
		k.t.Fatal(err)
	}
}

func (k *etcdKeys) grant(secret string) {
	k.do(func(ctx context.Context, cli *clientv3.Client) error {
		_, err1 := cli.RoleAdd(ctx, "weft")
		_, err2 := cli.RoleGrantPermission(ctx, "weft", prefix+"/", clientv3.GetPrefixRangeEnd(prefix+"/"), clientv3.PermissionType(clientv3.PermReadWrite))
		_, err3 := cli.UserAdd(ctx, "weft", secret)
		_, err4 := cli.UserGrantRole(ctx, "weft", "weft")
		return errors.Join(err1, err2, err3, err4)
	})
}

func (k *etcdKeys) change(secret string) {
	k.do(func(ctx context.Context, cli *clientv3.Client) error {
		_, err := cli.UserChangePassword(ctx, "weft", secret)
		return err
	})
}

func (k *etcdKeys) foreign() (out []string) {
	k.do(func(ctx context.Context, cli *clientv3.Client) error {
		r, err := cli.Get(ctx, "", clientv3.WithPrefix(), clientv3.WithKeysOnly())
		if err != nil {
			return err
		}
		for _, kv := range r.Kvs {
			if name := string(kv.Key); name != "ready" && !strings.HasPrefix(name, prefix+"/") {
				out = append(out, name)
			}
		}
		return nil
	})
	return out
}

// consulKeys are a policy and a token.
type consulKeys struct {
	*secured
	token string // its accessor
}

func (k *consulKeys) client() *api.Client {
	k.t.Helper()
	cli, err := k.c.ConsulClient(0)
	if err != nil {
		k.t.Fatal(err)
	}
	return cli
}

func (k *consulKeys) grant(secret string) {
	k.t.Helper()
	_, _, err := k.client().ACL().PolicyCreate(&api.ACLPolicy{Name: "weft", Rules: `
		key_prefix "` + prefix + `/" { policy = "write" }
		session_prefix "" { policy = "write" }`}, nil)
	if err != nil {
		k.t.Fatal(err)
	}
	k.issue(secret)
}

func (k *consulKeys) issue(secret string) {
	k.t.Helper()
	t, _, err := k.client().ACL().TokenCreate(&api.ACLToken{SecretID: secret, Policies: []*api.ACLTokenPolicyLink{{Name: "weft"}}}, nil)
	if err != nil {
		k.t.Fatal(err)
	}
	k.token = t.AccessorID
}

func (k *consulKeys) change(secret string) {
	k.t.Helper()
	old := k.token
	k.issue(secret)
	if _, err := k.client().ACL().TokenDelete(old, nil); err != nil {
		k.t.Fatal(err)
	}
}

func (k *consulKeys) foreign() (out []string) {
	k.t.Helper()
	names, _, err := k.client().KV().Keys("", "", nil)
	if err != nil {
		k.t.Fatal(err)
	}
	for _, name := range names {
		if name != "ready" && !strings.HasPrefix(name, prefix+"/") {
			out = append(out, name)
		}
	}
	return out
}

// zooKeys are lists of who may do what, on each node. A digest's user is the name with the password: it has another one under another.
type zooKeys struct{ *secured }

func (k *zooKeys) do(f func(*zk.Conn) error) {
	k.t.Helper()
	conn, err := k.c.ZooKeeperClient()
	if err != nil {
		k.t.Fatal(err)
	}
	defer conn.Close()
	if err := f(conn); err != nil {
		k.t.Fatal(err)
	}
}

// grant makes the prefix's node, whose parent is another's.
func (k *zooKeys) grant(secret string) {
	k.do(func(c *zk.Conn) error {
		parent, leaf := path.Split("/" + prefix)
		_, err1 := c.Create(path.Clean(parent), nil, 0, zk.DigestACL(zk.PermAll, "somebody", "else"))
		_, err2 := c.Create(parent+leaf, nil, 0, zk.DigestACL(zk.PermAll, "weft", secret))
		return errors.Join(err1, err2)
	})
}

// change walks over all nodes.
func (k *zooKeys) change(secret string) {
	k.do(func(c *zk.Conn) error {
		return k.walk(c, "/"+prefix, func(node string) error {
			_, err := c.SetACL(node, zk.DigestACL(zk.PermAll, "weft", secret), -1)
			if errors.Is(err, zk.ErrNoNode) {
				return nil // an ephemeral one that has gone
			}
			return err
		})
	})
}

func (k *zooKeys) foreign() (out []string) {
	k.do(func(c *zk.Conn) error {
		return k.walk(c, "", func(node string) error {
			known := node == "" || node == "/ready" || node == "/zookeeper" || strings.HasPrefix(node, "/zookeeper/")
			if !known && node != path.Dir("/"+prefix) && node != "/"+prefix && !strings.HasPrefix(node, "/"+prefix+"/") {
				out = append(out, node)
			}
			return nil
		})
	})
	return out
}

func (k *zooKeys) walk(c *zk.Conn, node string, do func(string) error) error {
	if err := do(node); err != nil {
		return err
	}
	children, _, err := c.Children(cmp.Or(node, "/"))
	if errors.Is(err, zk.ErrNoNode) {
		return nil
	}
	for _, child := range children {
		err = errors.Join(err, k.walk(c, node+"/"+child, do))
	}
	return err
}
