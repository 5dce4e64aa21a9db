package zk

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/go-zookeeper/zk"
)

// Times of a connection.
const (
	dialTimeout  = time.Second     // TCP and TLS
	loginTimeout = 2 * time.Second // session and authentication
	silence      = 4 * time.Second // for so long a server may say nothing
	stuckAfter   = 2 * time.Second // a call that waited for so long in vain ends the connection: another server may do better
)

// Sizes. Replies have no limit: a list of children grows with their number.
const (
	inFlight   = 1024    // calls at a time
	maxRequest = 1 << 20 // ZooKeeper's own limit
)

// link is one connection with one ZooKeeper session, used until it breaks and never again.
type link struct {
	conn     *zk.Conn
	wire     *wire
	events   <-chan zk.Event
	endpoint string
	acl      []zk.ACL // of nodes made through it
	secret   string   // that it was authenticated with
	memory   memory
	slots    chan struct{} // one is taken by each call that the library has not answered yet

	up, down         chan struct{}
	onceUp, onceDown sync.Once
	expired          bool // the session asked for is over; set before down is closed
}

// open connects to one server: it asks for a session of that timeout, or goes on with the given one.
func (s *Store) open(ctx context.Context, endpoint string, timeout time.Duration, resume sessionID) (*link, error) {
	raw, err := s.dial(ctx, endpoint)
	if err != nil {
		return nil, err
	}
	l := &link{wire: newWire(raw, resume), endpoint: endpoint, slots: make(chan struct{}, inFlight), up: make(chan struct{}), down: make(chan struct{})}
	l.conn, l.events, err = zk.Connect([]string{endpoint}, timeout, zk.WithHostProvider(&oneHost{endpoint: endpoint}), zk.WithDialer(l.hand()),
		zk.WithLogger(silent{}), zk.WithLogInfo(false), zk.WithMaxConnBufferSize(maxRequest), zk.WithEventCallback(l.event))
	if err != nil {
		return nil, errors.Join(err, raw.Close())
	}
	// Not all clients of a server that is frozen are to come again together.
	ctx, cancel := context.WithTimeout(ctx, loginTimeout*3/4+rand.N(loginTimeout/2))
	defer cancel()
	if err := l.login(ctx, s); err != nil {
		s.drop(l, false)
		return nil, err
	}
	return l, nil
}

// dial makes a TCP connection, and TLS on it.
func (s *Store) dial(ctx context.Context, endpoint string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	c, err := s.cfg.Dial(ctx, "tcp", endpoint)
	if err != nil || s.cfg.TLS == nil {
		return c, err
	}
	conf := s.cfg.TLS.Clone()
	if conf.ServerName == "" {
		if conf.ServerName, _, err = net.SplitHostPort(endpoint); err != nil {
			return nil, errors.Join(err, c.Close())
		}
	}
	t := tls.Client(c, conf)
	if err := t.HandshakeContext(ctx); err != nil {
		_ = c.Close() // the handshake's error says more
		return nil, err
	}
	return t, nil
}

// hand gives the library the connection, once.
func (l *link) hand() zk.Dialer {
	var once sync.Once
	return func(string, string, time.Duration) (c net.Conn, err error) {
		err = errCut
		once.Do(func() { c, err = l.wire, nil })
		return c, err
	}
}

// event is called by the library, which must not wait for it.
func (l *link) event(e zk.Event) {
	if e.Type != zk.EventSession {
		return
	}
	switch e.State {
	case zk.StateHasSession:
		l.onceUp.Do(func() { close(l.up) })
	case zk.StateExpired:
		l.onceDown.Do(func() { l.expired = true; close(l.down) })
	case zk.StateDisconnected:
		l.onceDown.Do(func() { close(l.down) })
	}
}

// login waits for the session, and says who we are.
func (l *link) login(ctx context.Context, s *Store) error {
	select {
	case <-l.up:
	case <-l.down:
		if l.expired {
			return zk.ErrSessionExpired
		}
		return s.turnedAway(ctx, l)
	case <-ctx.Done():
		return fmt.Errorf("%s accepts connections and does not answer; are TLS options missing or wrong?", l.endpoint)
	}
	l.acl = zk.WorldACL(zk.PermAll)
	if s.cfg.User == "" {
		return nil
	}
	secret, err := s.password()
	if err != nil {
		return err
	}
	l.secret, l.acl = secret, zk.DigestACL(zk.PermAll, s.cfg.User, secret)
	return l.do(ctx, func() error { return l.conn.AddAuth("digest", []byte(s.cfg.User+":"+secret)) })
}

var errSpeaksTLS = errors.New("the server speaks TLS, and no TLS option is given")

// turnedAway is why a server ended a connection before there was a session. One that speaks TLS does so without a word, as does one that is
// on its way down: a greeting tells which.
func (s *Store) turnedAway(ctx context.Context, l *link) error {
	err := l.wire.reason()
	if s.cfg.TLS != nil || !errors.Is(err, io.EOF) {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	c, derr := s.cfg.Dial(ctx, "tcp", l.endpoint)
	if derr != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	conf := &tls.Config{InsecureSkipVerify: true, VerifyConnection: func(tls.ConnectionState) error { return errSpeaksTLS }} // that ends it
	if terr := tls.Client(c, conf).HandshakeContext(ctx); errors.Is(terr, errSpeaksTLS) {
		return terr
	}
	return err
}

// alive returns when the connection is over, or when ctx ends. It ends the connection itself when the server is silent for too long: it asks
// after half of that time, if pings have not done so before.
func (l *link) alive(ctx context.Context, limit time.Duration) {
	limit -= rand.N(limit / 4) // the clients of a server that freezes are not to leave it together
	t := time.NewTicker(limit / 8)
	defer t.Stop()
	for {
		select {
		case <-l.down:
			return
		case <-ctx.Done():
			return
		case <-t.C:
		}
		if l.wire.quiet() < limit/2 {
			continue
		}
		call, cancel := context.WithTimeout(ctx, limit/2)
		_, err := l.stat(call, "/")
		cancel()
		if err != nil && l.wire.quiet() >= limit {
			l.fail()
		}
	}
}

// fail ends the connection without a word to the server: the session stays.
func (l *link) fail() {
	l.wire.cut.Store(true)
	_ = l.wire.Close()
}

// drop lets go of a connection in the background, whose end Close waits for. With farewell, the session ends with it.
func (s *Store) drop(l *link, farewell bool) {
	s.start(func() { l.end(farewell) }, func() { l.end(farewell) })
}

func (l *link) end(farewell bool) {
	if !farewell {
		l.wire.cut.Store(true)
	}
	l.conn.Close() // waits for a second at most
	_ = l.wire.Close()
	for range l.events { // until the library's loop has ended
	}
	for range cap(l.slots) { // until all calls have returned; there are no new ones
		l.slots <- struct{}{}
	}
}

// oneHost is the list of servers that the library goes through: after the first try it is to wait, and will be closed.
type oneHost struct {
	endpoint string
	mu       sync.Mutex
	tried    bool
}

func (*oneHost) Init([]string) error { return nil }
func (*oneHost) Len() int            { return 1 }
func (*oneHost) Connected()          {}
func (h *oneHost) Next() (string, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	again := h.tried
	h.tried = true
	return h.endpoint, again
}

// silent is the library's log: what it has to say comes as errors, too.
type silent struct{}

func (silent) Printf(string, ...any) {}

func (l *link) attr() slog.Attr { return slog.String("endpoint", l.endpoint) }
