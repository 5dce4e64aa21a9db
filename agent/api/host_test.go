package api_test

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"weft/agent/api"
	weftv1 "weft/proto/weft/v1"
	"weft/store/record"
)

// keeper is a backend with one host.
type keeper struct {
	api.Backend
	detail api.HostDetail
	err    error
	asked  removedHost
}

type removedHost struct {
	ref  string
	live bool
}

func (f *keeper) Host(_ context.Context, ref string) (api.HostDetail, error) {
	f.asked = removedHost{ref: ref}
	return f.detail, f.err
}

func (f *keeper) RemoveHost(_ context.Context, ref string, live bool) (api.RemovedHost, error) {
	f.asked = removedHost{ref, live}
	return api.RemovedHost{ID: "h2", Name: "beta", Endpoints: 3}, f.err
}

func TestInspectHostSaysAllThatIsKnown(t *testing.T) {
	t.Parallel()
	f := &keeper{detail: api.HostDetail{
		HostView: api.HostView{State: "detached", Host: &record.Host{
			ID: "h2", Name: "beta", VTEP: netip.MustParseAddr("192.0.2.2"), Started: time.Unix(5, 0),
			Routes: []record.Route{{Prefix: netip.MustParsePrefix("192.0.2.0/24"), Link: "eth0"}},
		}},
		Paths: []api.PathView{
			{Host: "h1", Name: "alpha", State: "ok", RTT: time.Millisecond, MTU: 1450, Age: time.Second}, {Host: "h3", Name: "gamma", State: "unknown", Why: "no network in common"},
		},
		Endpoints:   []api.EndpointView{{Endpoint: &record.Endpoint{ID: "e1", Host: "h2", Name: "c1"}, State: "detached", Stale: "host lost for 1m0s"}},
		Unknown:     []string{"web"},
		Certificate: "good until 2027-01-01",
	}}
	got, err := weftv1.NewClusterClient(client(t, f)).InspectHost(t.Context(), &weftv1.InspectHostRequest{Ref: "be"})
	want := &weftv1.InspectHostResponse{
		Host: &weftv1.Host{Id: "h2", Name: "beta", Vtep: "192.0.2.2", State: "detached", Started: timestamppb.New(time.Unix(5, 0))},
		Paths: []*weftv1.Path{
			{HostId: "h1", Host: "alpha", State: "ok", Rtt: durationpb.New(time.Millisecond), Mtu: 1450, Age: durationpb.New(time.Second)},
			{HostId: "h3", Host: "gamma", State: "unknown", Why: "no network in common", Age: durationpb.New(0)},
		},
		Endpoints:       []*weftv1.Endpoint{{Id: "e1", HostId: "h2", Name: "c1", State: "detached", Stale: "host lost for 1m0s"}},
		UnknownNetworks: []string{"web"}, Routes: []string{"192.0.2.0/24 via eth0"}, Certificate: "good until 2027-01-01",
	}
	if d := cmp.Diff(want, got, protocmp.Transform()); err != nil || d != "" || f.asked.ref != "be" {
		t.Errorf("asked for %q: %v (-want +got)\n%s", f.asked.ref, err, d)
	}
}

func TestRemoveHost(t *testing.T) {
	t.Parallel()
	f := &keeper{}
	c := weftv1.NewClusterClient(client(t, f))
	got, err := c.RemoveHost(t.Context(), &weftv1.RemoveHostRequest{Ref: "beta", Live: true})
	if err != nil || got.Id != "h2" || got.Name != "beta" || got.Endpoints != 3 || f.asked != (removedHost{"beta", true}) {
		t.Errorf("%v, %v, asked %v", got, err, f.asked)
	}
	f.err = api.Refuse(api.InUse, "host beta is alive")
	if _, err := c.RemoveHost(t.Context(), &weftv1.RemoveHostRequest{Ref: "beta"}); status.Code(err) != codes.FailedPrecondition {
		t.Error(err)
	}
	f.err = api.Refuse(api.NotFound, "no such host: gamma")
	if _, err := c.InspectHost(t.Context(), &weftv1.InspectHostRequest{Ref: "gamma"}); status.Code(err) != codes.NotFound {
		t.Error(err)
	}
}
