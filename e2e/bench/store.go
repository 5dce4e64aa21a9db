package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"weft/store"
	"weft/store/open"
	"weft/store/storetest/server"
)

// transactions are what childTransactions found: milliseconds of one at a time, and how many a second many callers get done.
type transactions struct{ One, Many struct{ Weft, Floor sample } }

// callers are the clients of a store at once.
const callers = 64

// measureStore compares a transaction that creates two keys, through weft's store and through the back end's own client, from a host.
func (b *bench) measureStore(ctx context.Context) error {
	node, err := b.lab.AddNode("client")
	if err != nil {
		return err
	}
	c, err := b.startChild(ctx, node, childSpec{Work: "txn", Times: b.n(300, 20), Rounds: b.n(9, 1)})
	if err != nil {
		return err
	}
	var got transactions
	if err := errors.Join(json.Unmarshal(c.line, &got), c.end()); err != nil {
		return fmt.Errorf("read the transactions' times: %w", err)
	}
	one, many := ratioAtMost(1.5), atLeast(1800, "/s")
	switch b.kind {
	case server.Etcd:
		one, many = ratioAtMost(1.15), ratioAtLeast(0.9)
	case server.ZooKeeper:
		many = atLeast(2500, "/s")
	}
	peer := fmt.Sprintf("%s's own client, same keys and values", b.kind)
	b.report.pair("two-key transaction", "ms", peer, pairs{got.One.Weft, got.One.Floor}, one)
	b.report.pair(fmt.Sprintf("the same by %d callers", callers), "/s", peer, pairs{got.Many.Weft, got.Many.Floor}, many)
	return nil
}

// openStore is weft's store, under a prefix that no agent has.
func openStore(kind server.Kind, endpoint string, dial dialer) (store.Store, error) {
	return open.Open(string(kind)+"://"+endpoint+"/bench", nil, open.Options{Dial: dial})
}

// childTransactions prints the times of both.
func childTransactions(ctx context.Context, spec childSpec, out io.Writer) (err error) {
	ours, err := openStore(spec.Kind, spec.Endpoint, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ours.Close()) }()
	plain, err := newRaw(spec.Kind, spec.Endpoint, (&net.Dialer{}).DialContext)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, plain.close()) }()
	value := make([]byte, 300) // about an endpoint's record
	var made atomic.Int64
	weft := func() error {
		i := made.Add(1)
		k1, k2 := store.Key{Partition: "p", Name: fmt.Sprintf("ep/%d", i)}, store.Key{Partition: "p", Name: fmt.Sprintf("addr/%d", i)}
		_, err := ours.Txn(ctx, store.Txn{
			If:   []store.Cond{{Key: k1, Rev: store.Absent}, {Key: k2, Rev: store.Absent}},
			Then: []store.Op{store.Put(k1, value), store.Put(k2, []byte(ownerValue))},
		})
		return err
	}
	floor := func() error { return plain.create(ctx, fmt.Sprint(made.Add(1)), value) }
	var got transactions
	for i := range spec.Times + 5 {
		w, f, err := inTurns(i, weft, floor)
		if err != nil {
			return err
		}
		if i >= 5 { // the first ones pay for the connection
			got.One.Weft, got.One.Floor = append(got.One.Weft, w), append(got.One.Floor, f)
		}
	}
	for i := range spec.Rounds + 1 {
		w, f, err := inTurnsOf(i, func() (float64, error) { return callsPerSecond(ctx, weft) }, func() (float64, error) { return callsPerSecond(ctx, floor) })
		if err != nil {
			return err
		}
		if i > 0 || spec.Rounds == 1 { // the first one pays for the callers' connections
			got.Many.Weft, got.Many.Floor = append(got.Many.Weft, w), append(got.Many.Floor, f)
		}
	}
	return json.NewEncoder(out).Encode(got)
}

// roundTime is how long the callers call.
const roundTime = 700 * time.Millisecond

// callsPerSecond is how often many callers get something done.
func callsPerSecond(ctx context.Context, what func() error) (float64, error) {
	var done atomic.Int64
	var group errgroup.Group
	began := time.Now()
	for range callers {
		group.Go(func() error {
			for time.Since(began) < roundTime && ctx.Err() == nil {
				if err := what(); err != nil {
					return err
				}
				done.Add(1)
			}
			return nil
		})
	}
	err := group.Wait()
	return float64(done.Load()) / time.Since(began).Seconds(), err
}

// inTurns times two things; which one comes first alternates, so that none has the better of the other's traces.
func inTurns(i int, weft, floor func() error) (w, f float64, err error) {
	return inTurnsOf(i, func() (float64, error) { return timed(weft) }, func() (float64, error) { return timed(floor) })
}

// inTurnsOf is the same for what measures itself.
func inTurnsOf(i int, weft, floor func() (float64, error)) (w, f float64, err error) {
	if i%2 == 0 {
		if w, err = weft(); err == nil {
			f, err = floor()
		}
		return w, f, err
	}
	if f, err = floor(); err == nil {
		w, err = weft()
	}
	return w, f, err
}
