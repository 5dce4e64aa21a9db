package peer

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	weftv1 "weft/proto/weft/v1"
	"weft/store/record"
)

// ClientConfig is what Clients need of the agent.
type ClientConfig struct {
	Identity Identity
	Greet    func() Greeting  // what this agent says of itself
	Now      func() time.Time // for the time that an answer takes
}

// Clients asks the agents of other hosts, each over one connection that is made when it is first needed. It is a Peers.
type Clients struct {
	cfg ClientConfig

	mu      sync.Mutex // guards what follows
	links   map[record.HostID]*link
	foreign map[record.HostID]*ForeignVersion // as they said last
}

// NewClients returns Clients; Close ends them.
func NewClients(cfg ClientConfig) *Clients {
	return &Clients{cfg: cfg, links: map[record.HostID]*link{}, foreign: map[record.HostID]*ForeignVersion{}}
}

// Keep lets go of the connections to hosts of which host knows no more, or at another address.
func (c *Clients) Keep(host func(record.HostID) (*record.Host, bool)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, l := range c.links {
		if h, ok := host(id); !ok || h.Advertise != l.addr {
			l.close()
			delete(c.links, id)
		}
	}
	for id := range c.foreign {
		if _, ok := host(id); !ok {
			delete(c.foreign, id)
		}
	}
}

// Close ends all connections.
func (c *Clients) Close() { c.Keep(func(record.HostID) (*record.Host, bool) { return nil, false }) }

// Foreign tells whether a host's agent, when it was asked last, had no version of the contract in common with this one.
func (c *Clients) Foreign(id record.HostID) (*ForeignVersion, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f, ok := c.foreign[id]
	return f, ok
}

// Conn returns the connection to a host, for calls that are passed on to it. It is up, and the other end is that host.
func (c *Clients) Conn(ctx context.Context, h *record.Host) (grpc.ClientConnInterface, error) {
	ctx, cancel := context.WithTimeout(ctx, callBound)
	defer cancel()
	l, err := c.reach(ctx, h)
	if err != nil {
		return nil, err
	}
	return l.cc, nil
}

// Certificate is what a host shows to others now, on a connection for that alone: those that there are may be older than it.
func (c *Clients) Certificate(ctx context.Context, h *record.Host) (*x509.Certificate, error) {
	ctx, cancel := context.WithTimeout(ctx, callBound)
	defer cancel()
	t, err := secure(ctx, h, c.cfg.Identity)
	if err != nil {
		return nil, err
	}
	return t.ConnectionState().PeerCertificates[0], t.Close()
}

// reach returns a link that is up, over which both have said who they are.
func (c *Clients) reach(ctx context.Context, h *record.Host) (*link, error) {
	l, err := c.link(h)
	if err != nil {
		return nil, err
	}
	if err := l.reach(ctx); err != nil {
		if l.over.Err() != nil || errors.Is(err, ErrSilent) {
			c.drop(l)
		}
		return nil, err
	}
	if l.met() != nil {
		return l, nil
	}
	_, err = c.greet(ctx, l)
	if errors.Is(err, ErrOld) && !errors.As(err, new(*ForeignVersion)) { // it has no Hello, and its certificate says who it is
		l.meet(Greeting{Host: l.host, Contract: oldest})
		err = nil
	}
	return l, err
}

func (c *Clients) link(h *record.Host) (*link, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.links[h.ID]
	if l != nil && l.addr == h.Advertise && l.over.Err() == nil {
		return l, nil
	}
	if l != nil {
		l.close()
		delete(c.links, h.ID)
	}
	l, err := newLink(h, c.cfg.Identity)
	if err != nil {
		return nil, err
	}
	c.links[h.ID] = l
	return l, nil
}

func (c *Clients) drop(l *link) {
	c.mu.Lock()
	if c.links[l.host] == l {
		delete(c.links, l.host)
	}
	c.mu.Unlock()
	l.close()
}

// greet says hello over a link that is up.
func (c *Clients) greet(ctx context.Context, l *link) (Greeting, error) {
	began := c.cfg.Now()
	r, err := weftv1.NewPeersClient(l.cc).Hello(ctx, helloOf(c.cfg.Greet()))
	if err != nil {
		return Greeting{}, l.explain(ctx, err)
	}
	g := Greeting{
		Host: record.HostID(r.HostId), Cluster: r.ClusterId, Incarnation: r.Incarnation, Instance: r.Instance, Version: r.Version,
		Features: r.Features, StoreUp: r.StoreReachable, RTT: c.cfg.Now().Sub(began),
	}
	if g.Host != l.host {
		return Greeting{}, fmt.Errorf("%w: it calls itself %s", ErrStranger, record.ShortID(g.Host))
	}
	g.Contract, err = common(g.Host, g.Version, r.Min, r.Max)
	var foreign *ForeignVersion
	errors.As(err, &foreign)
	c.mu.Lock()
	if foreign != nil {
		c.foreign[l.host] = foreign
	} else {
		delete(c.foreign, l.host)
	}
	c.mu.Unlock()
	if err != nil {
		return g, err
	}
	l.meet(g)
	return g, nil
}

// explain gives the errors of gRPC the names that callers know.
func (l *link) explain(ctx context.Context, err error) error {
	switch status.Code(err) {
	case codes.Unimplemented:
		return fmt.Errorf("%w: %s", ErrOld, status.Convert(err).Message())
	case codes.Unavailable, codes.DeadlineExceeded:
		if why := context.Cause(l.over); why != nil {
			return why
		}
		return fmt.Errorf("%w: %s", ErrSilent, status.Convert(err).Message())
	case codes.Canceled:
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("%w: the connection was given up", ErrSilent)
	}
	return err
}

// ask puts a question to a host. One that found a connection which had just ended is put once more over the next: all questions may be.
func ask[Q, R any](ctx context.Context, c *Clients, h *record.Host, call func(weftv1.PeersClient, context.Context, Q, ...grpc.CallOption) (R, error), q Q) (R, error) {
	var zero R
	ctx, cancel := context.WithTimeout(ctx, callBound)
	defer cancel()
	for again := true; ; again = false {
		l, err := c.reach(ctx, h)
		if err != nil {
			return zero, err
		}
		r, err := call(weftv1.NewPeersClient(l.cc), ctx, q)
		if err == nil {
			return r, nil
		}
		if status.Code(err) == codes.Unavailable && again && ctx.Err() == nil {
			continue
		}
		return zero, l.explain(ctx, err)
	}
}
