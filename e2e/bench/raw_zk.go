package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/go-zookeeper/zk"
)

type rawZooKeeper struct {
	cli     *zk.Conn
	watches sync.WaitGroup
}

func newRawZooKeeper(endpoint string, dial dialer) (*rawZooKeeper, error) {
	d := func(network, address string, timeout time.Duration) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		return dial(ctx, network, address)
	}
	cli, events, err := zk.Connect([]string{endpoint}, 20*time.Second, zk.WithDialer(d), zk.WithLogInfo(false))
	if err != nil {
		return nil, fmt.Errorf("reach ZooKeeper: %w", err)
	}
	for end := time.After(10 * time.Second); cli.State() != zk.StateHasSession; {
		select {
		case <-events:
		case <-end:
			cli.Close()
			return nil, errors.New("reach ZooKeeper: no session")
		}
	}
	if _, err := cli.Create("/"+rawPrefix, nil, 0, zk.WorldACL(zk.PermAll)); err != nil && !errors.Is(err, zk.ErrNodeExists) {
		cli.Close()
		return nil, rawError(err)
	}
	return &rawZooKeeper{cli: cli}, nil
}

// zkKey is a node's path. It is flat: a node must have its parents.
func zkKey(key string) string { return "/" + rawPrefix + "/" + strings.ReplaceAll(key, "/", ":") }

func (r *rawZooKeeper) create(_ context.Context, key string, value []byte) error {
	k1, k2 := twoKeys(zkKey(key))
	acl := zk.WorldACL(zk.PermAll)
	return r.multi(&zk.CreateRequest{Path: k1, Data: value, Acl: acl}, &zk.CreateRequest{Path: k2, Data: []byte(ownerValue), Acl: acl})
}

func (r *rawZooKeeper) remove(_ context.Context, key string) error {
	k1, k2 := twoKeys(zkKey(key))
	return r.multi(&zk.DeleteRequest{Path: k1, Version: -1}, &zk.DeleteRequest{Path: k2, Version: -1})
}

// multi also looks at the single answers: a transaction that was refused has no error of its own.
func (r *rawZooKeeper) multi(ops ...any) error {
	answers, err := r.cli.Multi(ops...)
	for _, a := range answers {
		err = errors.Join(err, a.Error)
	}
	return rawError(err)
}

func (r *rawZooKeeper) put(_ context.Context, key, value string) error {
	k, _ := twoKeys(zkKey(key))
	_, err := r.cli.Set(k, []byte(value), -1)
	if errors.Is(err, zk.ErrNoNode) {
		_, err = r.cli.Create(k, []byte(value), 0, zk.WorldACL(zk.PermAll))
	}
	return rawError(err)
}

func (r *rawZooKeeper) watch(ctx context.Context, key string) (<-chan string, error) {
	k, _ := twoKeys(zkKey(key))
	_, at, changed, err := r.cli.ExistsW(k)
	if err != nil {
		return nil, rawError(err)
	}
	out := make(chan string)
	r.watches.Go(func() {
		seen := at.Mzxid
		for {
			select {
			case <-ctx.Done():
				return
			case <-changed:
			}
			var value []byte
			if value, at, changed, err = r.cli.GetW(k); err != nil {
				return
			}
			if at.Mzxid != seen {
				seen = at.Mzxid
				tell(ctx, out, string(value))
			}
		}
	})
	return out, nil
}

func (r *rawZooKeeper) close() error {
	r.watches.Wait()
	r.cli.Close()
	return nil
}
