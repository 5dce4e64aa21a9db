package peer_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"

	"weft/agent/peer"
	"weft/identity"
	weftv1 "weft/proto/weft/v1"
	"weft/store/record"
)

func tlsOf(p *person) credentials.TransportCredentials {
	conf := p.ServerTLS()
	conf.NextProtos = []string{"h2"}
	return credentials.NewTLS(conf)
}

func TestOneAgentAsksAnother(t *testing.T) {
	t.Parallel()
	// Given two hosts of a cluster, of which b has the endpoint e1
	c := newCluster(t)
	a, b := c.join("a"), c.join("b")
	backend := &agent{id: "b", owns: map[record.EndpointID]bool{"e1": true}, found: []peer.Found{{ID: "5b1", Name: "web", Exact: true}}}
	h, _ := b.serve(listen(t, "127.0.0.1:0"), backend)
	asks := a.clients()

	// Then each question comes to b with a's name, and its answer comes back
	g, err := asks.Hello(t.Context(), h)
	if g.RTT <= 0 || err != nil {
		t.Errorf("hello took %s: %v", g.RTT, err)
	}
	g.RTT = 0
	want := peer.Greeting{Host: "b", Cluster: "c", Incarnation: 7, Instance: "i", Version: "v", Contract: 1, Features: []string{"f"}, StoreUp: true}
	if d := cmp.Diff(want, g); d != "" {
		t.Error(d)
	}
	opinions, err := asks.Judge(t.Context(), h, []record.HostID{"x", "y"})
	if d := cmp.Diff(map[record.HostID]peer.Opinion{"x": {Agent: true, Tunnel: true, Age: time.Second}, "y": {Unknown: true}}, opinions); d != "" || err != nil {
		t.Error(d, err)
	}
	has, unsure, err := asks.Owns(t.Context(), h, []record.EndpointID{"e1", "e2"})
	if d := cmp.Diff(map[record.EndpointID]bool{"e1": true}, has); d != "" || unsure || err != nil {
		t.Error(d, unsure, err)
	}
	if dropped, err := asks.Drop(t.Context(), h, "n", "e1", true, "a test"); !dropped || err != nil {
		t.Error(dropped, err)
	}
	found, err := asks.FindSandbox(t.Context(), h, "web")
	if d := cmp.Diff(backend.found, found); d != "" || err != nil {
		t.Error(d, err)
	}
	cert, authority, err := asks.Renew(t.Context(), h, []byte("csr"))
	if string(cert) != "for csr" || string(authority) != "authority" || err != nil {
		t.Error(string(cert), string(authority), err)
	}
	from := map[string]record.HostID{"hello": "a", "judge": "a", "owns": "a", "drop": "a", "find": "a", "renew": "a"}
	if d := cmp.Diff(from, backend.asked()); d != "" {
		t.Error(d)
	}

	// And a refusal of the other agent is none of the errors by which it would count as gone
	backend.err = status.Error(codes.FailedPrecondition, "it runs")
	if _, err := asks.Drop(t.Context(), h, "n", "e1", false, "a test"); err == nil || errors.Is(err, peer.ErrSilent) || errors.Is(err, peer.ErrStranger) || !strings.Contains(err.Error(), "it runs") {
		t.Error(err)
	}
	if n := len(c.reasons()); n > 0 {
		t.Errorf("somebody was refused: %v", c.reasons())
	}
}

func TestMoreEndpointsThanOneQuestionTakes(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	a, b := c.join("a"), c.join("b")
	backend := &agent{id: "b", owns: map[record.EndpointID]bool{}}
	var of []record.EndpointID
	for i := range 2001 {
		of = append(of, record.EndpointID(fmt.Sprint("e", i)))
		backend.owns[of[i]] = i%2 == 0
	}
	h, _ := b.serve(listen(t, "127.0.0.1:0"), backend)
	has, unsure, err := a.clients().Owns(t.Context(), h, of)
	if len(has) != 1001 || !unsure || err != nil { // the last question is about one endpoint, of which the backend is not sure
		t.Errorf("%d, unsure %v, %v", len(has), unsure, err)
	}
}

// A host that is no member of the cluster is not let in, nor taken for one that is; the other side hears why.
func TestStrangers(t *testing.T) {
	t.Parallel()
	longAgo := func() time.Time { return time.Now().Add(-48 * time.Hour) }
	for name, tc := range map[string]struct {
		client, server func(*cluster) *person // nil: as they should be
		is             error
		code           codes.Code
		refused        string // at the server; "": nothing
	}{
		"the client is of another authority": {client: foreign("a"), is: peer.ErrStranger},
		"the server is of another authority": {server: foreign("b"), is: peer.ErrStranger},
		"the client's certificate has expired": {
			client: func(c *cluster) *person { return expired(c, "a", longAgo) }, is: peer.ErrStranger, refused: "expired"},
		"the server's certificate has expired": {
			server: func(c *cluster) *person { return expired(c, "b", longAgo) }, is: peer.ErrStranger},
		"another host is at the address": {server: func(c *cluster) *person { return c.join("d") }, is: peer.ErrStranger},
		"the client was removed from the cluster": {
			client: func(c *cluster) *person { p := c.join("a"); c.remove("a"); return p }, code: codes.PermissionDenied, refused: "not in the cluster"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t)
			make := func(id record.HostID, f func(*cluster) *person) *person {
				if f != nil {
					return f(c)
				}
				return c.join(id)
			}
			a, b := make("a", tc.client), make("b", tc.server)
			backend := &agent{id: "b"}
			h, _ := b.serve(listen(t, "127.0.0.1:0"), backend)
			h.ID = "b"
			asks := a.clients()
			for range 2 { // the second time as well
				_, err := asks.FindSandbox(t.Context(), h, "web")
				if tc.is != nil && !errors.Is(err, tc.is) || tc.code != 0 && status.Code(err) != tc.code || err == nil {
					t.Errorf("got %v", err)
				}
			}
			if asked := backend.asked(); len(asked) > 0 {
				t.Errorf("the agent was asked %v", asked)
			}
			if tc.refused != "" && !strings.Contains(strings.Join(c.reasons(), "; "), tc.refused) {
				t.Errorf("the reasons are %q", c.reasons())
			}
		})
	}
}

// foreign is a host of a cluster that has the same names.
func foreign(id record.HostID) func(*cluster) *person {
	return func(c *cluster) *person {
		c.join(id)
		return newCluster(c.t).join(id)
	}
}

// expired is a host whose certificate was good for an hour, two days ago; the authority was there then.
func expired(c *cluster, id record.HostID, then func() time.Time) *person {
	a, err := identity.CreateAuthority(c.t.TempDir(), then)
	if err != nil {
		c.t.Fatal(err)
	}
	c.authority = a
	c.join(id)
	return c.certified(id, a, then, time.Hour)
}

func TestACallWithoutACertificateIsForEnrolmentOnly(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	b := c.join("b")
	h, _ := b.serve(listen(t, "127.0.0.1:0"), &agent{id: "b"}, func(cfg *peer.ServerConfig) { cfg.Enrolment = enrols{} })
	conn, err := grpc.NewClient("passthrough:///"+h.Advertise, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if r, err := weftv1.NewEnrolmentClient(conn).Join(t.Context(), &weftv1.JoinRequest{HostId: "z"}); err != nil || r.ClusterId != "for z" {
		t.Errorf("enrolment: %v, %v", r, err)
	}
	if _, err := weftv1.NewPeersClient(conn).Hello(t.Context(), &weftv1.HelloRequest{}); status.Code(err) != codes.Unauthenticated {
		t.Errorf("hello: %v", err)
	}
	if len(c.reasons()) == 0 {
		t.Error("nobody hears of it")
	}
}

type enrols struct {
	weftv1.UnimplementedEnrolmentServer
}

func (enrols) Join(_ context.Context, r *weftv1.JoinRequest) (*weftv1.JoinResponse, error) {
	return &weftv1.JoinResponse{ClusterId: "for " + r.HostId}, nil
}

// What does not answer is found out within the bound of a call, and at once where the machine says so.
func TestWhoDoesNotAnswer(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		at     func(*testing.T) string
		within time.Duration
	}{
		"nobody listens":             {refusing, 200 * time.Millisecond},
		"it accepts and is silent":   {silent, 2500 * time.Millisecond},
		"packets to it are lost":     {blackHole, 2500 * time.Millisecond},
		"it speaks another protocol": {chatty, 500 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newCluster(t).join("a")
			asks := a.clients()
			h := &record.Host{ID: "b", Advertise: tc.at(t)}
			for range 2 {
				began := time.Now()
				_, err := asks.Hello(t.Context(), h)
				if took := time.Since(began); took > tc.within || !errors.Is(err, peer.ErrSilent) && !errors.Is(err, peer.ErrStranger) {
					t.Errorf("after %s: %v", took, err)
				}
			}
		})
	}
}

func refusing(t *testing.T) string {
	l := listen(t, "127.0.0.1:0")
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// silent accepts connections and keeps them.
func silent(t *testing.T) string {
	return accepting(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
}

func chatty(t *testing.T) string {
	return accepting(t, func(c net.Conn) { _, _ = io.WriteString(c, "SSH-2.0-OpenSSH_9.2\r\n") })
}

func accepting(t *testing.T, serve func(net.Conn)) string {
	l := listen(t, "127.0.0.1:0")
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer func() { _ = c.Close() }()
				serve(c)
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	return l.Addr().String()
}

// blackHole is a port whose queue is full: the kernel drops what begins a connection.
func blackHole(t *testing.T) string {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	at, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", at.(*unix.SockaddrInet4).Port)
	for range 4 {
		c, err := net.DialTimeout("tcp", address, 100*time.Millisecond)
		if err != nil {
			return address
		}
		t.Cleanup(func() { _ = c.Close() })
	}
	t.Fatal("the port takes every connection")
	return ""
}

// A cancelled question ends at once, with the caller's reason.
func TestACallerWhoGoesAwayWaitsForNothing(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	a, b := c.join("a"), c.join("b")
	backend := &agent{id: "b", block: make(chan struct{})}
	h, _ := b.serve(listen(t, "127.0.0.1:0"), backend)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err := a.clients().Drop(ctx, h, "n", "e", true, "")
	if took := time.Since(began); err == nil || took > time.Second {
		t.Errorf("after %s: %v", took, err)
	}
}

// An agent that hangs in a call is given up within the bound.
func TestACallHasABound(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	a, b := c.join("a"), c.join("b")
	h, _ := b.serve(listen(t, "127.0.0.1:0"), &agent{id: "b", block: make(chan struct{})})
	began := time.Now()
	_, err := a.clients().Drop(t.Context(), h, "n", "e", true, "")
	if took := time.Since(began); !errors.Is(err, peer.ErrSilent) || took > 2500*time.Millisecond {
		t.Errorf("after %s: %v", took, err)
	}
}

func TestAnAgentThatWasRestartedAnswersAtOnce(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	a, b := c.join("a"), c.join("b")
	h, stop := b.serve(listen(t, "127.0.0.1:0"), &agent{id: "b"})
	asks := a.clients()
	if _, err := asks.FindSandbox(t.Context(), h, "web"); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		// When it is down, this is known at once
		stop()
		began := time.Now()
		if _, err := asks.FindSandbox(t.Context(), h, "web"); !errors.Is(err, peer.ErrSilent) || time.Since(began) > 200*time.Millisecond {
			t.Fatalf("after %s: %v", time.Since(began), err)
		}
		// When it is back, the very next question is answered
		_, stop = b.serve(listen(t, h.Advertise), &agent{id: "b"})
		if _, err := asks.FindSandbox(t.Context(), h, "web"); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAConnectionGoesWithTheHostsRecord(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	a, b := c.join("a"), c.join("b")
	old, moved := &agent{id: "b"}, &agent{id: "b"}
	h, _ := b.serve(listen(t, "127.0.0.1:0"), old)
	asks := a.clients()
	hello := func(h *record.Host) error { _, err := asks.FindSandbox(t.Context(), h, "web"); return err }
	if err := hello(h); err != nil {
		t.Fatal(err)
	}
	// When the host is at another address, that is asked
	there, _ := b.serve(listen(t, "127.0.0.1:0"), moved)
	asks.Keep(func(record.HostID) (*record.Host, bool) { return there, true })
	if err := hello(there); err != nil || moved.asked()["find"] != "a" {
		t.Errorf("%v, %v", err, moved.asked())
	}
	// When it was removed, the connection ends; goleak would find it
	asks.Keep(func(record.HostID) (*record.Host, bool) { return nil, false })
	if err := hello(there); err != nil {
		t.Errorf("whoever has its record may ask it all the same: %v", err)
	}
}

// half is an agent of the contract's first version that has only some of the calls.
var half = grpc.ServiceDesc{
	ServiceName: weftv1.Peers_ServiceDesc.ServiceName, HandlerType: (*any)(nil),
	Methods: methods("Owns"),
}

func methods(names ...string) []grpc.MethodDesc {
	var out []grpc.MethodDesc
	for _, m := range weftv1.Peers_ServiceDesc.Methods {
		for _, n := range names {
			if m.MethodName == n {
				out = append(out, m)
			}
		}
	}
	return out
}

func TestAnOlderAgentAnswersWhatItKnows(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	a, b := c.join("a"), c.join("b")
	h := b.other(func(s *grpc.Server) { s.RegisterService(&half, owner{}) })
	asks := a.clients()
	if has, _, err := asks.Owns(t.Context(), h, []record.EndpointID{"e1"}); err != nil || !has["e1"] {
		t.Errorf("%v, %v", has, err)
	}
	if _, err := asks.Judge(t.Context(), h, []record.HostID{"x"}); !errors.Is(err, peer.ErrOld) {
		t.Error(err)
	}
	if _, err := asks.Hello(t.Context(), h); !errors.Is(err, peer.ErrOld) {
		t.Error(err)
	}
	if f, ok := asks.Foreign("b"); ok {
		t.Errorf("it counts as foreign: %v", f)
	}
}

type owner struct {
	weftv1.UnimplementedPeersServer
}

func (owner) Owns(_ context.Context, q *weftv1.OwnsRequest) (*weftv1.OwnsResponse, error) {
	r := &weftv1.OwnsResponse{EndpointIds: q.EndpointIds}
	r.ProtoReflect().SetUnknown(protowire.AppendString(protowire.AppendTag(nil, 99, protowire.BytesType), "of a later version"))
	return r, nil
}

// later is an agent of a later version, which may or may not still speak ours.
type later struct {
	owner
	min, max uint32
}

func (l later) Hello(context.Context, *weftv1.HelloRequest) (*weftv1.HelloResponse, error) {
	r := &weftv1.HelloResponse{HostId: "b", Version: "9.0", Min: l.min, Max: l.max, Features: []string{"flying"}}
	r.ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 100, protowire.VarintType), 5))
	return r, nil
}

func TestALaterAgent(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		min, max uint32
		foreign  string // what is said of it; "": it is understood
	}{
		"still speaks this version": {1, 3, ""},
		"says nothing of versions":  {0, 0, ""},
		"speaks it no more":         {2, 3, "weftd 9.0 speaks versions 2 to 3 of the contract between agents, and this one 1: they cannot ask each other; upgrade this host"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t)
			a, b := c.join("a"), c.join("b")
			h := b.other(func(s *grpc.Server) { weftv1.RegisterPeersServer(s, later{min: tc.min, max: tc.max}) })
			asks := a.clients()
			_, _, err := asks.Owns(t.Context(), h, []record.EndpointID{"e1"})
			f, isForeign := asks.Foreign("b")
			if tc.foreign == "" {
				if err != nil || isForeign {
					t.Errorf("%v, %v", err, f)
				}
				return
			}
			if !errors.Is(err, peer.ErrOld) || !isForeign || f.Error() != tc.foreign {
				t.Errorf("%v, %v", err, f)
			}
		})
	}
}

func TestBoundsOfTheServer(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	a, b := c.join("a"), c.join("b")
	h, _ := b.serve(listen(t, "127.0.0.1:0"), &agent{id: "b"})
	// A question that is too large is refused, and the agent lives on
	asks := a.clients()
	if _, err := asks.Drop(t.Context(), h, "n", "e", false, strings.Repeat("x", 5<<20)); status.Code(err) != codes.ResourceExhausted {
		t.Error(err)
	}
	if _, err := asks.FindSandbox(t.Context(), h, "web"); err != nil {
		t.Error(err)
	}
	// Who connects and says nothing is let go
	raw, err := net.Dial("tcp", h.Advertise)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = raw.Close() }()
	if err := raw.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := raw.Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a silent connection: %v", err)
	}
}

func TestWithoutACertificateNobodyIsAsked(t *testing.T) {
	t.Parallel()
	k, err := identity.Open(t.TempDir(), time.Now, nil)
	if err != nil {
		t.Fatal(err)
	}
	c := newCluster(t)
	a := &person{c: c, id: "a", Keeper: k}
	if _, err := a.clients().Hello(t.Context(), &record.Host{ID: "b", Advertise: refusing(t)}); !errors.Is(err, peer.ErrNoIdentity) {
		t.Error(err)
	}
}
