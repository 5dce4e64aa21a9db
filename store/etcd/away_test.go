package etcd_test

import (
	"io"
	"net"
	"slices"
	"sync"
	"testing"

	"weft/store"
	"weft/store/etcd"
)

// link is a TCP connection to a server that can be cut.
type link struct {
	l      net.Listener
	server string
	wg     sync.WaitGroup

	mu    sync.Mutex
	cut   bool
	conns map[net.Conn]bool
}

func newLink(t *testing.T, server string) *link {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	x := &link{l: l, server: server, conns: map[net.Conn]bool{}}
	x.wg.Go(x.accept)
	t.Cleanup(func() { _ = l.Close(); x.set(true); x.wg.Wait() })
	return x
}

func (x *link) accept() {
	for {
		c, err := x.l.Accept()
		if err != nil {
			return
		}
		up, err := net.Dial("tcp", x.server)
		if err != nil || !x.add(c, up) {
			_ = c.Close()
			continue
		}
		for from, to := range map[net.Conn]net.Conn{c: up, up: c} {
			x.wg.Go(func() {
				_, _ = io.Copy(to, from)
				_, _ = from.Close(), to.Close()
			})
		}
	}
}

func (x *link) add(cs ...net.Conn) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, c := range cs {
		if x.cut {
			_ = c.Close()
		} else {
			x.conns[c] = true
		}
	}
	return !x.cut
}

func (x *link) set(cut bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.cut = cut
	for c := range x.conns {
		_ = c.Close()
	}
	clear(x.conns)
}

// A watcher is cut off, and others write meanwhile. When it is back it hears all: batch by batch or, where history was compacted meanwhile,
// the exact difference.
func TestAWatcherThatWasAway(t *testing.T) {
	for name, compacted := range map[string]bool{"history kept": false, "history compacted": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := own(t, 1)
			x := newLink(t, c.Members[0].Endpoint)
			away, err := etcd.New(etcd.Config{Endpoints: []string{x.l.Addr().String()}, Prefix: "p"})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = away.Close() })
			here := client(t, c, "p")
			write := func(ops ...store.Op) store.Rev {
				rev, err := here.Txn(t.Context(), store.Txn{Then: ops})
				if err != nil {
					t.Fatal(err)
				}
				return rev
			}
			write(store.Put(key("stays"), nil), store.Put(key("goes"), nil), store.Put(key("changes"), nil))
			w := away.Watch(t.Context(), store.Meta)
			if b := next(t, w); len(b.Puts) != 3 {
				t.Fatalf("%+v", b)
			}
			x.set(true)
			write(store.Put(key("came and went"), nil))
			write(store.Put(key("changes"), []byte("once")))
			write(store.Del(key("goes")), store.Del(key("came and went")))
			last := write(store.Put(key("changes"), []byte("twice")), store.Put(key("new"), nil))
			if compacted {
				if err := c.CompactEtcd(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			x.set(false)
			b := next(t, w)
			if !compacted {
				for n := 1; b.Rev < last; n++ {
					if b.Resync || n > 3 {
						t.Fatalf("batch %d: %+v, want each transaction by itself", n, b)
					}
					b = next(t, w)
				}
				if b.Rev != last || len(b.Puts) != 2 {
					t.Errorf("the last one: %+v", b)
				}
				return
			}
			if !b.Resync || b.Rev < last || len(b.Puts) != 2 || b.Puts[0].Key != key("changes") || string(b.Puts[0].Value) != "twice" || b.Puts[1].Key != key("new") ||
				!slices.Equal(b.Dels, []store.Key{key("goes")}) {
				t.Errorf("got %+v, want just the difference", b)
			}
		})
	}
}
