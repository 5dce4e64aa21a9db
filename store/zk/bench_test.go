package zk_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	zookeeper "github.com/go-zookeeper/zk"

	"weft/store"
)

// Each benchmark runs the bare client beside the store, in turns on one server, and reports both.

func raw(b *testing.B) *zookeeper.Conn {
	b.Helper()
	c, err := single.ZooKeeperClient()
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(c.Close)
	return c
}

func rawDir(b *testing.B, c *zookeeper.Conn) string {
	b.Helper()
	dir, err := c.Create("/raw-", nil, zookeeper.FlagSequence, zookeeper.WorldACL(zookeeper.PermAll))
	if err != nil {
		b.Fatal(err)
	}
	return dir
}

// size is that of a value: an endpoint's record has about as much.
const size = 300

func rawCreate(c *zookeeper.Conn, dir string, i int) error {
	rs, err := c.Multi(
		&zookeeper.CreateRequest{Path: fmt.Sprintf("%s/a%d", dir, i), Data: make([]byte, size), Acl: zookeeper.WorldACL(zookeeper.PermAll)},
		&zookeeper.CreateRequest{Path: fmt.Sprintf("%s/b%d", dir, i), Data: make([]byte, size), Acl: zookeeper.WorldACL(zookeeper.PermAll)})
	for _, r := range rs {
		if err == nil {
			err = r.Error
		}
	}
	return err
}

func create(i int) store.Txn {
	a, b := key(fmt.Sprintf("a%d", i)), key(fmt.Sprintf("b%d", i))
	return store.Txn{
		If:   []store.Cond{{Key: a, Rev: store.Absent}, {Key: b, Rev: store.Absent}},
		Then: []store.Op{store.Put(a, make([]byte, size)), store.Put(b, make([]byte, size))},
	}
}

func p50(d []time.Duration) float64 {
	slices.Sort(d)
	return float64(d[len(d)/2].Microseconds()) / 1000
}

func report(b *testing.B, name string, bare, ours []time.Duration) {
	b.Helper()
	r, o := p50(bare), p50(ours)
	b.ReportMetric(r, name+"-raw-ms")
	b.ReportMetric(o, name+"-ms")
	b.ReportMetric(o/r, name+"-ratio")
	b.ReportMetric(0, "ns/op")
}

// fresh is a prefix for one run of a benchmark, of which there are several.
func fresh(b *testing.B) string { return fmt.Sprintf("%s-%x", b.Name(), rand.Uint64()) }

func BenchmarkCreateTwoKeys(b *testing.B) {
	prefix := fresh(b)
	c, s := raw(b), client(b, single, prefix)
	dir := rawDir(b, c)
	var bare, ours []time.Duration
	for i := range 50 + b.N {
		began := time.Now()
		if err := rawCreate(c, dir, i); err != nil {
			b.Fatal(err)
		}
		middle := time.Now()
		if _, err := s.Txn(b.Context(), create(i)); err != nil {
			b.Fatal(err)
		}
		if i >= 50 {
			bare, ours = append(bare, middle.Sub(began)), append(ours, time.Since(middle))
		}
	}
	report(b, "create", bare, ours)
}

// throughput is how many transactions a second so many clients make together.
func throughput(b *testing.B, clients int, each func(client, i int) error) float64 {
	b.Helper()
	const warm, measured = time.Second, 4 * time.Second
	var n atomic.Int64
	var wg sync.WaitGroup
	began := time.Now()
	for c := range clients {
		wg.Go(func() {
			for i := 0; time.Since(began) < warm+measured; i++ {
				if err := each(c, i); err != nil {
					b.Error(err)
					return
				}
				if time.Since(began) > warm {
					n.Add(1)
				}
			}
		})
	}
	wg.Wait()
	return float64(n.Load()) / measured.Seconds()
}

// connected waits until a client can speak to the server: many at a time take longer than a call waits.
func connected(b *testing.B, s store.Store) {
	b.Helper()
	for end := time.Now().Add(30 * time.Second); ; {
		_, err := s.Status(b.Context())
		if err == nil {
			return
		}
		if time.Now().After(end) {
			b.Fatal(err)
		}
	}
}

func Benchmark64Clients(b *testing.B) {
	const clients = 64
	prefix := fresh(b)
	var bare []*zookeeper.Conn
	var ours []store.Store
	for range clients {
		bare, ours = append(bare, raw(b)), append(ours, client(b, single, prefix))
	}
	dir := rawDir(b, bare[0])
	for _, s := range ours {
		connected(b, s)
	}
	if b.N > 1 {
		return // it has its own measure of time
	}
	r := throughput(b, clients, func(c, i int) error { return rawCreate(bare[c], dir, c*1_000_000+i) })
	o := throughput(b, clients, func(c, i int) error { _, err := ours[c].Txn(b.Context(), create(c*1_000_000+i)); return err })
	b.ReportMetric(r, "raw-txn/s")
	b.ReportMetric(o, "txn/s")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkEvent writes in one client and waits in another: the bare one for the watch, then for the value.
func BenchmarkEvent(b *testing.B) {
	for _, keys := range []int{0, 10_000} {
		b.Run(fmt.Sprintf("%d keys", keys), func(b *testing.B) {
			prefix := fresh(b)
			writer, reader, s := raw(b), raw(b), client(b, single, prefix)
			fillTo(b, s, keys)
			node := rawDir(b, writer)
			w := client(b, single, prefix).Watch(b.Context(), store.Meta)
			<-w
			var bare, ours []time.Duration
			for i := range 50 + b.N {
				_, _, changed, err := reader.GetW(node)
				if err != nil {
					b.Fatal(err)
				}
				began := time.Now()
				if _, err := writer.Set(node, make([]byte, size), -1); err != nil {
					b.Fatal(err)
				}
				<-changed
				if _, _, err := reader.Get(node); err != nil {
					b.Fatal(err)
				}
				middle := time.Now()
				k := key(fmt.Sprintf("new%d", i))
				rev, err := s.Txn(b.Context(), store.Txn{If: []store.Cond{{Key: k, Rev: store.Absent}}, Then: []store.Op{store.Put(k, make([]byte, size))}})
				if err != nil {
					b.Fatal(err)
				}
				for x := range w {
					if x.Rev >= rev {
						break
					}
				}
				if i >= 50 {
					bare, ours = append(bare, middle.Sub(began)), append(ours, time.Since(middle))
				}
			}
			report(b, "event", bare, ours)
		})
	}
}

// fillTo makes so many keys.
func fillTo(b *testing.B, s store.Store, keys int) {
	b.Helper()
	const writers = 32
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := w; i < keys/2; i += writers {
				if _, err := s.Txn(b.Context(), create(i)); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func BenchmarkList(b *testing.B) {
	for _, keys := range []int{100, 10_000} {
		b.Run(fmt.Sprintf("%d keys", keys), func(b *testing.B) {
			prefix := fresh(b)
			s := client(b, single, prefix)
			fillTo(b, s, keys)
			for b.Loop() {
				l, err := s.List(b.Context(), store.Meta)
				if err != nil || len(l.Entries) != keys {
					b.Fatalf("%d entries, %v", len(l.Entries), err)
				}
			}
		})
	}
}
