package command

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	weftv1 "weft/proto/weft/v1"
)

// fakeImport is the part of the fake that imports: networks and addresses are there or new as the test says, and new otherwise.
type fakeImport struct {
	weftv1.UnimplementedImportServer
	present map[string]bool   // networks by name, addresses by network and name
	skipped map[string]string // the same, with the reason
	lost    map[string]error  // networks that are not imported
	empty   bool              // nothing is kept
	hidden  []string          // networks that cannot be read
	note    func(proto.Message, string) error
}

func (f *fakeImport) plan(n *weftv1.ForeignNetwork) *weftv1.ImportPlan {
	action := func(key string) (weftv1.ImportAction, string) {
		switch {
		case f.present[key]:
			return isPresent, ""
		case f.skipped[key] != "":
			return toSkip, f.skipped[key]
		}
		return toCreate, ""
	}
	p := &weftv1.ImportPlan{Id: n.Id, Name: n.Name, Vni: n.Vni}
	if p.Vni == 0 { // the agent chooses
		p.Vni = 4096
	}
	if p.Action, p.Reason = action(n.Name); p.Action == toSkip {
		p.Vni = 0
		return p
	}
	for _, e := range n.Endpoints {
		ep := &weftv1.ImportEndpointPlan{Id: e.Id, Name: e.Name, Address: e.Address}
		ep.Action, ep.Reason = action(n.Name + "/" + e.Name)
		p.Endpoints = append(p.Endpoints, ep)
	}
	return p
}

func (f *fakeImport) PlanImport(_ context.Context, r *weftv1.PlanImportRequest) (*weftv1.PlanImportResponse, error) {
	out := &weftv1.PlanImportResponse{}
	for _, n := range r.Networks {
		out.Plans = append(out.Plans, f.plan(n))
	}
	return out, nil
}

func (f *fakeImport) ImportNetwork(_ context.Context, r *weftv1.ImportNetworkRequest) (*weftv1.ImportNetworkResponse, error) {
	err := f.lost[r.Network.Name]
	if err == nil {
		err = f.note(r, r.Network.Name)
	}
	return &weftv1.ImportNetworkResponse{Done: f.plan(r.Network)}, err
}

func (f *fakeImport) ListKept(_ context.Context, r *weftv1.ListKeptRequest) (*weftv1.ListKeptResponse, error) {
	if f.empty {
		return &weftv1.ListKeptResponse{UnknownNetworks: f.hidden}, f.note(r, r.Network)
	}
	return &weftv1.ListKeptResponse{UnknownNetworks: []string{"back"}, Kept: []*weftv1.Kept{
		{NetworkId: webID, Network: "web", Name: "web1", Addresses: []string{"10.50.0.10"}, MacAddress: "02:42:0a:32:00:99", Host: "192.0.2.11", Created: timestamppb.New(created.AsTime())},
		{NetworkId: webID, Network: "web", Name: "web2", Addresses: []string{"10.50.0.128"}, Host: "192.0.2.12", Created: created},
	}}, f.note(r, r.Network)
}

func (f *fakeImport) ReleaseKept(_ context.Context, r *weftv1.ReleaseKeptRequest) (*weftv1.ReleaseKeptResponse, error) {
	released := r.Names
	if len(released) == 0 {
		released = []string{"web1", "web2"}
	}
	return &weftv1.ReleaseKeptResponse{Released: released}, f.note(r, r.Network)
}

// oldStore answers as the etcd did in which Docker kept its networks; the answer was recorded.
func oldStore(t *testing.T) (from string) {
	t.Helper()
	tree, err := os.ReadFile("../../../integrations/libnetwork/testdata/etcd2.json")
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && r.URL.Path == "/v2/keys/docker/network/v1.0" {
			_, _ = w.Write(tree)
			return
		}
		w.WriteHeader(http.StatusNotFound)
		_, _ = w.Write([]byte(`{"errorCode":100}`))
	}))
	t.Cleanup(s.Close)
	return "etcd2://" + s.Listener.Addr().String()
}

// importShell is a shell with an agent that imports, and the old store.
func importShell(t *testing.T) (*shell, *fake, string) {
	s, f := newShell(t), newFake()
	f.present, f.skipped, f.lost = map[string]bool{}, map[string]string{}, map[string]error{}
	f.fakeImport.note = f.note
	f.serve(t, s.path)
	return s, f, oldStore(t)
}

// imported are the names of the networks that the agent was asked to import.
func (f *fake) imported() (names []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range f.asked {
		if r, ok := m.(*weftv1.ImportNetworkRequest); ok {
			names = append(names, r.Network.Name)
		}
	}
	return names
}

func TestThePlanOfAnImport(t *testing.T) {
	s, f, from := importShell(t)
	f.present["plain"] = true
	f.skipped["back"] = "network with name back already exists"
	f.skipped["web/web3"] = "its address 10.50.0.129 belongs to other"
	r := s.run("import", "docker", "--from", from, "--dry-run")
	want, err := os.ReadFile("testdata/import-plan.txt")
	if err != nil && !*update {
		t.Fatal(err)
	}
	got := strings.ReplaceAll(r.out, from, "FROM")
	if *update {
		if err := os.WriteFile("testdata/import-plan.txt", []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if d := cmp.Diff(string(want), got); d != "" && !*update || r.code != 0 || r.err != "" {
		t.Errorf("exit %d, %s (-want +got; go test -update rewrites it):\n%s", r.code, r.err, d)
	}
	for line := range strings.Lines(got) {
		if n := len([]rune(strings.TrimRight(line, "\n"))); n > 80 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	if got := f.imported(); got != nil {
		t.Errorf("a plan imported %v", got)
	}
}

func TestAnImportAsksFirst(t *testing.T) {
	for _, c := range []struct {
		answer string
		args   []string
		done   bool
	}{{"y\n", nil, true}, {"yes", nil, true}, {"n\n", nil, false}, {"\n", nil, false}, {"", nil, false}, {"", []string{"--yes"}, true}, {"", []string{"-y"}, true}} {
		s, f, from := importShell(t)
		s.in = strings.NewReader(c.answer)
		r := s.run(append([]string{"import", "docker", "--from", from}, c.args...)...)
		if r.code != 0 || r.err != "" || strings.Contains(r.out, "Create 7 networks and keep 8 addresses? [y/N] ") == (len(c.args) > 0) {
			t.Errorf("%q %v: exit %d: %s%s", c.answer, c.args, r.code, r.out, r.err)
		}
		if got := f.imported(); (len(got) == 7) != c.done || strings.Contains(r.out, "Created 7 networks, kept 8 addresses.") != c.done {
			t.Errorf("%q %v: imported %v: %s", c.answer, c.args, got, r.out)
		}
		if strings.HasSuffix(r.out, "[y/N] \nNothing was imported.\n") == c.done {
			t.Errorf("%q %v: %s", c.answer, c.args, r.out)
		}
		if got := strings.Join(f.imported(), " "); strings.Contains(got, "secret") {
			t.Errorf("the agent was asked for what weft cannot do: %s", got)
		}
	}
}

func TestAnImportDoesOnlyWhatIsLeft(t *testing.T) {
	s, f, from := importShell(t)
	for _, name := range []string{"back", "fixed", "opts", "plain", "six", "two", "web", "back/web1", "six/six1", "two/two1", "two/two2", "web/web1", "web/web2", "web/web3"} {
		f.present[name] = true
	}

	// When one address is left, then one network is asked for
	r := s.run("import", "docker", "--from", from, "-y", "--allow-route-overlap")
	if got := f.imported(); len(got) != 1 || got[0] != "fixed" || !strings.Contains(r.out, "Created 0 networks, kept 1 address.") || !last[*weftv1.ImportNetworkRequest](t, f).AllowRouteOverlap {
		t.Errorf("imported %v: %s", got, r.out)
	}

	// When none is, then nobody is asked anything
	f.present["fixed/fixed1"] = true
	r = s.run("import", "docker", "--from", from)
	if got := f.imported(); len(got) != 1 || r.code != 0 || !strings.HasSuffix(r.out, "There is nothing left to import.\n1 network cannot be imported: the plan says why.\n") || strings.Contains(r.out, "[y/N]") {
		t.Errorf("imported %v: %s", got, r.out)
	}
}

func TestAnImportOfWhatAllIsInTheWayFails(t *testing.T) {
	s, f, from := importShell(t)
	for _, name := range []string{"back", "fixed", "opts", "plain", "six", "two", "web"} {
		f.skipped[name] = "network with name " + name + " already exists"
	}
	for _, args := range [][]string{nil, {"-y"}, {"--dry-run"}, {"-y", "--format", "{{.Name}}: {{.Reason}}"}} {
		r := s.run(append([]string{"import", "docker", "--from", from}, args...)...)
		if r.code != 1 || r.err != "Error: 8 networks cannot be imported: the plan says why\n" || !strings.Contains(r.out, "back already exists") || strings.Contains(r.out, "nothing left") {
			t.Errorf("%v: exit %d: %s%s", args, r.code, r.out, r.err)
		}
	}
	if got := f.imported(); got != nil {
		t.Errorf("imported %v", got)
	}
}

func TestAnImportGoesOnAfterAFailure(t *testing.T) {
	s, f, from := importShell(t)
	f.lost["six"] = status.Error(codes.Unavailable, "cluster store etcd://x is not reachable")
	r := s.run("import", "docker", "--from", from, "-y")
	if got := f.imported(); len(got) != 6 || r.code != 1 || !strings.Contains(r.err, "not reachable") || !strings.Contains(r.out, "Created 6 networks, kept 7 addresses.") {
		t.Errorf("exit %d, imported %v: %s%s", r.code, got, r.out, r.err)
	}
}

func TestAnImportForPrograms(t *testing.T) {
	s, f, from := importShell(t)
	f.skipped["web/web3"] = "its address belongs to other"
	if r := s.run("import", "docker", "--from", from, "--format", "json"); r.code != 1 || !strings.Contains(r.err, "--format needs --dry-run or --yes") {
		t.Errorf("exit %d: %s", r.code, r.err)
	}
	r := s.run("import", "docker", "--from", from, "--format", "json", "--dry-run")
	if n := strings.Count(r.out, "\n"); r.code != 0 || n != 8 || !strings.Contains(r.out, `"Plan":"create"`) || !strings.Contains(r.out, `"Plan":"skip","Reason":"its address belongs to other"`) {
		t.Errorf("exit %d, %d lines: %s%s", r.code, n, r.out, r.err)
	}
	r = s.run("import", "docker", "--from", from, "--format", "{{.Name}}: {{.Plan}} {{.Addresses}}", "--yes")
	if !strings.Contains(r.out, "web: created 2 of 3\n") || !strings.Contains(r.out, "secret: skipped 0\n") || strings.Contains(r.out, "SUBNETS") {
		t.Errorf("%s%s", r.out, r.err)
	}
}

func TestWhatAnImportCannotDo(t *testing.T) {
	s, _, from := importShell(t)
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"docker"}, "say where Docker's networks are"},
		{[]string{"docker", "--from", "etcd" + strings.TrimPrefix(from, "etcd2")}, "write etcd2://"},
		{[]string{"docker", "--from", from + "/other"}, "no Docker networks in"},
		{[]string{"docker", "--from", from, "--from-opt", "kv.nope=1"}, "unknown --from-opt kv.nope"},
		{[]string{"docker", "--from", from, "more"}, "accepts no arguments"},
		{[]string{"release", "web"}, "or give --all"},
		{[]string{"release", "--all", "web", "web1"}, "or give --all"},
		{[]string{"ls", "web", "db"}, "requires exactly 1 argument"},
		{[]string{"podman"}, "is not a weft command"},
	} {
		if r := s.run(append([]string{"import"}, c.args...)...); r.code == 0 || !strings.Contains(r.err, c.want) {
			t.Errorf("%v: exit %d: %s", c.args, r.code, r.err)
		}
	}
}

func TestKeptAddressesOnTheCommandLine(t *testing.T) {
	s, f, _ := importShell(t)
	r := s.run("import", "ls", "web")
	want := "NETWORK   NAME      ADDRESS       WAS ON HOST\nweb       web1      10.50.0.10    192.0.2.11\nweb       web2      10.50.0.128   192.0.2.12\n"
	if r.code != 0 || r.out != want || r.err != "WARNING: what back keeps is not known now: the cluster store is not reachable\n" {
		t.Errorf("exit %d: %s%s", r.code, r.out, r.err)
	}
	if last[*weftv1.ListKeptRequest](t, f).Network != "web" {
		t.Error("the agent was not asked for web")
	}
	if r := s.run("import", "ls", "--format", "{{.Name}} {{.MacAddress}} {{.CreatedAt}}"); !strings.HasPrefix(r.out, "web1 02:42:0a:32:00:99 2026-03-04") {
		t.Errorf("%s", r.out)
	}
	if r := s.run("import", "release", "web", "old1"); r.out != "old1\n" || r.code != 0 {
		t.Errorf("exit %d: %s%s", r.code, r.out, r.err)
	}
	if r := s.run("import", "release", "-a", "web"); r.out != "web1\nweb2\n" || len(last[*weftv1.ReleaseKeptRequest](t, f).Names) != 0 {
		t.Errorf("%s%s", r.out, r.err)
	}
}

func TestAnEmptyListOfKeptAddressesIsTrueOrAnError(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*weftv1.StoreStatusResponse)
		hidden []string
		want   string
	}{
		"nothing is kept":  {func(*weftv1.StoreStatusResponse) {}, nil, ""},
		"store away":       {func(r *weftv1.StoreStatusResponse) { r.State, r.Error = "away", "no answer" }, nil, "is not reachable: no answer"},
		"and seen before":  {func(r *weftv1.StoreStatusResponse) { r.State, r.Error = "away", "no answer" }, []string{"web"}, "is not reachable: no answer"},
		"not joined":       {func(r *weftv1.StoreStatusResponse) { r.State = "joining" }, nil, "has not joined its cluster yet"},
		"back in a moment": {func(*weftv1.StoreStatusResponse) {}, []string{"web", "db"}, "what web, db keep is not known now"},
	} {
		t.Run(name, func(t *testing.T) {
			s, f, _ := importShell(t)
			f.empty, f.hidden, f.store = true, tc.hidden, changed(connected(), tc.change)
			r := s.run("import", "ls", "-q")
			switch {
			case tc.want == "" && r != (result{}):
				t.Errorf("%+v", r)
			case tc.want != "" && (r.code != 1 || r.out != "" || !strings.HasPrefix(r.err, "Error: ") || !strings.Contains(r.err, tc.want)):
				t.Errorf("%+v, want %q", r, tc.want)
			}
		})
	}
}
