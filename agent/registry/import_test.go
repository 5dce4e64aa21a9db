package registry_test

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"weft/agent/registry"
	"weft/ipam"
	"weft/store"
	"weft/store/memory"
	"weft/store/record"
)

// oldID makes an ID as the old system has them, of few digits.
func oldID(digits string) string { return strings.Repeat("0", 64-len(digits)) + digits }

func foreign(id, name, subnet string, vni uint32, eps ...registry.ForeignEndpoint) registry.Foreign {
	f := registry.Foreign{Spec: spec(name, subnet), Endpoints: eps}
	f.Spec.Given = &registry.Given{ID: record.NetworkID(oldID(id)), VNI: vni, Created: time.Date(2019, 4, 5, 6, 7, 8, 0, time.UTC)}
	return f
}

func foreignEndpoint(id, name, addr string) registry.ForeignEndpoint {
	a := netip.MustParseAddr(addr)
	return registry.ForeignEndpoint{ID: record.EndpointID(oldID(id)), Name: name, Addr: a, MAC: record.MAC(ipam.MAC(a)), Host: "host 192.0.2.11"}
}

// foreign is a network that the lab's hosts import, under a name and with addresses that they also make for themselves.
func (l *lab) foreign() registry.Foreign {
	i := rapid.IntRange(0, 3).Draw(l.t, "imported")
	f := foreign(fmt.Sprint("a", i), fmt.Sprint("n", i), fmt.Sprintf("10.%d.0.0/16", i%2), uint32(ipam.FirstVNI+i%2))
	for k := range rapid.IntRange(0, 3).Draw(l.t, "endpoints") {
		f.Endpoints = append(f.Endpoints, foreignEndpoint(fmt.Sprint("e", i, k), fmt.Sprint("c", k), fmt.Sprintf("10.%d.0.%d", i%2, 2+k)))
	}
	return f
}

func importNetwork(t *testing.T, h *host, f registry.Foreign) registry.ImportPlan {
	t.Helper()
	p, err := h.ImportNetwork(t.Context(), h.as, f)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestAnImportedNetworkIsTheOldOne(t *testing.T) {
	// Given a network of the old system with all that one can have
	h := newHost(t, memory.New(), "a")
	f := foreign("1f", "Web", "10.5.0.0/24", 256, foreignEndpoint("e1", "web1", "10.5.0.10"), foreignEndpoint("e2", "web2", "10.5.0.128"))
	f.Spec.Gateways, f.Spec.IPRanges, f.Spec.Aux = []string{"10.5.0.254"}, []string{"10.5.0.128/25"}, map[string]string{"router": "10.5.0.2"}
	f.Spec.Labels, f.Spec.Internal = map[string]string{"env": "prod"}, true
	f.Spec.Options = map[string]string{registry.OptMTU: "1400", registry.OptVNIs: "256"}

	// When it is imported
	p := importNetwork(t, h, f)

	// Then it is there as it was
	h.look(t, p.ID)
	n, ok := h.picture.Network(record.NetworkID(oldID("1f")))
	if !ok || p.Action != registry.Create || n.Name != "Web" || n.VNI != 256 || n.MTU != 1400 || !n.Internal || n.Labels["env"] != "prod" || !n.Created.Equal(f.Spec.Given.Created) {
		t.Fatalf("%v: %+v", p, n)
	}
	if x := n.Pools[0]; x.Gateway.String() != "10.5.0.254" || x.IPRange.String() != "10.5.0.128/25" || x.Aux["router"].String() != "10.5.0.2" || x.Auto {
		t.Errorf("pool %+v", x)
	}
	net, _ := h.picture.Net(n.ID)
	if k, _ := net.Kept("WEB1"); k == nil || k.Addrs[0].String() != "10.5.0.10" || k.MAC != "" || k.From != "host 192.0.2.11" {
		t.Errorf("kept %+v", k)
	}
	check(t, h.st)

	// And when it is imported again, nothing is written
	before, _ := h.st.Status(t.Context())
	p = importNetwork(t, h, f)
	after, _ := h.st.Status(t.Context())
	if p.Action != registry.Present || p.Endpoints[0].Action != registry.Present || p.Endpoints[1].Action != registry.Present || before.Rev != after.Rev {
		t.Errorf("again: %+v", p)
	}
}

func TestAKeptAddressIsItsNamesAlone(t *testing.T) {
	for _, picture := range []bool{true, false} { // whether the attaching host's picture has heard of the import
		t.Run(fmt.Sprint(picture), func(t *testing.T) {
			// Given an address that is kept for web1
			w := memory.New()
			a, b := newHost(t, w, "a"), newHost(t, w, "b")
			n := create(t, a, spec("web", "10.5.0.0/24"))
			b.look(t, n.ID)
			f := foreign("1f", "web", "10.5.0.0/24", 256, foreignEndpoint("e1", "web1", "10.5.0.10"))
			f.Spec.Given.ID = n.ID
			importNetwork(t, a, f)
			if picture {
				b.look(t, n.ID)
			}

			// When another name asks for it, then it is refused, with the reason
			_, err := b.CreateEndpoint(t.Context(), b.as, endpoint(n, b, "web2", "10.5.0.10"))
			if registry.KindOf(err) != registry.Exists || picture && !strings.Contains(err.Error(), "10.5.0.10 belongs to web1, for which it is kept") {
				t.Errorf("another name: %v", err)
			}

			// When that name comes, in any case, then it has the address, and nothing is kept any more
			ep := endpoint(n, b, "Web1", "10.5.0.10")
			b.st.NextUnknown(true)
			if _, err := b.CreateEndpoint(t.Context(), b.as, ep); err != nil {
				t.Fatal(err)
			}
			b.look(t, n.ID)
			net, _ := b.picture.Net(n.ID)
			if o, ok := net.ByAddr(netip.MustParseAddr("10.5.0.10")); !ok || o.ID != ep.ID {
				t.Errorf("the address is of %+v", o)
			}
			if k, _ := net.Kept("web1"); k != nil {
				t.Errorf("still kept: %+v", k)
			}
			check(t, b.st)

			// And a second import leaves the one that has come alone
			if p := importNetwork(t, a, f); p.Endpoints[0].Action != registry.Present {
				t.Errorf("imported again: %+v", p.Endpoints)
			}
			check(t, b.st)
		})
	}
}

func TestANameThatComesWithAnotherAddressLetsTheKeptOneGo(t *testing.T) {
	h := newHost(t, memory.New(), "a")
	f := foreign("1f", "web", "10.5.0.0/24", 256, foreignEndpoint("e1", "web1", "10.5.0.10"))
	n := importNetwork(t, h, f).Network
	h.look(t, n.ID)
	if _, err := h.CreateEndpoint(t.Context(), h.as, endpoint(n, h, "web1", "10.5.0.77")); err != nil {
		t.Fatal(err)
	}
	h.look(t, n.ID)
	if net, _ := h.picture.Net(n.ID); net.Taken(netip.MustParseAddr("10.5.0.10")) {
		t.Error("the address that web1 did not want is still taken")
	}
	check(t, h.st)
}

func TestAnImportGoesOnWhereItWasInterrupted(t *testing.T) {
	for cut := range 6 {
		// Given an import that is cut off after so many transactions
		w := memory.New()
		h, rest := newHost(t, w, "a"), newHost(t, w, "b")
		f := foreign("1f", "web", "10.5.0.0/24", 256)
		for i := range 18 {
			f.Endpoints = append(f.Endpoints, foreignEndpoint(fmt.Sprintf("e%d", i), fmt.Sprintf("web%d", i), fmt.Sprintf("10.5.0.%d", 2+i)))
		}
		ctx, cancel := context.WithCancel(t.Context())
		h.use(after{Client: h.st, n: &cut, do: cancel}, "a")
		if _, err := h.ImportNetwork(ctx, h.as, f); err == nil {
			t.Fatalf("cut after %d: it was not", cut)
		}
		check(t, rest.st)

		// When another host imports the same, then all is there
		importNetwork(t, rest, f)
		rest.look(t, record.NetworkID(oldID("1f")))
		net, _ := rest.picture.Net(record.NetworkID(oldID("1f")))
		for _, ep := range f.Endpoints {
			if !net.KeptFor(ep.Name, ep.Addr) {
				t.Errorf("cut after %d: %s is not kept", cut, ep.Addr)
			}
		}
		check(t, rest.st)
	}
}

// after is a store that does something before the transaction that comes after n.
type after struct {
	*memory.Client
	n  *int
	do func()
}

func (s after) Txn(ctx context.Context, t store.Txn) (store.Rev, error) {
	if *s.n--; *s.n < 0 {
		s.do()
	}
	return s.Client.Txn(ctx, t)
}

func TestKeptAddressesAreReleased(t *testing.T) {
	// Given a network that keeps addresses
	h := newHost(t, memory.New(), "a")
	f := foreign("1f", "web", "10.5.0.0/24", 256)
	for i := range 9 {
		f.Endpoints = append(f.Endpoints, foreignEndpoint(fmt.Sprintf("e%d", i), fmt.Sprintf("web%d", i), fmt.Sprintf("10.5.0.%d", 2+i)))
	}
	n := importNetwork(t, h, f).Network
	h.look(t)

	// Then it is not removed
	_, err := h.RemoveNetwork(t.Context(), h.as, n.ID)
	if registry.KindOf(err) != registry.InUse || !strings.Contains(err.Error(), "keeps imported addresses for web0, web1") || !strings.Contains(err.Error(), "weft import release --all web") {
		t.Errorf("remove: %v", err)
	}

	// And a name for which nothing is kept is said to be none, and nothing is released
	if _, err := h.ReleaseKept(t.Context(), h.as, n.ID, []string{"web1", "nobody"}); registry.KindOf(err) != registry.NotFound || !strings.Contains(err.Error(), "network web keeps no address for nobody") {
		t.Errorf("release nobody: %v", err)
	}

	// When some are released, and then all, whether the store tells or not what became of it
	for _, names := range [][]string{{"WEB1", "web2"}, nil} {
		h.st.NextUnknown(true)
		got, err := h.ReleaseKept(t.Context(), h.as, n.ID, names)
		if want := map[int]int{2: 2, 0: 7}[len(names)]; err != nil || len(got) != want {
			t.Fatalf("release %v: %v, %v", names, got, err)
		}
		check(t, h.st)
	}

	// Then the network can go, and leaves nothing
	if _, err := h.RemoveNetwork(t.Context(), h.as, n.ID); err != nil {
		t.Fatal(err)
	}
	if l, err := h.st.List(t.Context(), record.NetPartition(n.ID)); err != nil || len(l.Entries) != 0 {
		t.Errorf("left: %v, %v", l.Entries, err)
	}
}

func TestPlanImport(t *testing.T) {
	// Given a cluster with networks of its own, one with a sandbox in it, and a host's route
	h := newHost(t, memory.New(), "a")
	own := create(t, h, spec("mine", "10.1.0.0/24"))
	low := foreign("2f", "early", "10.2.0.0/24", 300)
	importNetwork(t, h, low)
	if _, _, err := h.RegisterHost(t.Context(), record.Host{
		ID: "a", Name: "alpha", Incarnation: 1, VTEP: netip.MustParseAddr("192.0.2.1"), Routes: []record.Route{{Prefix: netip.MustParsePrefix("10.77.0.0/16"), Link: "eth1"}},
	}); err != nil {
		t.Fatal(err)
	}
	h.look(t, own.ID)
	given := foreign("1f", "web", "10.5.0.0/24", 256)
	with := func(change func(*registry.Foreign)) registry.Foreign {
		f := foreign("1f", "web", "10.5.0.0/24", 256)
		change(&f)
		return f
	}
	for name, c := range map[string]struct {
		in     []registry.Foreign
		action registry.Action // of the last
		reason string
		note   string
	}{
		"plain":                  {in: []registry.Foreign{given}, action: registry.Create},
		"there":                  {in: []registry.Foreign{low}, action: registry.Present},
		"another with this ID":   {in: []registry.Foreign{foreign("2f", "late", "10.2.0.0/24", 300)}, action: registry.Skip, reason: "its name is early"},
		"other pools":            {in: []registry.Foreign{foreign("2f", "early", "10.3.0.0/24", 300)}, action: registry.Skip, reason: "10.2.0.0/24"},
		"name taken":             {in: []registry.Foreign{foreign("1f", "Mine", "10.5.0.0/24", 256)}, action: registry.Skip, reason: "network with name Mine already exists"},
		"name twice in the tree": {in: []registry.Foreign{given, foreign("3f", "web", "10.6.0.0/24", 257)}, action: registry.Skip, reason: "network with name web already exists"},
		"pool taken":             {in: []registry.Foreign{foreign("1f", "web", "10.1.0.0/16", 256)}, action: registry.Skip, reason: "overlaps 10.1.0.0/24 of network mine"},
		"pool twice in the tree": {in: []registry.Foreign{given, foreign("3f", "two", "10.5.0.0/25", 257)}, action: registry.Skip, reason: "overlaps 10.5.0.0/24 of network web"},
		"route":                  {in: []registry.Foreign{foreign("1f", "web", "10.77.5.0/24", 256)}, action: registry.Skip, reason: "overlaps the route to 10.77.0.0/16 of host alpha"},
		"route, insisted": {in: []registry.Foreign{with(func(f *registry.Foreign) {
			f.Spec.Subnets = []string{"10.77.5.0/24"}
			f.Spec.Options = map[string]string{registry.OptRouteOverlap: "true"}
		})}, action: registry.Create},
		"VNI taken":               {in: []registry.Foreign{foreign("1f", "web", "10.5.0.0/24", 300)}, action: registry.Create, note: "VNI 300 belongs to network early"},
		"VNI twice in the tree":   {in: []registry.Foreign{given, foreign("3f", "two", "10.6.0.0/24", 256)}, action: registry.Create, note: "VNI 256 belongs to network web"},
		"no VNI yet":              {in: []registry.Foreign{foreign("1f", "web", "10.5.0.0/24", 0)}, action: registry.Create},
		"VNI too high":            {in: []registry.Foreign{foreign("1f", "web", "10.5.0.0/24", 1<<24)}, action: registry.Skip, reason: "invalid VNI"},
		"no ID":                   {in: []registry.Foreign{with(func(f *registry.Foreign) { f.Spec.Given.ID = "1f" })}, action: registry.Skip, reason: "invalid network ID"},
		"no subnet":               {in: []registry.Foreign{with(func(f *registry.Foreign) { f.Spec.Subnets = nil })}, action: registry.Skip, reason: "no subnet"},
		"encrypted":               {in: []registry.Foreign{with(func(f *registry.Foreign) { f.Spec.Options = map[string]string{"encrypted": ""} })}, action: registry.Skip, reason: "encryption is not supported"},
		"pre-defined":             {in: []registry.Foreign{foreign("1f", "host", "10.5.0.0/24", 256)}, action: registry.Skip, reason: "predefined"},
		"smallest subnet and all": {in: []registry.Foreign{foreign("1f", "web", "10.5.0.0/31", 256)}, action: registry.Skip, reason: "no room for a gateway"},
	} {
		t.Run(name, func(t *testing.T) {
			ps := h.PlanImport(h.picture, func(record.NetworkID) *record.Net { return nil }, c.in)
			p := ps[len(ps)-1]
			if len(ps) != len(c.in) || p.Action != c.action || !strings.Contains(p.Reason, c.reason) || (c.reason == "") != (p.Reason == "") {
				t.Errorf("%d: %s", p.Action, p.Reason)
			}
			if notes := strings.Join(p.Notes, "\n"); !strings.Contains(notes, c.note) || (c.note == "") != (notes == "") {
				t.Errorf("notes: %s", notes)
			}
			if (p.Network == nil) != (p.Action == registry.Skip) {
				t.Errorf("network %+v", p.Network)
			}
		})
	}
}

func TestPlanImportOfAddresses(t *testing.T) {
	// Given an imported network in which web1 has come, and an address is kept for web2
	h := newHost(t, memory.New(), "a")
	f := foreign("1f", "web", "10.5.0.0/24", 256, foreignEndpoint("e2", "web2", "10.5.0.20"))
	f.Spec.Aux = map[string]string{"router": "10.5.0.9"}
	n := importNetwork(t, h, f).Network
	if _, err := h.CreateEndpoint(t.Context(), h.as, endpoint(n, h, "web1", "10.5.0.10")); err != nil {
		t.Fatal(err)
	}
	h.look(t, n.ID)
	net, _ := h.picture.Net(n.ID)
	none := foreignEndpoint("e9", "new", "10.5.0.9")
	none.Addr = netip.Addr{}
	short := foreignEndpoint("e9", "new", "10.5.0.33")
	short.ID = "e9"
	for name, c := range map[string]struct {
		in     []registry.ForeignEndpoint
		action registry.Action // of the last
		reason string
	}{
		"new":            {in: []registry.ForeignEndpoint{foreignEndpoint("e9", "new", "10.5.0.33")}, action: registry.Create},
		"kept":           {in: []registry.ForeignEndpoint{foreignEndpoint("e2", "web2", "10.5.0.20")}, action: registry.Present},
		"come":           {in: []registry.ForeignEndpoint{foreignEndpoint("e1", "WEB1", "10.5.0.11")}, action: registry.Present},
		"of a sandbox":   {in: []registry.ForeignEndpoint{foreignEndpoint("e9", "new", "10.5.0.10")}, action: registry.Skip, reason: "10.5.0.10 belongs to web1"},
		"kept for other": {in: []registry.ForeignEndpoint{foreignEndpoint("e9", "new", "10.5.0.20")}, action: registry.Skip, reason: "10.5.0.20 belongs to web2"},
		"another kept":   {in: []registry.ForeignEndpoint{foreignEndpoint("e9", "web2", "10.5.0.33")}, action: registry.Skip, reason: "another address is kept for it: 10.5.0.20"},
		"gateway":        {in: []registry.ForeignEndpoint{foreignEndpoint("e9", "new", "10.5.0.1")}, action: registry.Skip, reason: "gateway"},
		"auxiliary":      {in: []registry.ForeignEndpoint{foreignEndpoint("e9", "new", "10.5.0.9")}, action: registry.Skip, reason: "auxiliary address router"},
		"outside":        {in: []registry.ForeignEndpoint{foreignEndpoint("e9", "new", "10.6.0.9")}, action: registry.Skip, reason: "no configured subnet"},
		"no address":     {in: []registry.ForeignEndpoint{none}, action: registry.Skip, reason: "no IPv4 address"},
		"no name":        {in: []registry.ForeignEndpoint{foreignEndpoint("e9", "/new", "10.5.0.33")}, action: registry.Skip, reason: "invalid sandbox name"},
		"no ID":          {in: []registry.ForeignEndpoint{short}, action: registry.Skip, reason: "64 hexadecimal digits"},
		"same name":      {in: []registry.ForeignEndpoint{foreignEndpoint("e8", "New", "10.5.0.34"), foreignEndpoint("e9", "new", "10.5.0.33")}, action: registry.Skip, reason: "the same name"},
		"same address":   {in: []registry.ForeignEndpoint{foreignEndpoint("e8", "old", "10.5.0.33"), foreignEndpoint("e9", "new", "10.5.0.33")}, action: registry.Skip, reason: "old has the same address"},
	} {
		t.Run(name, func(t *testing.T) {
			f.Endpoints = c.in
			ps := h.PlanImport(h.picture, func(record.NetworkID) *record.Net { return net }, []registry.Foreign{f})
			p := ps[0].Endpoints[len(c.in)-1]
			if p.Action != c.action || !strings.Contains(p.Reason, c.reason) || (c.reason == "") != (p.Reason == "") {
				t.Errorf("%d: %s", p.Action, p.Reason)
			}

			// And the plan is what is done
			done := importNetwork(t, h, f)
			if got := done.Endpoints[len(c.in)-1]; got.Action != c.action || got.Reason != p.Reason {
				t.Errorf("done %d: %s", got.Action, got.Reason)
			}
			check(t, h.st)
			var names []string
			for _, e := range done.Endpoints {
				if e.Action == registry.Create {
					names = append(names, e.Name)
				}
			}
			if len(names) > 0 {
				if _, err := h.ReleaseKept(t.Context(), h.as, n.ID, names); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}
