package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"weft/store"
	"weft/store/etcd"
)

// measureStore compares a transaction that creates two keys, through weft's store and through etcd's own client, from a host.
func (b *bench) measureStore(ctx context.Context) error {
	node, err := b.lab.AddNode("client")
	if err != nil {
		return err
	}
	c, err := b.startChild(ctx, node, childSpec{Work: "txn", Times: b.n(300, 20)})
	if err != nil {
		return err
	}
	var got struct{ Weft, Floor sample }
	if err := errors.Join(json.Unmarshal(c.line, &got), c.end()); err != nil {
		return fmt.Errorf("read the transactions' times: %w", err)
	}
	b.report.pair("two-key transaction", "ms", "etcd's own client, same keys and values", pairs{got.Weft, got.Floor})
	return nil
}

// childTransactions prints the times of both.
func childTransactions(ctx context.Context, spec childSpec, out io.Writer) (err error) {
	ours, err := etcd.New(etcd.Config{Endpoints: []string{spec.Endpoint}, Prefix: "bench"})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ours.Close()) }()
	plain, err := clientv3.New(clientv3.Config{Endpoints: []string{spec.Endpoint}, DialTimeout: 5 * time.Second, Logger: zap.NewNop()})
	if err != nil {
		return fmt.Errorf("reach etcd: %w", err)
	}
	defer func() { err = errors.Join(err, plain.Close()) }()
	value := make([]byte, 300) // about an endpoint's record
	weft := func(i int) error {
		k1, k2 := store.Key{Partition: "p", Name: fmt.Sprintf("ep/%d", i)}, store.Key{Partition: "p", Name: fmt.Sprintf("addr/%d", i)}
		_, err := ours.Txn(ctx, store.Txn{
			If:   []store.Cond{{Key: k1, Rev: store.Absent}, {Key: k2, Rev: store.Absent}},
			Then: []store.Op{store.Put(k1, value), store.Put(k2, []byte("owner"))},
		})
		return err
	}
	raw := func(i int) error { return createTwo(ctx, plain, fmt.Sprintf("plain/%d", i), value) }
	var got struct{ Weft, Floor sample }
	for i := range spec.Times + 5 {
		w, f, err := inTurns(i, func() error { return weft(i) }, func() error { return raw(i) })
		if err != nil {
			return err
		}
		if i >= 5 { // the first ones pay for the connection
			got.Weft, got.Floor = append(got.Weft, w), append(got.Floor, f)
		}
	}
	return json.NewEncoder(out).Encode(got)
}

// createTwo is the raw transaction that creates two keys.
func createTwo(ctx context.Context, cli *clientv3.Client, key string, value []byte) error {
	k1, k2 := key+"/ep", key+"/addr"
	r, err := cli.Txn(ctx).
		If(clientv3.Compare(clientv3.CreateRevision(k1), "=", 0), clientv3.Compare(clientv3.CreateRevision(k2), "=", 0)).
		Then(clientv3.OpPut(k1, string(value)), clientv3.OpPut(k2, "owner")).Commit()
	if err != nil {
		return fmt.Errorf("raw transaction: %w", err)
	}
	if !r.Succeeded {
		return errors.New("raw transaction: refused")
	}
	return nil
}

// inTurns times two things; which one comes first alternates, so that none has the better of the other's traces.
func inTurns(i int, weft, floor func() error) (w, f float64, err error) {
	if i%2 == 0 {
		if w, err = timed(weft); err == nil {
			f, err = timed(floor)
		}
		return w, f, err
	}
	if f, err = timed(floor); err == nil {
		w, err = timed(weft)
	}
	return w, f, err
}
