package consul

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/consul/api"

	"weft/store"
)

// Times and sizes of connections.
const (
	dialTimeout = time.Second     // to connect, and again for TLS
	tryTimeout  = 2 * time.Second // until the first byte of an answer to a read, where another endpoint can be asked
	slow        = tryTimeout / 4  // a call that ends without an answer after this speaks against its endpoint
	idleConns   = 30 * time.Second
	maxCalls    = 48                    // at a time, beside the feeds: several clients may share the 200 connections that an agent takes from one address
	maxConns    = maxCalls + shards + 3 // with those of meta and alive, and the probe's
	maxReason   = 512                   // bytes of an answer that is none
)

// keepAlive finds out that the other end has given up a connection on which an answer is awaited: after a cut so short that the probe did not see
// it, nothing else does.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 2 * time.Second, Interval: time.Second, Count: 3}

// link carries every request: it chooses the endpoint, adds the token, bounds how many run, and tells whether a request was sent.
type link struct {
	scheme    string
	endpoints []string
	base      *http.Transport
	calls     chan struct{} // a place for each call
	probeKey  string
	current   atomic.Int32 // index of the endpoint that answered last

	token  func() (string, error)
	mu     sync.Mutex // guards what follows
	secret string
	asked  bool
	now    context.Context // the era
	end    context.CancelFunc
	down   bool // the probe gets no answer
	errors bool // others have got errors
}

func newLink(cfg Config, probeKey string) *link {
	l := &link{
		scheme: "http", endpoints: cfg.Endpoints, calls: make(chan struct{}, maxCalls), probeKey: probeKey, token: cfg.Token,
	}
	l.now, l.end = context.WithCancel(context.Background())
	dial := cfg.Dial
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	l.base = &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, dialTimeout)
			defer cancel()
			conn, err := dial(ctx, network, address)
			if c, ok := conn.(*net.TCPConn); ok && err == nil {
				_ = c.SetKeepAliveConfig(keepAlive) // fails on a connection that has failed, and then so does its use
			}
			return conn, err
		},
		MaxIdleConnsPerHost: maxConns, MaxConnsPerHost: maxConns, IdleConnTimeout: idleConns, TLSHandshakeTimeout: dialTimeout, DisableCompression: true,
	}
	if cfg.TLS != nil {
		l.scheme, l.base.TLSClientConfig = "https", cfg.TLS.Clone()
	}
	return l
}

// client is Consul's, with the link below. What it would take from the environment (addresses, tokens) is given, so that it takes nothing.
func (l *link) client() (*api.Client, error) {
	return api.NewClient(&api.Config{Scheme: l.scheme, Address: l.endpoints[0], Token: "the link's", HttpClient: &http.Client{Transport: l}})
}

func (l *link) close() {
	l.mu.Lock()
	l.end()
	l.mu.Unlock()
	l.base.CloseIdleConnections()
}

// kind of a request, in its context: what may be tried again after which failure.
type kind int

const (
	write kind = iota // once it was sent, never
	read              // with another endpoint, any time
	wait              // a read for which the server takes its time, outside the places for calls
)

type kindKey struct{}

func withKind(ctx context.Context, k kind) context.Context {
	return context.WithValue(ctx, kindKey{}, k)
}

// RoundTrip sends a request to the endpoint that answered last, and where that fails and nothing is lost by it, to the others.
func (l *link) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	k, _ := ctx.Value(kindKey{}).(kind)
	if k != wait {
		select {
		case l.calls <- struct{}{}:
			defer func() { <-l.calls }()
		case <-ctx.Done():
			return nil, &notSentError{ctx.Err()}
		}
	}
	first, began := l.current.Load(), time.Now()
	var err error
	for i := range l.endpoints {
		at := (int(first) + i) % len(l.endpoints)
		var resp *http.Response
		if resp, err = l.try(req, k, l.endpoints[at]); err == nil {
			if i > 0 {
				l.current.CompareAndSwap(first, int32(at))
			}
			return resp, nil
		}
		if ctx.Err() != nil || !again(k, err) {
			break
		}
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) && time.Since(began) > slow {
		l.current.CompareAndSwap(first, (first+1)%int32(len(l.endpoints))) // the next call finds another
	}
	return nil, err
}

// again tells whether a request that failed may go to another endpoint.
func again(k kind, err error) bool {
	var notSent *notSentError
	var st *statusError
	switch {
	case errors.As(err, &notSent), turnedAway(err):
		return true
	case errors.As(err, &st):
		return k != write && st.code/100 == 5
	}
	return k != write
}

// try sends a request to one endpoint. What its answer says of failure becomes an error: Consul's client drops the code of some.
func (l *link) try(req *http.Request, k kind, endpoint string) (*http.Response, error) {
	secret, err := l.credentials()
	if err != nil {
		return nil, &notSentError{err}
	}
	var sent atomic.Bool
	ctx, cancel := context.WithCancel(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { sent.Store(true) },
	}))
	if k == read && len(l.endpoints) > 1 {
		defer time.AfterFunc(tryTimeout, cancel).Stop()
	}
	r := req.Clone(ctx)
	r.URL.Host, r.Host = endpoint, endpoint
	if req.GetBody != nil {
		if r.Body, err = req.GetBody(); err != nil {
			cancel()
			return nil, &notSentError{err}
		}
	}
	r.Header.Del("X-Consul-Token")
	if secret != "" {
		r.Header.Set("X-Consul-Token", secret)
	}
	resp, err := l.base.RoundTrip(r)
	if err == nil {
		resp.Body = &body{resp.Body, cancel}
		err = failure(resp)
	} else {
		if ctx.Err() != nil && req.Context().Err() == nil {
			err = context.DeadlineExceeded // the caller has cancelled nothing
		}
		cancel()
	}
	if err != nil && !sent.Load() {
		err = &notSentError{err}
	}
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// body ends its request's context when it is closed.
type body struct {
	io.ReadCloser
	end context.CancelFunc
}

func (b *body) Close() error {
	defer b.end()
	return b.ReadCloser.Close()
}

// failure returns the error that an answer is, having read it, or nil.
func failure(resp *http.Response) error {
	switch resp.StatusCode {
	case http.StatusOK, http.StatusNotFound, http.StatusConflict:
		return nil
	}
	text, _ := io.ReadAll(io.LimitReader(resp.Body, maxReason)) // half a reason is one, too
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20))
	_ = resp.Body.Close()
	return &statusError{resp.StatusCode, string(bytes.TrimSpace(text))}
}

// credentials returns the token, asking for it at first.
func (l *link) credentials() (string, error) {
	if l.token == nil {
		return "", nil
	}
	l.mu.Lock()
	asked, secret := l.asked, l.secret
	l.mu.Unlock()
	if asked {
		return secret, nil
	}
	_, err := l.renewed("")
	if err != nil {
		return "", err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.secret, nil
}

// renewed asks for the token again and tells whether it is another one than that which was refused.
func (l *link) renewed(refused string) (bool, error) {
	secret, err := l.token()
	if err != nil {
		return false, fmt.Errorf("%w: get the token: %w", store.ErrRefused, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.secret, l.asked = secret, true
	return secret != refused, nil
}

// withToken runs a call, and once more if it was refused and there is another token by now.
func (s *Store) withToken(call func() error) error {
	if s.ctx.Err() != nil {
		return &notSentError{store.ErrClosed}
	}
	l := s.link
	used, err := l.credentials()
	if err != nil {
		return &notSentError{err}
	}
	err = call()
	if l.token == nil || !tokenRefused(err) {
		return err
	}
	if other, terr := l.renewed(used); terr != nil || !other {
		return err
	}
	return call()
}

// tokenRefused tells the refusals that another token may turn.
func tokenRefused(err error) bool {
	var no *deniedError
	var st *statusError
	return errors.As(err, &no) || errors.As(err, &st) && st.code == http.StatusForbidden
}
