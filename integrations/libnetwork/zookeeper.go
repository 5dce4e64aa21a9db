package libnetwork

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-zookeeper/zk"
)

// zookeeper reads node by node. Docker may write meanwhile: what goes between being listed and being read is left out.
type zookeeper struct {
	source Source

	once     sync.Once
	conn     *zk.Conn
	err      error
	hopeless chan struct{} // closed when each endpoint has been tried in vain

	mu      sync.Mutex // guards what follows
	dialErr error      // of the last attempt to connect
	failed  int        // attempts
}

const zkSession = 10 * time.Second

func newZooKeeper(s Source) *zookeeper {
	return &zookeeper{source: s, hopeless: make(chan struct{})}
}

// connect waits for a session. The client takes no contexts: closing it ends what it does.
func (z *zookeeper) connect(ctx context.Context) error {
	z.once.Do(func() {
		var events <-chan zk.Event
		z.conn, events, z.err = zk.Connect(z.source.Endpoints, zkSession, zk.WithLogger(silent{}), zk.WithLogInfo(false), zk.WithDialer(z.dial))
		if z.err == nil {
			z.err = z.await(ctx, events)
		}
		if z.err == nil && z.source.User != "" {
			z.err = z.conn.AddAuth("digest", []byte(z.source.User+":"+z.source.Password))
		}
	})
	return z.err
}

func (z *zookeeper) await(ctx context.Context, events <-chan zk.Event) error {
	patience := time.NewTimer(connectWithin * time.Duration(len(z.source.Endpoints)))
	defer patience.Stop()
	for {
		select {
		case e := <-events:
			switch e.State {
			case zk.StateHasSession:
				return nil
			case zk.StateAuthFailed:
				return errors.New("it refuses these credentials")
			}
		case <-ctx.Done():
			return ctx.Err()
		case <-z.hopeless:
			return z.whyNot()
		case <-patience.C:
			return z.whyNot()
		}
	}
}

func (z *zookeeper) whyNot() error {
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.dialErr != nil {
		return z.dialErr
	}
	return fmt.Errorf("%s does not answer as ZooKeeper does", strings.Join(z.source.Endpoints, ", "))
}

func (z *zookeeper) dial(network, address string, timeout time.Duration) (net.Conn, error) {
	d := &net.Dialer{Timeout: min(timeout, connectWithin)}
	var c net.Conn
	var err error
	if z.source.TLS != nil {
		c, err = tls.DialWithDialer(d, network, address, z.source.TLS)
	} else {
		c, err = d.Dial(network, address)
	}
	z.mu.Lock()
	defer z.mu.Unlock()
	if err != nil {
		z.dialErr = fmt.Errorf("%s cannot be reached: %w", address, err)
		if z.failed++; z.failed == len(z.source.Endpoints) {
			close(z.hopeless)
		}
	}
	return c, err
}

func (z *zookeeper) close() {
	if z.conn != nil {
		z.conn.Close()
	}
}

// until makes what the client does end with ctx. The session was for this reading only.
func (z *zookeeper) until(ctx context.Context, do func() error) error {
	if err := z.connect(ctx); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, z.conn.Close)
	defer stop()
	err := do()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if errors.Is(err, zk.ErrNoAuth) {
		return errors.New("it refuses: a node may not be read; give --from-opt kv.user=… and kv.passwordfile=…")
	}
	return err
}

func (z *zookeeper) tree(ctx context.Context, dir string) (Tree, error) {
	t := Tree{}
	err := z.until(ctx, func() error {
		if _, err := z.conn.Sync("/"); err != nil { // a follower may lag
			return err
		}
		size := 0
		return z.walk(t, clean(dir), "", &size, 0)
	})
	return t, err
}

func (z *zookeeper) walk(t Tree, dir, rel string, size *int, depth int) error {
	node := "/" + join(dir, rel)
	kids, _, err := z.conn.Children(node)
	if errors.Is(err, zk.ErrNoNode) {
		if rel == "" {
			return errNothing
		}
		return nil
	}
	if err != nil {
		return err
	}
	value, _, err := z.conn.Get(node)
	if err != nil && !errors.Is(err, zk.ErrNoNode) {
		return err
	}
	if *size += len(value); *size > maxBytes || depth > maxDepth {
		return fmt.Errorf("%s: it holds more than Docker ever wrote", node)
	}
	if err := t.put(rel, value); err != nil {
		return err
	}
	slices.Sort(kids)
	for _, k := range kids {
		if err := z.walk(t, dir, join(rel, k), size, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func (z *zookeeper) names(ctx context.Context, dir string) ([]string, error) {
	var out []string
	err := z.until(ctx, func() error {
		kids, _, err := z.conn.Children("/" + clean(dir))
		if errors.Is(err, zk.ErrNoNode) {
			return errNothing
		}
		for _, k := range kids {
			if dir != "" || k != "zookeeper" { // its own
				out = append(out, k)
			}
		}
		return err
	})
	slices.Sort(out)
	return out, err
}

type silent struct{}

func (silent) Printf(string, ...any) {}
