package zk_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"weft/store"
	"weft/store/zk"
)

// counted is a Dial that counts.
type counted struct {
	mu sync.Mutex
	at []time.Time
}

func (c *counted) dial(ctx context.Context, network, address string) (net.Conn, error) {
	c.mu.Lock()
	c.at = append(c.at, time.Now())
	c.mu.Unlock()
	var d net.Dialer
	return d.DialContext(ctx, network, address)
}

func (c *counted) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.at)
}

func connect(t *testing.T, c *counted, endpoints ...string) store.Store {
	t.Helper()
	s, err := zk.New(zk.Config{Endpoints: endpoints, Prefix: t.Name(), Dial: c.dial})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// rude accepts connections and does what it is told to with them.
func rude(t *testing.T, with func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
			with(c)
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
		for _, c := range conns {
			_ = c.Close()
		}
	})
	return l.Addr().String()
}

// Whatever does not answer is asked less and less often, and calls end, with what was wrong.
func TestServersThatDoNotAnswer(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		endpoint func(t *testing.T) string
		says     string
	}{
		"nobody is there":        {func(*testing.T) string { return "127.0.0.1:1" }, "refused"},
		"it hangs up":            {func(t *testing.T) string { return rude(t, func(c net.Conn) { _ = c.Close() }) }, ""},
		"it never says anything": {func(t *testing.T) string { return rude(t, func(net.Conn) {}) }, "does not answer"},
		"it speaks otherwise": {func(t *testing.T) string {
			return rude(t, func(c net.Conn) { _, _ = c.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n")) })
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := &counted{}
			s := connect(t, c, tc.endpoint(t))
			const wait = 4 * time.Second
			began := time.Now()
			var err error
			for time.Since(began) < wait {
				call, cancel := context.WithTimeout(t.Context(), 2*time.Second)
				_, err = s.Txn(call, store.Txn{Then: []store.Op{store.Put(key("k"), nil)}})
				cancel()
				if !errors.Is(err, store.ErrUnreachable) {
					t.Fatalf("%v, want unreachable: nothing was sent", err)
				}
			}
			if !strings.Contains(err.Error(), tc.says) {
				t.Errorf("it is said that %v", err)
			}
			if n := c.count(); n < 2 || n > 24 { // at most twelve tries; one that is hung up on is followed by the question whether TLS is spoken
				t.Errorf("%d connections in %v", n, wait)
			}
		})
	}
}

func TestAnotherEndpointIsUsedWhenOneDoesNotAnswer(t *testing.T) {
	t.Parallel()
	for name, dead := range map[string]string{"nobody is there": "127.0.0.1:1", "it never says anything": rude(t, func(net.Conn) {})} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for range 3 { // each client begins where it likes
				s := connect(t, &counted{}, dead, single.Members[0].Endpoint)
				eventually(t, "the other endpoint is not used", func() bool {
					_, err := s.Get(t.Context(), key("nothing"))
					return errors.Is(err, store.ErrNotFound)
				})
			}
		})
	}
}

func TestStatus(t *testing.T) {
	t.Parallel()
	s, other := client(t, three, t.Name()), client(t, three, t.Name()+"-other")
	rev := put(t, s, key("k"), "")
	st, err := s.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	leader, err := three.Leader(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if st.Backend != "zookeeper" || !strings.HasPrefix(st.Version, "3.") || st.Leader != leader.Endpoint || st.Rev < rev || st.Latency <= 0 || len(st.Endpoints) != 3 {
		t.Errorf("%+v, the leader is %s", st, leader.Endpoint)
	}
	again, err := client(t, three, t.Name()).Status(t.Context())
	if err != nil || again.ClusterID != st.ClusterID || st.ClusterID == "" || again.Rev < st.Rev {
		t.Errorf("%+v, then %+v, %v", st, again, err)
	}
	if o, err := other.Status(t.Context()); err != nil || o.ClusterID == st.ClusterID {
		t.Errorf("another tree has the same history: %+v, %v", o, err)
	}
}

func TestAPrefixMustBeAPath(t *testing.T) {
	for _, prefix := range []string{"", "/", "a//b"} {
		if _, err := zk.New(zk.Config{Endpoints: []string{"h:1"}, Prefix: prefix}); err == nil {
			t.Errorf("%q passed", prefix)
		}
	}
	if _, err := zk.New(zk.Config{Prefix: "p"}); err == nil {
		t.Error("no endpoints passed")
	}
}
