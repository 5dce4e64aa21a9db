package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
)

type rawEtcd struct {
	cli     *clientv3.Client
	watches sync.WaitGroup
}

func newRawEtcd(endpoint string, dial dialer) (*rawEtcd, error) {
	cli, err := clientv3.New(clientv3.Config{
		Endpoints: []string{endpoint}, Logger: zap.NewNop(), DialTimeout: 5 * time.Second,
		DialOptions: []grpc.DialOption{grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) { return dial(ctx, "tcp", addr) })},
	})
	if err != nil {
		return nil, fmt.Errorf("reach etcd: %w", err)
	}
	return &rawEtcd{cli: cli}, nil
}

func etcdKey(key string) string { return rawPrefix + "/" + key }

func (r *rawEtcd) create(ctx context.Context, key string, value []byte) error {
	k1, k2 := twoKeys(etcdKey(key))
	got, err := r.cli.Txn(ctx).
		If(clientv3.Compare(clientv3.CreateRevision(k1), "=", 0), clientv3.Compare(clientv3.CreateRevision(k2), "=", 0)).
		Then(clientv3.OpPut(k1, string(value)), clientv3.OpPut(k2, ownerValue)).Commit()
	if err == nil && !got.Succeeded {
		err = errors.New("refused")
	}
	return rawError(err)
}

func (r *rawEtcd) remove(ctx context.Context, key string) error {
	k1, k2 := twoKeys(etcdKey(key))
	_, err := r.cli.Txn(ctx).Then(clientv3.OpDelete(k1), clientv3.OpDelete(k2)).Commit()
	return rawError(err)
}

func (r *rawEtcd) put(ctx context.Context, key, value string) error {
	k, _ := twoKeys(etcdKey(key))
	_, err := r.cli.Put(ctx, k, value)
	return rawError(err)
}

func (r *rawEtcd) watch(ctx context.Context, key string) (<-chan string, error) {
	k, _ := twoKeys(etcdKey(key))
	events := r.cli.Watch(ctx, k, clientv3.WithCreatedNotify())
	if first := <-events; !first.Created {
		return nil, rawError(errors.Join(errors.New("no watch"), first.Err()))
	}
	out := make(chan string)
	r.watches.Go(func() {
		for got := range events {
			for _, e := range got.Events {
				tell(ctx, out, string(e.Kv.Value))
			}
		}
	})
	return out, nil
}

func (r *rawEtcd) close() error {
	r.watches.Wait()
	return r.cli.Close()
}

func rawError(err error) error {
	if err != nil {
		return fmt.Errorf("the store's own client: %w", err)
	}
	return nil
}
