package peer_test

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"

	"weft/agent/peer"
	"weft/identity"
	"weft/store/record"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// cluster is an authority, and the hosts that are members as far as every agent knows.
type cluster struct {
	t         *testing.T
	authority *identity.Authority

	mu      sync.Mutex // guards what follows
	members map[record.HostID]bool
	refused []string // reasons, of all hosts
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	a, err := identity.CreateAuthority(t.TempDir(), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	return &cluster{t: t, authority: a, members: map[record.HostID]bool{}}
}

// person is a host with what it shows to others.
type person struct {
	c  *cluster
	id record.HostID
	*identity.Keeper
}

// join makes a member with a certificate.
func (c *cluster) join(id record.HostID) *person {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.members[id] = true
	return c.certified(id, c.authority, time.Now, identity.Lifetime)
}

// certified makes a host whose certificate is signed by a, at a time, for a while.
func (c *cluster) certified(id record.HostID, a *identity.Authority, now func() time.Time, lifetime time.Duration) *person {
	c.t.Helper()
	k, err := identity.Open(c.t.TempDir(), now, slog.New(slog.DiscardHandler))
	if err != nil {
		c.t.Fatal(err)
	}
	csr, err := k.Request(string(id))
	if err != nil {
		c.t.Fatal(err)
	}
	cert, err := a.Issue(csr, string(id), lifetime)
	if err != nil {
		c.t.Fatal(err)
	}
	if err := k.Store(string(id), cert, a.Certificate()); err != nil {
		c.t.Fatal(err)
	}
	return &person{c: c, id: id, Keeper: k}
}

func (c *cluster) remove(id record.HostID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.members, id)
}

func (c *cluster) member(_ context.Context, n identity.Named, _ string) (record.HostID, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.members[record.HostID(n.ID)] {
		return "", fmt.Errorf("%s is not in the cluster", n)
	}
	return record.HostID(n.ID), nil
}

func (c *cluster) tell(_ record.HostID, _ net.Addr, why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refused = append(c.refused, why.Error())
}

func (c *cluster) reasons() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.refused)
}

// listen opens a port, or the same one again.
func listen(t *testing.T, address string) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// serve answers as p does until the test, or what is returned, ends it.
func (p *person) serve(l net.Listener, b peer.Backend, change ...func(*peer.ServerConfig)) (h *record.Host, stop func()) {
	p.c.t.Helper()
	cfg := peer.ServerConfig{Log: slog.New(slog.DiscardHandler), Identity: p.Keeper, Backend: b, Member: p.c.member, Refused: p.c.tell}
	for _, f := range change {
		f(&cfg)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- peer.Serve(ctx, l, cfg) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			p.c.t.Error(err)
		}
	})
	p.c.t.Cleanup(stop)
	return &record.Host{ID: p.id, Name: "host-" + string(p.id), Advertise: l.Addr().String()}, stop
}

// clients asks as p does.
func (p *person) clients() *peer.Clients {
	c := peer.NewClients(peer.ClientConfig{
		Identity: p.Keeper, Now: time.Now, Greet: func() peer.Greeting { return peer.Greeting{Host: p.id, Version: "test"} },
	})
	p.c.t.Cleanup(c.Close)
	return c
}

// other is a server that is none of ours: one of another version, which registers what it has.
func (p *person) other(register func(*grpc.Server)) *record.Host {
	p.c.t.Helper()
	l := listen(p.c.t, "127.0.0.1:0")
	s := grpc.NewServer(grpc.Creds(tlsOf(p)))
	register(s)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	p.c.t.Cleanup(func() {
		s.Stop()
		if err := <-done; err != nil {
			p.c.t.Error(err)
		}
	})
	return &record.Host{ID: p.id, Name: "host-" + string(p.id), Advertise: l.Addr().String()}
}

// agent is a backend that notes who asked, and answers what the test has put into it.
type agent struct {
	id    record.HostID
	owns  map[record.EndpointID]bool
	found []peer.Found
	err   error
	block chan struct{} // Drop waits for it; nil: it does not

	mu   sync.Mutex // guards from
	from map[string]record.HostID
}

func (a *agent) note(call string, from record.HostID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.from == nil {
		a.from = map[string]record.HostID{}
	}
	a.from[call] = from
}

func (a *agent) asked() map[string]record.HostID {
	a.mu.Lock()
	defer a.mu.Unlock()
	return maps.Clone(a.from)
}

func (a *agent) Greet(from record.HostID) peer.Greeting {
	a.note("hello", from)
	return peer.Greeting{Host: a.id, Cluster: "c", Incarnation: 7, Instance: "i", Version: "v", Features: []string{"f"}, StoreUp: true}
}

func (a *agent) Judge(_ context.Context, from record.HostID, about []record.HostID) (map[record.HostID]peer.Opinion, error) {
	a.note("judge", from)
	return map[record.HostID]peer.Opinion{about[0]: {Agent: true, Tunnel: true, Age: time.Second}}, a.err
}

func (a *agent) Owns(from record.HostID, of []record.EndpointID) (map[record.EndpointID]bool, bool) {
	a.note("owns", from)
	return a.owns, len(of) == 1
}

func (a *agent) Drop(ctx context.Context, from record.HostID, _ record.NetworkID, ep record.EndpointID, live bool, _ string) (bool, error) {
	a.note("drop", from)
	if a.block != nil {
		select {
		case <-a.block:
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
	return live && a.owns[ep], a.err
}

func (a *agent) FindSandbox(from record.HostID, _ string) []peer.Found {
	a.note("find", from)
	return a.found
}

func (a *agent) Renew(_ context.Context, from record.HostID, csr []byte) (certificate, authority []byte, err error) {
	a.note("renew", from)
	return append([]byte("for "), csr...), []byte("authority"), a.err
}
