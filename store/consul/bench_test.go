package consul_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"weft/store"
)

// Each benchmark takes turns with Consul's own client, so that a noisy machine is noisy to both.

func rawClient(b *testing.B) *api.Client {
	b.Helper()
	cli, err := single.ConsulClient(0)
	if err != nil {
		b.Fatal(err)
	}
	return cli
}

func median(d []time.Duration) float64 {
	slices.Sort(d)
	return float64(d[len(d)/2]) / float64(time.Millisecond)
}

func report(b *testing.B, raw, ours []time.Duration) {
	r, o := median(raw), median(ours)
	b.ReportMetric(r, "raw-p50-ms")
	b.ReportMetric(o, "store-p50-ms")
	b.ReportMetric(o/r, "ratio")
	b.ReportMetric(0, "ns/op")
}

func create(prefix string, i int64) store.Txn {
	a, c := key(fmt.Sprintf("%s/a/%d", prefix, i)), key(fmt.Sprintf("%s/b/%d", prefix, i))
	return store.Txn{
		If:   []store.Cond{{Key: a, Rev: store.Absent}, {Key: c, Rev: store.Absent}},
		Then: []store.Op{store.Put(a, value), store.Put(c, value)},
	}
}

var value = make([]byte, 200)

func rawCreate(cli *api.Client, prefix string, i int64) error {
	var ops api.TxnOps
	for _, verb := range []api.KVOp{api.KVCheckNotExists, api.KVSet} {
		for _, k := range []string{"a", "b"} {
			op := &api.KVTxnOp{Verb: verb, Key: fmt.Sprintf("%s/%s/%d", prefix, k, i)}
			if verb == api.KVSet {
				op.Value = value
			}
			ops = append(ops, &api.TxnOp{KV: op})
		}
	}
	ok, _, _, err := cli.Txn().Txn(ops, nil)
	if err == nil && !ok {
		err = fmt.Errorf("%s/%d was refused", prefix, i)
	}
	return err
}

func BenchmarkCreateTwoKeys(b *testing.B) {
	cli, s, run := rawClient(b), client(b, single, fmt.Sprintf("create%x", rand.Uint32())), fmt.Sprintf("raw%x", rand.Uint32())
	var raw, ours []time.Duration
	for i := int64(0); b.Loop(); i++ {
		begin := time.Now()
		if err := rawCreate(cli, run, i); err != nil {
			b.Fatal(err)
		}
		raw = append(raw, time.Since(begin))
		begin = time.Now()
		if _, err := s.Txn(b.Context(), create("x", i)); err != nil {
			b.Fatal(err)
		}
		ours = append(ours, time.Since(begin))
	}
	report(b, raw, ours)
}

// each runs f in so many goroutines for a time and returns how often in a second.
func each(b *testing.B, n int, d time.Duration, f func(worker int, i int64) error) float64 {
	b.Helper()
	var count atomic.Int64
	var wg sync.WaitGroup
	begin := time.Now()
	for w := range n {
		wg.Go(func() {
			for time.Since(begin) < d {
				if err := f(w, count.Add(1)); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	return float64(count.Load()) / time.Since(begin).Seconds()
}

// 64 clients, each with a store of its own, in turns of a second with 64 users of the raw client. Somebody watches, as always in a cluster.
func BenchmarkManyClients(b *testing.B) {
	const clients, turn = 64, time.Second
	cli, prefix := rawClient(b), fmt.Sprintf("many%x", rand.Uint32())
	var stores []store.Store
	for range clients {
		stores = append(stores, client(b, single, prefix))
	}
	ctx, cancel := context.WithCancel(b.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	resyncs := 0
	w := client(b, single, prefix).Watch(ctx, store.Meta)
	next(b, w)
	wg.Go(func() {
		for x := range w {
			if x.Resync {
				resyncs++
			}
		}
	})
	var raw, ours []float64
	for b.Loop() {
		run := fmt.Sprintf("raw%x", rand.Uint32())
		raw = append(raw, each(b, clients, turn, func(_ int, i int64) error { return rawCreate(cli, run, i) }))
		ours = append(ours, each(b, clients, turn, func(w int, i int64) error {
			_, err := stores[w].Txn(b.Context(), create(run, i))
			return err
		}))
	}
	mean := func(x []float64) (sum float64) {
		for _, v := range x {
			sum += v / float64(len(x))
		}
		return sum
	}
	b.ReportMetric(mean(raw), "raw-txn/s")
	b.ReportMetric(mean(ours), "store-txn/s")
	cancel()
	wg.Wait()
	b.ReportMetric(float64(resyncs), "resyncs")
	b.ReportMetric(0, "ns/op")
}

// fill puts n keys into a partition.
func fill(b *testing.B, s store.Store, n int) {
	b.Helper()
	for i := 0; i < n; i += store.MaxOps {
		var t store.Txn
		for j := i; j < min(i+store.MaxOps, n); j++ {
			t.Then = append(t.Then, store.Put(key(fmt.Sprintf("fill/%d", j)), value))
		}
		if _, err := s.Txn(b.Context(), t); err != nil {
			b.Fatal(err)
		}
	}
}

// rawWatch tells the index of each new state of a prefix.
func rawWatch(ctx context.Context, cli *api.Client, prefix string) <-chan uint64 {
	out := make(chan uint64)
	go func() {
		defer close(out)
		for index := uint64(0); ctx.Err() == nil; {
			_, m, err := cli.KV().List(prefix, (&api.QueryOptions{WaitIndex: index}).WithContext(ctx))
			if err != nil {
				continue
			}
			index = m.LastIndex
			select {
			case out <- index:
			case <-ctx.Done():
			}
		}
	}()
	return out
}

// A put is seen by a watch of another client, and beside it one by a blocking query on a prefix of a few keys.
func BenchmarkPutToEvent(b *testing.B) {
	for _, n := range []int{10, 10_000} {
		b.Run(fmt.Sprintf("%d keys", n), func(b *testing.B) {
			cli, prefix := rawClient(b), fmt.Sprintf("event%x", rand.Uint32())
			writer, reader := client(b, single, prefix), client(b, single, prefix)
			fill(b, writer, n)
			ctx, cancel := context.WithCancel(b.Context())
			defer cancel()
			w := reader.Watch(ctx, store.Meta)
			next(b, w)
			rawPrefix := prefix + "-raw/"
			if _, err := cli.KV().Put(&api.KVPair{Key: rawPrefix + "k"}, nil); err != nil {
				b.Fatal(err)
			}
			rw := rawWatch(ctx, cli, rawPrefix)
			<-rw
			var raw, ours []time.Duration
			for i := 0; b.Loop(); i++ {
				begin := time.Now()
				if _, err := cli.KV().Put(&api.KVPair{Key: rawPrefix + "k", Value: fmt.Append(value, i)}, nil); err != nil {
					b.Fatal(err)
				}
				<-rw
				raw = append(raw, time.Since(begin))
				begin = time.Now()
				rev, err := writer.Txn(b.Context(), store.Txn{Then: []store.Op{store.Put(key("k"), fmt.Append(value, i))}})
				if err != nil {
					b.Fatal(err)
				}
				for next(b, w).Rev < rev {
				}
				ours = append(ours, time.Since(begin))
			}
			report(b, raw, ours)
		})
	}
}

func BenchmarkList(b *testing.B) {
	cli, prefix := rawClient(b), fmt.Sprintf("list%x", rand.Uint32())
	s := client(b, single, prefix)
	fill(b, s, 10_000)
	var raw, ours []time.Duration
	for b.Loop() {
		begin := time.Now()
		kvs, _, err := cli.KV().List(prefix+"/meta/k/", nil)
		if err != nil || len(kvs) != 10_000 {
			b.Fatal(len(kvs), err)
		}
		raw = append(raw, time.Since(begin))
		begin = time.Now()
		l, err := s.List(b.Context(), store.Meta)
		if err != nil || len(l.Entries) != 10_000 {
			b.Fatal(len(l.Entries), err)
		}
		ours = append(ours, time.Since(begin))
	}
	report(b, raw, ours)
}
