package api_test

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"weft/agent/api"
	"weft/agent/registry"
	weftv1 "weft/proto/weft/v1"
	"weft/store/record"
)

// released is what the fake was asked to release.
type released struct {
	network string
	names   []string
}

var plans = []registry.ImportPlan{
	{
		ID: "n1", Name: "web", Action: registry.Create, Notes: []string{"careful"}, Network: &record.Network{VNI: 256}, Endpoints: []registry.EndpointPlan{
			{ForeignEndpoint: registry.ForeignEndpoint{ID: "e1", Name: "c1", Addr: netip.MustParseAddr("10.5.0.9")}, Action: registry.Present},
			{ForeignEndpoint: registry.ForeignEndpoint{ID: "e2", Name: "c2"}, Action: registry.Skip, Reason: "it has no address"},
		},
	},
	{ID: "n2", Name: "db", Action: registry.Skip, Reason: "it exists"},
}

func (f *fake) PlanImport(_ context.Context, in []registry.Foreign) ([]registry.ImportPlan, error) {
	f.asked = in
	return plans, f.err
}
func (f *fake) ImportNetwork(_ context.Context, in registry.Foreign) (registry.ImportPlan, error) {
	f.asked = in
	return plans[0], f.err
}
func (f *fake) Kept(_ context.Context, network string) ([]api.KeptView, []string, error) {
	f.asked = network
	k := &record.Kept{ID: "e1", Network: "n1", Name: "c1", Addrs: []netip.Addr{netip.MustParseAddr("10.5.0.9")}, MAC: "02:00:00:00:00:09", From: "h1", Created: time.Unix(9, 0)}
	return []api.KeptView{{Kept: k, Network: &record.Network{ID: "n1", Name: "web"}}}, []string{"db"}, f.err
}
func (f *fake) ReleaseKept(_ context.Context, network string, names []string) ([]string, error) {
	f.asked = released{network, names}
	return names, f.err
}

func foreignNetwork() *weftv1.ForeignNetwork {
	return &weftv1.ForeignNetwork{
		Id: "n1", Name: "web", Created: timestamppb.New(time.Unix(7, 0)), Vni: 256, Internal: true,
		Pools: []*weftv1.Pool{
			{Subnet: "10.5.0.0/24", Gateway: "10.5.0.1", IpRange: "10.5.0.128/25", AuxAddresses: map[string]string{"r": "10.5.0.2"}},
			{Subnet: "10.6.0.0/24", AuxAddresses: map[string]string{"s": "10.6.0.2"}},
		},
		Options: map[string]string{"a": "b"}, Labels: map[string]string{"l": "m"}, IpamOptions: map[string]string{"o": "p"},
		Endpoints: []*weftv1.ForeignEndpoint{{Id: "e1", Name: "c1", Address: "10.5.0.9", MacAddress: "02:00:00:00:00:09", Host: "h1"}, {Id: "e2", Name: "c2"}},
	}
}

func TestImportsOnTheWire(t *testing.T) {
	// Given an agent that imports
	f := &fake{}
	c := weftv1.NewImportClient(client(t, f))
	want := registry.Foreign{
		Spec: registry.NetworkSpec{
			Name: "web", Driver: "overlay", Internal: true, Subnets: []string{"10.5.0.0/24", "10.6.0.0/24"}, Gateways: []string{"10.5.0.1"}, IPRanges: []string{"10.5.0.128/25"},
			Aux: map[string]string{"r": "10.5.0.2", "s": "10.6.0.2"}, Options: map[string]string{"a": "b"}, Labels: map[string]string{"l": "m"}, IPAMOpts: map[string]string{"o": "p"},
			Given: &registry.Given{ID: "n1", VNI: 256, Created: time.Unix(7, 0).UTC()},
		},
		Endpoints: []registry.ForeignEndpoint{{ID: "e1", Name: "c1", Addr: netip.MustParseAddr("10.5.0.9"), MAC: "02:00:00:00:00:09", Host: "h1"}, {ID: "e2", Name: "c2"}},
	}
	addrs := cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
	web := &weftv1.ImportPlan{Id: "n1", Name: "web", Action: weftv1.ImportAction_IMPORT_ACTION_CREATE, Notes: []string{"careful"}, Vni: 256, Endpoints: []*weftv1.ImportEndpointPlan{
		{Id: "e1", Name: "c1", Address: "10.5.0.9", Action: weftv1.ImportAction_IMPORT_ACTION_PRESENT},
		{Id: "e2", Name: "c2", Action: weftv1.ImportAction_IMPORT_ACTION_SKIP, Reason: "it has no address"},
	}}
	db := &weftv1.ImportPlan{Id: "n2", Name: "db", Action: weftv1.ImportAction_IMPORT_ACTION_SKIP, Reason: "it exists"}

	// When a plan is asked for, then the request and the answer say the same as the registry's
	plan, err := c.PlanImport(t.Context(), &weftv1.PlanImportRequest{Networks: []*weftv1.ForeignNetwork{foreignNetwork()}})
	if err != nil || !proto.Equal(plan, &weftv1.PlanImportResponse{Plans: []*weftv1.ImportPlan{web, db}}) {
		t.Errorf("plan %v, %v", plan, err)
	}
	if d := cmp.Diff([]registry.Foreign{want}, f.asked, addrs); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}

	// When a network is imported whatever routes it overlaps, then that is an option of it
	done, err := c.ImportNetwork(t.Context(), &weftv1.ImportNetworkRequest{Network: foreignNetwork(), AllowRouteOverlap: true})
	if err != nil || !proto.Equal(done.Done, web) {
		t.Errorf("done %v, %v", done, err)
	}
	want.Spec.Options[registry.OptRouteOverlap] = "true"
	if d := cmp.Diff(want, f.asked, addrs); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}

	// When what is kept is listed and released
	kept, err := c.ListKept(t.Context(), &weftv1.ListKeptRequest{Network: "web"})
	if err != nil || f.asked != "web" || !proto.Equal(kept, &weftv1.ListKeptResponse{UnknownNetworks: []string{"db"}, Kept: []*weftv1.Kept{{
		NetworkId: "n1", Network: "web", Name: "c1", Addresses: []string{"10.5.0.9"}, MacAddress: "02:00:00:00:00:09", Host: "h1", Created: timestamppb.New(time.Unix(9, 0)),
	}}}) {
		t.Errorf("kept %v, %v", kept, err)
	}
	gone, err := c.ReleaseKept(t.Context(), &weftv1.ReleaseKeptRequest{Network: "web", Names: []string{"c1"}})
	if err != nil || len(gone.Released) != 1 || cmp.Diff(released{"web", []string{"c1"}}, f.asked, cmp.AllowUnexported(released{})) != "" {
		t.Errorf("released %v, %v, asked %v", gone, err, f.asked)
	}
}

func TestImportsThatMakeNoSense(t *testing.T) {
	c := weftv1.NewImportClient(client(t, &fake{}))
	badAddress, twice := foreignNetwork(), foreignNetwork()
	badAddress.Endpoints[0].Address = "10.5.0.9/24"
	twice.Pools[1].AuxAddresses = map[string]string{"r": "10.6.0.2"}
	for name, n := range map[string]*weftv1.ForeignNetwork{"none": nil, "an address with a length": badAddress, "a name twice": twice} {
		if _, err := c.ImportNetwork(t.Context(), &weftv1.ImportNetworkRequest{Network: n}); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
		if n == nil { // what is nothing cannot be told from what is empty in a list
			continue
		}
		if _, err := c.PlanImport(t.Context(), &weftv1.PlanImportRequest{Networks: []*weftv1.ForeignNetwork{n, n}}); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s, in a plan: %v", name, err)
		}
	}
	failing := weftv1.NewImportClient(client(t, &fake{err: api.Refuse(api.InUse, "no")}))
	calls := map[string]func() error{
		"plan": func() error { _, err := failing.PlanImport(t.Context(), &weftv1.PlanImportRequest{}); return err },
		"import": func() error {
			_, err := failing.ImportNetwork(t.Context(), &weftv1.ImportNetworkRequest{Network: foreignNetwork()})
			return err
		},
		"list":    func() error { _, err := failing.ListKept(t.Context(), &weftv1.ListKeptRequest{}); return err },
		"release": func() error { _, err := failing.ReleaseKept(t.Context(), &weftv1.ReleaseKeptRequest{}); return err },
	}
	for name, call := range calls {
		if err := call(); status.Code(err) != codes.FailedPrecondition {
			t.Errorf("%s: %v", name, err)
		}
	}
}
