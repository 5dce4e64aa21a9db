package consul_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"weft/store"
	"weft/store/consul"
)

// counter counts connections and the requests on them.
type counter struct {
	mu       sync.Mutex
	dials    int
	open     int
	most     int // open at a time
	requests int
}

func (c *counter) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	c.mu.Lock()
	c.dials++
	c.mu.Unlock()
	conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open++
	c.most = max(c.most, c.open)
	return &countedConn{Conn: conn, c: c}, nil
}

func (c *counter) reset() (dials, requests int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	dials, requests = c.dials, c.requests
	c.dials, c.requests = 0, 0
	return dials, requests
}

type countedConn struct {
	net.Conn
	c    *counter
	once sync.Once
}

func (x *countedConn) Write(b []byte) (int, error) {
	const tlsData = 23 // what is inside cannot be seen
	if bytes.HasPrefix(b, []byte("GET ")) || bytes.HasPrefix(b, []byte("PUT ")) || len(b) > 0 && b[0] == tlsData {
		x.c.mu.Lock()
		x.c.requests++
		x.c.mu.Unlock()
	}
	return x.Conn.Write(b)
}

func (x *countedConn) Close() error {
	x.once.Do(func() {
		x.c.mu.Lock()
		x.c.open--
		x.c.mu.Unlock()
	})
	return x.Conn.Close()
}

// An idle agent with a session and some networks: one request a second, and a tenth for each network.
func TestAnIdleAgentAsksLittle(t *testing.T) {
	t.Parallel()
	const networks = 4
	var c counter
	s := with(t, consul.Config{Endpoints: single.Endpoints(), Prefix: "idle", Dial: c.Dial})
	x, err := s.OpenSession(t.Context(), store.SessionConfig{Key: store.Key{Partition: store.Alive, Name: "h"}, TTL: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	partitions := []string{store.Meta, store.Alive}
	for i := range networks {
		partitions = append(partitions, fmt.Sprintf("net/%d", i))
	}
	for _, p := range partitions {
		next(t, s.Watch(t.Context(), p))
	}
	const period = 32 * time.Second // one and a half turns of a blocking query
	c.reset()
	select {
	case <-time.After(period):
	case <-x.Done():
		t.Error("the session ended")
	}
	dials, requests := c.reset()
	t.Logf("%d requests and %d connections in %v", requests, dials, period)
	if most := int(period.Seconds() * (1 + 0.1*networks)); requests > most {
		t.Errorf("%d requests in %v, at most %d are right", requests, period, most)
	}
	if err := x.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// settles waits for a period in which at most so many connections are tried, and requests made. At first each watch and each feed tries once or twice,
// on a busy machine one late; those that spin never settle.
func settles(t *testing.T, c *counter, period time.Duration, most int) {
	t.Helper()
	const periods = 5
	for n := 1; ; n++ {
		c.reset()
		time.Sleep(period)
		dials, requests := c.reset()
		t.Logf("%d connections tried, %d requests in %v", dials, requests, period)
		if dials <= most && requests <= most {
			return
		}
		if n == periods {
			t.Errorf("still %d connections and %d requests in %v", dials, requests, period)
			return
		}
	}
}

// Watches of a store that refuses connections, or refuses the client, try again a few times a second at most, however many they are.
func TestWatchesThatCannotBeginDoNotSpin(t *testing.T) {
	guarded := secure(t)
	for name, tc := range map[string]consul.Config{
		"no server":                 {Endpoints: []string{"127.0.0.1:1"}},
		"a server that says no":     {Endpoints: guarded.Endpoints(), TLS: clientTLS(t, guarded), Token: always("b0000000-0000-0000-0000-000000000000")},
		"a server that is none":     {Endpoints: teapot(t)},
		"a server of another world": {Endpoints: guarded.Endpoints()},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var c counter
			tc.Dial, tc.Prefix = c.Dial, "spin"
			s := with(t, tc)
			const watches, period = 40, 4 * time.Second
			for i := range watches {
				w := s.Watch(t.Context(), fmt.Sprintf("net/%d", i))
				defer func() {
					select {
					case b := <-w:
						t.Errorf("a batch from nowhere: %+v", b)
					default:
					}
				}()
			}
			settles(t, &c, period, int(8*period.Seconds())) // of the probe, 0.25 to 1 s apart, which asks twice
		})
	}
}

// A client has a connection for each shard, and not for each network that it watches.
func TestManyNetworksShareConnections(t *testing.T) {
	t.Parallel()
	const networks = 200
	var c counter
	s := with(t, consul.Config{Endpoints: single.Endpoints(), Prefix: "many", Dial: c.Dial})
	writer := client(t, single, "many")
	partition := func(i int) string { return fmt.Sprintf("net/%d", i) }
	var watches []<-chan store.Batch
	for i := range networks {
		watches = append(watches, s.Watch(t.Context(), partition(i)))
	}
	for _, w := range watches {
		next(t, w)
	}
	for i, w := range watches {
		rev, err := writer.Txn(t.Context(), store.Txn{Then: []store.Op{store.Put(store.Key{Partition: partition(i), Name: "k"}, nil)}})
		if err != nil {
			t.Fatal(err)
		}
		if b := next(t, w); b.Rev != rev || b.Resync {
			t.Errorf("%s: %+v, want revision %d", partition(i), b, rev)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.most > consul.MaxConnections {
		t.Errorf("%d connections at a time", c.most)
	}
	t.Logf("at most %d connections at a time, %d requests", c.most, c.requests)
}
