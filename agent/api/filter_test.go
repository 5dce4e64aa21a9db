package api_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weft/agent/api"
	weftv1 "weft/proto/weft/v1"
	"weft/store/record"
)

// filters reads KEY=VALUE words, as the command line has them.
func filters(words string) (out []*weftv1.Filter) {
	for w := range strings.FieldsSeq(words) {
		k, v, _ := strings.Cut(w, "=")
		out = append(out, &weftv1.Filter{Key: k, Value: v})
	}
	return out
}

type cases map[string]struct {
	filters string
	want    []string // names
	refused string   // what the refusal says, of any filters that are none
}

func (cs cases) run(t *testing.T, list func([]*weftv1.Filter) ([]string, error)) {
	t.Helper()
	for name, tc := range cs {
		t.Run(name, func(t *testing.T) {
			got, err := list(filters(tc.filters))
			if tc.refused != "" {
				if s := status.Convert(err); s.Code() != codes.InvalidArgument || !strings.Contains(s.Message(), tc.refused) {
					t.Errorf("got %v, %v, want a refusal with %q", got, err, tc.refused)
				}
				return
			}
			if err != nil || !slices.Equal(got, tc.want) {
				t.Errorf("got %v, %v, want %v", got, err, tc.want)
			}
		})
	}
}

func TestNetworkFilters(t *testing.T) {
	front := front()
	back := api.NetworkView{Network: &record.Network{ID: "n2", Name: "back", Driver: "overlay", Scope: "global", Labels: map[string]string{"l": "3"}}, Known: true}
	far := api.NetworkView{Network: &record.Network{ID: "f", Name: "far", Driver: "overlay", Scope: "global"}}
	none := api.NetworkView{Network: &record.Network{ID: "0", Name: "none", Driver: "null", Scope: "local"}, Builtin: true, Known: true}
	f := &fake{networks: []api.NetworkView{front, back, far, none}}
	n := networks(t, f)
	cases{
		"none":                    {"", []string{"front", "back", "far", "none"}, ""},
		"part of the name":        {"name=a", []string{"back", "far"}, ""},
		"either name":             {"name=front name=none", []string{"front", "none"}, ""},
		"the whole name":          {"name=^back$", []string{"back"}, ""},
		"a pattern":               {"name=^f..$", []string{"far"}, ""},
		"a broken pattern":        {"name=[", nil, ""},
		"start of the ID":         {"id=n", []string{"front", "back"}, ""},
		"not the middle of it":    {"id=2", nil, ""},
		"driver":                  {"driver=null", []string{"none"}, ""},
		"scope":                   {"scope=global", []string{"front", "back", "far"}, ""},
		"custom":                  {"type=custom", []string{"front", "back", "far"}, ""},
		"built in":                {"type=builtin", []string{"none"}, ""},
		"either type":             {"type=builtin type=custom", []string{"front", "back", "far", "none"}, ""},
		"a label":                 {"label=l", []string{"front", "back"}, ""},
		"a label's value":         {"label=l=3", []string{"back"}, ""},
		"all labels":              {"label=l=2 label=only", []string{"front"}, ""},
		"one label of two":        {"label=l=3 label=only", nil, ""},
		"an empty label's value":  {"label=only=", []string{"front"}, ""},
		"two keys":                {"driver=overlay name=back", []string{"back"}, ""},
		"dangling":                {"dangling=true", []string{"back"}, ""}, // of far it is not known
		"not dangling":            {"dangling=0", []string{"front", "far", "none"}, ""},
		"dangling, how":           {"dangling=perhaps", nil, "'dangling'='perhaps'"},
		"unknown key":             {"colour=red", nil, "invalid filter 'colour'"},
		"unknown key behind good": {"name=a colour=red", nil, "invalid filter 'colour'"},
		"no type":                 {"type=odd", nil, "'type'='odd'"},
		"no scope":                {"scope=odd", nil, "'scope'='odd'"},
		"empty key":               {"=x", nil, "invalid filter ''"},
	}.run(t, func(fs []*weftv1.Filter) (got []string, err error) {
		r, err := n.ListNetworks(t.Context(), &weftv1.ListNetworksRequest{Filters: fs})
		for _, x := range r.GetNetworks() {
			got = append(got, x.Name)
		}
		return got, err
	})
	f.err = api.Refuse(api.NotFound, "the backend was asked")
	if _, err := n.ListNetworks(t.Context(), &weftv1.ListNetworksRequest{Filters: filters("colour=red")}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("what cannot be answered is refused before anybody is asked: %v", err)
	}
}

func TestSandboxFilters(t *testing.T) {
	box := func(id record.SandboxID, name string, s record.SandboxStatus, nets ...*record.Network) api.SandboxView {
		v := api.SandboxView{Sandbox: &record.Sandbox{ID: id, Name: name, Status: s, Labels: map[string]string{"l": name}}, Networks: nets}
		v.Attachments, v.Endpoints = make([]record.Attachment, len(nets)), make([]*api.EndpointView, len(nets))
		return v
	}
	front := &record.Network{ID: "n1", Name: "front"}
	views := []api.SandboxView{
		box("a1", "web", record.SandboxRunning, front), box("a2", "db", record.SandboxExited, nil, front), box("b1", "new", record.SandboxCreated),
		box("c1", "loop", record.SandboxRestarting),
	}
	for i := range views {
		views[i].Created = time.Unix(int64(10-i), 0)
	}
	views[0].Ports, views[0].Expose = []record.PortSpec{{Proto: "tcp", First: 80, Last: 90}}, []record.PortSpec{{Proto: "udp", First: 53, Last: 53}}
	views[1].ExitCode = 3
	s := sandboxes(t, &fake{sandboxes: views})
	list := func(all bool) func([]*weftv1.Filter) ([]string, error) {
		return func(fs []*weftv1.Filter) (got []string, err error) {
			r, err := s.ListSandboxes(t.Context(), &weftv1.ListSandboxesRequest{All: all, Filters: fs})
			for _, x := range r.GetSandboxes() {
				got = append(got, x.Name)
			}
			return got, err
		}
	}
	cases{
		"running only":     {"", []string{"web", "loop"}, ""},
		"an exit code":     {"exited=3", []string{"db"}, ""},
		"another one":      {"exited=0", nil, ""},
		"no exit code":     {"exited=x", nil, "'exited=x'"},
		"no such status":   {"status=odd", nil, "'status=odd'"},
		"before one":       {"before=db", []string{"new", "loop"}, ""},
		"since one":        {"since=a2", []string{"web"}, ""},
		"since nobody":     {"since=gone", nil, "No such sandbox: gone"},
		"a status":         {"status=exited", []string{"db"}, ""}, // as docker ps: that means all
		"name of no match": {"name=db", nil, ""},
		"unknown key":      {"colour=red", nil, "invalid filter 'colour'"},
	}.run(t, list(false))
	cases{
		"all":             {"", []string{"web", "db", "new", "loop"}, ""},
		"published":       {"publish=85", []string{"web"}, ""},
		"published, not":  {"publish=85/udp", nil, ""},
		"exposed":         {"expose=53/udp", []string{"web"}, ""},
		"no port":         {"expose=0", nil, "'expose=0'"},
		"a pattern":       {"name=^w", []string{"web"}, ""},
		"network by name": {"network=front", []string{"web", "db"}, ""},
		"network by ID":   {"network=n", []string{"web", "db"}, ""},
		"start of the ID": {"id=a", []string{"web", "db"}, ""},
		"label":           {"label=l=new", []string{"new"}, ""},
		"two keys":        {"network=front status=running", []string{"web"}, ""},
	}.run(t, list(true))
}

func TestEndpointFilters(t *testing.T) {
	ep := func(id record.EndpointID, name, host, state string) api.EndpointView {
		v := e1(front().Network)
		v.Endpoint = &record.Endpoint{ID: id, Name: name, Network: "n1", Host: record.HostID("id-" + host), Sandbox: record.SandboxID("s-" + name)}
		v.HostName, v.State = host, state
		return v
	}
	lost := ep("e2", "db", "beta", "lost")
	lost.Network = nil // its network is not known here
	k := weftv1.NewClusterClient(client(t, &fake{endpoints: []api.EndpointView{ep("e1", "web", "alpha", "running"), lost}}))
	cases{
		"none":             {"", []string{"web", "db"}, ""},
		"state":            {"state=lost", []string{"db"}, ""},
		"host":             {"host=alpha", []string{"web"}, ""},
		"host's ID":        {"host=id-b", []string{"db"}, ""},
		"network's name":   {"network=front", []string{"web"}, ""},
		"network's ID":     {"network=n1", []string{"web", "db"}, ""},
		"sandbox by name":  {"sandbox=db", []string{"db"}, ""},
		"sandbox by ID":    {"sandbox=s-w", []string{"web"}, ""},
		"part of the name": {"name=e", []string{"web"}, ""},
		"start of the ID":  {"id=e2", []string{"db"}, ""},
		"unknown key":      {"stale=1", nil, "invalid filter 'stale'"},
	}.run(t, func(fs []*weftv1.Filter) (got []string, err error) {
		r, err := k.ListEndpoints(t.Context(), &weftv1.ListEndpointsRequest{Filters: fs})
		for _, x := range r.GetEndpoints() {
			got = append(got, x.Name)
		}
		return got, err
	})
}
