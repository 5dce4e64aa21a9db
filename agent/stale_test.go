package agent

import (
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"weft/agent/api"
	"weft/agent/health"
	"weft/agent/journal"
	"weft/agent/peer"
	"weft/agent/registry"
	"weft/store"
	"weft/store/follow"
	"weft/store/record"
)

// owner is a host that is asked about its endpoints.
type owner struct {
	peer.Nobody
	has, unsure bool
	err         error
}

func (o owner) Owns(_ context.Context, _ *record.Host, of []record.EndpointID) (map[record.EndpointID]bool, bool, error) {
	return map[record.EndpointID]bool{of[0]: o.has}, o.unsure, o.err
}

// beside is an agent of host a that sees host b with a session; with key, b has a certificate.
func beside(t *testing.T, key string, peers peer.Peers) *Agent {
	t.Helper()
	p := record.Empty()
	for k, r := range map[store.Key]any{
		record.HostKey("b"):  &record.Host{ID: "b", Name: "beta", Advertise: "192.0.2.2:2376", VTEP: netip.MustParseAddr("192.0.2.2"), Incarnation: 1, PublicKey: key},
		record.AliveKey("b"): &record.Liveness{Host: "b", Incarnation: 1, Instance: "i"},
	} {
		b, err := record.Encode(r)
		if err != nil {
			t.Fatal(err)
		}
		p = p.Apply(k.Partition, store.Batch{Rev: 1, Puts: []store.Entry{{Key: k, Value: b, Rev: 1}}})
	}
	a := &Agent{cfg: Config{StaleGrace: time.Minute}, log: slog.New(slog.DiscardHandler), clock: machineClock{}, peers: peers}
	a.follower = follow.New(follow.Config{Seed: p, Log: a.log})
	a.global = &scope{follower: a.follower}
	a.member = newMember(memberConfig{clock: a.clock}, journal.Identity{Host: "a", Incarnation: 1})
	a.member.set(&registry.Actor{Host: "a", Incarnation: 1}, nil)
	a.health = health.NewWatcher(health.Config{Clock: a.clock})
	return a
}

// Whether a record's sandbox is there, its host says; one that cannot be asked is believed as long as its session lasts.
func TestWhetherARecordsSandboxIsThere(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		key  string
		host record.HostID
		says owner
		want holding
		why  string
	}{
		{"its host has it", "k", "b", owner{has: true}, held, "host beta has it"},
		{"its host has no such sandbox", "k", "b", owner{}, vacant, "host beta says that it has no such sandbox"},
		{"its host is just starting", "k", "b", owner{unsure: true}, unsureHeld, "is just starting"},
		{"its host does not answer", "k", "b", owner{err: peer.ErrSilent}, unsureHeld, "host beta does not answer"},
		{"another machine answers", "k", "b", owner{err: peer.ErrStranger}, unsureHeld, "does not answer"},
		{"this host has no certificate", "k", "b", owner{err: peer.ErrNoIdentity}, held, "is there"},
		{"its agent is an older one", "k", "b", owner{err: peer.ErrOld}, held, "is there"},
		{"its host has no certificate", "", "b", owner{}, held, "is there"},
		{"its host is not in the cluster", "k", "gone", owner{}, vacant, "is not in the cluster"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			a := beside(t, c.key, c.says)
			got, why := a.holdingOf(t.Context(), &record.Endpoint{ID: "ep", Host: c.host})
			if got != c.want || !strings.Contains(why, c.why) {
				t.Errorf("got %d, %q; want %d, %q", got, why, c.want, c.why)
			}
		})
	}
}

// What is listed as stale is what hosts say that they do not have; who does not answer leaves it open.
func TestStaleEndpointsAreAskedFor(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		key  string
		host record.HostID
		says owner
		want string
	}{
		{"its host has it", "k", "b", owner{has: true}, ""},
		{"its host has no such sandbox", "k", "b", owner{}, "no such sandbox there"},
		{"its host is just starting", "k", "b", owner{unsure: true}, ""},
		{"its host does not answer", "k", "b", owner{err: peer.ErrSilent}, ""},
		{"its host has no certificate", "", "b", owner{}, ""},
		{"its host is not in the cluster", "k", "gone", owner{}, "host not in the cluster"},
		{"it is of this host", "k", "a", owner{}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			a := beside(t, c.key, c.says)
			out := a.staleAmong(t.Context(), []api.EndpointView{{Endpoint: &record.Endpoint{ID: "ep", Host: c.host}}})
			if (len(out) == 1) != (c.want != "") || len(out) == 1 && out[0].Stale != c.want {
				t.Errorf("got %+v, want %q", out, c.want)
			}
		})
	}
}

func TestWhatIsInTheWayOfAnAttachment(t *testing.T) {
	t.Parallel()
	ip := netip.MustParseAddr("10.1.0.50")
	net := netOf(t,
		&record.Endpoint{ID: "theirs", Host: "b", Incarnation: 1, Sandbox: "s1", Name: "db", Addrs: []netip.Addr{ip}, MAC: "02:42:0a:01:00:32", StaticMAC: true},
		&record.Endpoint{ID: "ours", Host: "a", Incarnation: 1, Sandbox: "s2", Name: "web", Addrs: []netip.Addr{netip.MustParseAddr("10.1.0.51")}, MAC: "02:42:0a:01:00:33"},
	)
	for name, c := range map[string]struct {
		sandbox string
		at      record.Attachment
		want    string
	}{
		"nothing":                         {"new", record.Attachment{}, ""},
		"its name, in other letters":      {"DB", record.Attachment{}, "container already connected to network net: endpoint db is of host beta"},
		"its address":                     {"new", record.Attachment{IP: ip}, "Address already in use: 10.1.0.50 belongs to db on host beta"},
		"its hardware address":            {"new", record.Attachment{MAC: "02:42:0a:01:00:32"}, "Address already in use: hardware address 02:42:0a:01:00:32 belongs to db on host beta"},
		"a name of this host":             {"web", record.Attachment{}, ""}, // which clears its own
		"what it had itself":              {"db", record.Attachment{Endpoint: "theirs"}, ""},
		"an address that it once had":     {"new", record.Attachment{Addrs: []netip.Addr{ip}}, ""}, // another will do
		"an address that nobody else has": {"new", record.Attachment{IP: netip.MustParseAddr("10.1.0.99")}, ""},
	} {
		got := ""
		if ep, blocks := blocking(net, "a", c.sandbox, c.at); blocks {
			got = ep.says("net", "beta")
		}
		if got != c.want {
			t.Errorf("%s: it says %q, want %q", name, got, c.want)
		}
	}
}

func TestAnEndpointIsFoundByWhatUsersKnowOfIt(t *testing.T) {
	t.Parallel()
	net := netOf(t,
		&record.Endpoint{ID: "e1f", Host: "b", Incarnation: 1, Sandbox: "5a1", Name: "db", Addrs: []netip.Addr{netip.MustParseAddr("10.1.0.2")}, MAC: "02:42:0a:01:00:02"},
		&record.Endpoint{ID: "e2f", Host: "b", Incarnation: 1, Sandbox: "5b1", Name: "web", Addrs: []netip.Addr{netip.MustParseAddr("10.1.0.3")}, MAC: "02:42:0a:01:00:03"},
	)
	for ref, want := range map[string]record.EndpointID{"db": "e1f", "Web": "e2f", "5a1": "e1f", "5b": "e2f", "e1": "e1f", "e2f": "e2f", "nobody": "", "": ""} {
		ep, err := endpointByRef(net, ref)
		if err != nil || (ep == nil) != (want == "") || ep != nil && ep.ID != want {
			t.Errorf("%q: %v, %v; want %q", ref, ep, err, want)
		}
	}
	for _, ref := range []string{"e", "5"} {
		if ep, err := endpointByRef(net, ref); err == nil || !strings.Contains(err.Error(), "multiple endpoints found") {
			t.Errorf("%q: %v, %v; want that it is ambiguous", ref, ep, err)
		}
	}
}

// A mere beginning of the ID of a sandbox here gives way to the name of one elsewhere, and means nothing where the sandbox is not in the network.
func TestTheBeginningOfAnIDGivesWayToAName(t *testing.T) {
	t.Parallel()
	const in, out = record.NetworkID("n"), record.NetworkID("m")
	net := netOf(t,
		&record.Endpoint{ID: "e1f", Host: "b", Incarnation: 1, Sandbox: "5a1", Name: "b", Addrs: []netip.Addr{netip.MustParseAddr("10.1.0.2")}, MAC: "02:42:0a:01:00:02"},
		&record.Endpoint{ID: "e2f", Host: "a", Incarnation: 1, Sandbox: "bb1", Name: "client", Addrs: []netip.Addr{netip.MustParseAddr("10.1.0.3")}, MAC: "02:42:0a:01:00:03"},
	)
	s := &record.Sandbox{ID: "bb1", Name: "client", Attachments: []record.Attachment{{Network: in}}}
	for name, c := range map[string]struct {
		ref  string
		how  fit
		net  *record.Net
		of   record.NetworkID
		want bool
	}{
		"its name":                           {"client", fitsExactly, net, in, true},
		"its name, in another network":       {"client", fitsExactly, net, out, true},
		"a container of Docker's":            {"docker:c", fitsNot, net, out, true},
		"a beginning":                        {"bb", fitsPartly, net, in, true},
		"a beginning that is another's name": {"b", fitsPartly, net, in, false},
		"a beginning, in another network":    {"bb", fitsPartly, net, out, false},
		"a beginning, and nothing is known":  {"b", fitsPartly, nil, in, true},
	} {
		if got := meant(s, c.how, c.net, c.of, c.ref); got != c.want {
			t.Errorf("%s: %t, want %t", name, got, c.want)
		}
	}
}

// Two hosts of one name are told apart by their IDs, at both.
func TestHostsOfOneName(t *testing.T) {
	t.Parallel()
	p := record.Empty()
	for i, name := range []string{"alpha", "Alpha", "beta"} {
		id := record.HostID(strings.Repeat(string(rune('a'+i)), 32))
		b, err := record.Encode(&record.Host{ID: id, Name: name, Advertise: "192.0.2.1:2376", VTEP: netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}), Incarnation: 1})
		if err != nil {
			t.Fatal(err)
		}
		p = p.Apply(store.Meta, store.Batch{Rev: 1, Puts: []store.Entry{{Key: record.HostKey(id), Value: b, Rev: 1}}})
	}
	notes := map[string]string{}
	for h := range p.Hosts() {
		notes[h.Name] = twinNote(p, h)
	}
	if notes["beta"] != "" || !strings.Contains(notes["alpha"], "bbbbbbbbbbbb at 192.0.2.2") || !strings.Contains(notes["Alpha"], "aaaaaaaaaaaa at 192.0.2.1") {
		t.Errorf("the notes are %q", notes)
	}
}

// A jump of the machine's clock changes no span: the times that are compared carry the monotonic reading, which fmt shows.
func TestTheAgentsTimesAreMonotonic(t *testing.T) {
	t.Parallel()
	if now := (machineClock{}).Now(); !strings.Contains(now.String(), " m=+") {
		t.Errorf("%s has no monotonic reading", now)
	}
}
