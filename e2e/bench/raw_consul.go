package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
)

type rawConsul struct {
	cli     *api.Client
	tr      *http.Transport
	watches sync.WaitGroup
}

func newRawConsul(endpoint string, dial dialer) (*rawConsul, error) {
	tr := &http.Transport{DialContext: dial, MaxIdleConnsPerHost: 128, IdleConnTimeout: time.Minute}
	cli, err := api.NewClient(&api.Config{Address: endpoint, HttpClient: &http.Client{Transport: tr}})
	if err != nil {
		return nil, fmt.Errorf("reach Consul: %w", err)
	}
	return &rawConsul{cli: cli, tr: tr}, nil
}

func consulKey(key string) string { return rawPrefix + "/" + key }

func (r *rawConsul) create(ctx context.Context, key string, value []byte) error {
	k1, k2 := twoKeys(consulKey(key))
	return r.txn(ctx, api.TxnOps{
		{KV: &api.KVTxnOp{Verb: api.KVCheckNotExists, Key: k1}}, {KV: &api.KVTxnOp{Verb: api.KVCheckNotExists, Key: k2}},
		{KV: &api.KVTxnOp{Verb: api.KVSet, Key: k1, Value: value}}, {KV: &api.KVTxnOp{Verb: api.KVSet, Key: k2, Value: []byte(ownerValue)}},
	})
}

func (r *rawConsul) remove(ctx context.Context, key string) error {
	k1, k2 := twoKeys(consulKey(key))
	return r.txn(ctx, api.TxnOps{{KV: &api.KVTxnOp{Verb: api.KVDelete, Key: k1}}, {KV: &api.KVTxnOp{Verb: api.KVDelete, Key: k2}}})
}

func (r *rawConsul) txn(ctx context.Context, ops api.TxnOps) error {
	ok, _, _, err := r.cli.Txn().Txn(ops, (&api.QueryOptions{}).WithContext(ctx))
	if err == nil && !ok {
		err = errors.New("refused")
	}
	return rawError(err)
}

func (r *rawConsul) put(ctx context.Context, key, value string) error {
	k, _ := twoKeys(consulKey(key))
	_, err := r.cli.KV().Put(&api.KVPair{Key: k, Value: []byte(value)}, (&api.WriteOptions{}).WithContext(ctx))
	return rawError(err)
}

// watch blocks on the one key, which is the cheapest that Consul has: a query for a prefix returns all of it.
func (r *rawConsul) watch(ctx context.Context, key string) (<-chan string, error) {
	k, _ := twoKeys(consulKey(key))
	pair, meta, err := r.cli.KV().Get(k, (&api.QueryOptions{}).WithContext(ctx))
	if err != nil {
		return nil, rawError(err)
	}
	out := make(chan string)
	r.watches.Go(func() {
		var seen uint64
		if pair != nil {
			seen = pair.ModifyIndex
		}
		for index := meta.LastIndex; ; index = meta.LastIndex {
			pair, meta, err = r.cli.KV().Get(k, (&api.QueryOptions{WaitIndex: index, WaitTime: 20 * time.Second}).WithContext(ctx))
			if err != nil {
				return
			}
			if pair != nil && pair.ModifyIndex != seen {
				seen = pair.ModifyIndex
				tell(ctx, out, string(pair.Value))
			}
		}
	})
	return out, nil
}

func (r *rawConsul) close() error {
	r.watches.Wait()
	r.tr.CloseIdleConnections()
	return nil
}
