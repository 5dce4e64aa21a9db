package etcd_test

import (
	"errors"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"weft/store"
	"weft/store/etcd"
	"weft/store/storetest/server"
)

// withPassword turns authentication on, with one user who may do all.
func withPassword(t *testing.T, c *server.Cluster) {
	t.Helper()
	cli, err := c.EtcdClient()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cli.Close() }()
	_, err1 := cli.UserAdd(t.Context(), "root", "secret")
	_, err2 := cli.UserGrantRole(t.Context(), "root", "root")
	_, err3 := cli.UserAdd(t.Context(), "nobody", "secret")
	_, err4 := cli.RoleAdd(t.Context(), "half")
	_, err5 := cli.RoleGrantPermission(t.Context(), "half", "p/", clientv3.GetPrefixRangeEnd("p/"), clientv3.PermissionType(clientv3.PermRead))
	_, err6 := cli.UserGrantRole(t.Context(), "nobody", "half")
	_, err7 := cli.AuthEnable(t.Context())
	if err := errors.Join(err1, err2, err3, err4, err5, err6, err7); err != nil {
		t.Fatal(err)
	}
}

func TestAUserIsAuthenticatedAlsoWhenTheServerComesLater(t *testing.T) {
	t.Parallel()
	c := own(t, 1)
	withPassword(t, c)
	if err := c.Members[0].Kill(); err != nil {
		t.Fatal(err)
	}
	as := func(user, password string) store.Store {
		s, err := etcd.New(etcd.Config{Endpoints: c.Endpoints(), Prefix: "p", User: user, Password: func() (string, error) { return password, nil }})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		return s
	}
	s := as("root", "secret")
	w := s.Watch(t.Context(), store.Meta)
	if _, err := s.Txn(t.Context(), txn); !errors.Is(err, store.ErrUnreachable) {
		t.Errorf("while the server is down: %v", err)
	}
	if err := c.Members[0].Start(); err != nil {
		t.Fatal(err)
	}
	rev := eventually(t, s)
	for b := next(t, w); b.Rev < rev; b = next(t, w) {
		t.Logf("before: %+v", b)
	}
	x, err := s.OpenSession(t.Context(), store.SessionConfig{Key: store.Key{Partition: store.Alive, Name: "h"}, TTL: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-x.Done():
		t.Error("the session was not renewed")
	case <-time.After(2 * x.TTL()):
	}
	for name, s := range map[string]store.Store{"wrong password": as("root", "wrong"), "no right": as("nobody", "secret")} {
		if _, err := s.Txn(t.Context(), txn); err == nil || errors.Is(err, store.ErrUnknown) || errors.Is(err, store.ErrUnreachable) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := as("root", "wrong").Get(t.Context(), txn.Then[0].Key); err == nil || errors.Is(err, store.ErrUnreachable) {
		t.Errorf("read with a wrong password: %v", err)
	}
}

// eventually applies a transaction as soon as the server is there.
func eventually(t *testing.T, s store.Store) store.Rev {
	t.Helper()
	for end := time.Now().Add(15 * time.Second); ; {
		rev, err := s.Txn(t.Context(), txn)
		if err == nil {
			return rev
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}
