package open_test

import (
	"context"
	"errors"
	"strings"

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
