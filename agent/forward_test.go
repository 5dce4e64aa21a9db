package agent

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"weft/agent/event"
	"weft/agent/peer"
	"weft/identity"
	"weft/store"
	"weft/store/record"
)

func TestTheHostThatAReferenceMeans(t *testing.T) {
	t.Parallel()
	h := func(name string) *record.Host { return &record.Host{ID: record.HostID("id-" + name), Name: name} }
	exact := []peer.Found{{ID: "5b1", Name: "web", Exact: true}}
	begins := []peer.Found{{ID: "5b1", Name: "web"}}
	silent := []answer{{host: h("b"), err: peer.ErrSilent}}
	for name, tc := range map[string]struct {
		here    fit
		answers []answer
		want    string // the host's name, "" for this one, or what the error says
	}{
		"an ID here begins so, and nobody else has it":        {fitsPartly, []answer{{host: h("b")}}, ""},
		"an ID here begins so, and it is a name elsewhere":    {fitsPartly, []answer{{host: h("b")}, {host: h("c"), found: exact}}, "c"},
		"an ID here begins so, and one elsewhere":             {fitsPartly, []answer{{host: h("b"), found: begins}}, ""},
		"an ID here begins so, and several elsewhere":         {fitsPartly, []answer{{host: h("b"), found: begins}, {host: h("c"), found: begins}}, ""},
		"an ID here begins so, and it is two names elsewhere": {fitsPartly, []answer{{host: h("b"), found: exact}, {host: h("c"), found: exact}}, "web is ambiguous"},
		"an ID here begins so, and the others are silent":     {fitsPartly, silent, ""},
		"an ID here begins so, and there is nobody":           {fitsPartly, nil, ""},
		"one has it":                      {fitsNot, []answer{{host: h("b"), found: exact}, {host: h("c")}}, "b"},
		"one has an ID that begins so":    {fitsNot, []answer{{host: h("b")}, {host: h("c"), found: begins}}, "c"},
		"a name beats the begin of an ID": {fitsNot, []answer{{host: h("b"), found: begins}, {host: h("c"), found: exact}}, "c"},
		"two have it":                     {fitsNot, []answer{{host: h("c"), found: exact}, {host: h("b"), found: exact}}, "web is ambiguous: hosts b, c have one; say which, as in b/web"},
		"two have IDs that begin so":      {fitsNot, []answer{{host: h("b"), found: begins}, {host: h("c"), found: begins}}, "multiple sandboxes found"},
		"one has two that begin so":       {fitsNot, []answer{{host: h("b"), found: append(begins, begins...)}}, "multiple sandboxes found"},
		"nobody has it":                   {fitsNot, []answer{{host: h("b")}}, "No such sandbox: web"},
		"there is nobody":                 {fitsNot, nil, "No such sandbox: web"},
		"one has it and one is silent":    {fitsNot, []answer{{host: h("b"), err: peer.ErrSilent}, {host: h("c"), found: exact}}, "c"},
		"nobody has it that answers":      {fitsNot, []answer{{host: h("b"), err: peer.ErrSilent}, {host: h("c"), err: peer.ErrOld}}, "No such sandbox: web"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := chooseHost("web", tc.here, tc.answers)
			if err == nil && got == nil {
				got = &record.Host{}
			}
			if err != nil && tc.want != "" && strings.Contains(err.Error(), tc.want) || err == nil && got.Name == tc.want {
				return
			}
			t.Errorf("got %v, %v; want %s", got, err, tc.want)
		})
	}
	var n *nobodyHas
	if _, err := chooseHost("web", fitsNot, []answer{{host: h("b"), err: peer.ErrStranger}, {host: h("c"), err: peer.ErrNoIdentity}}); !errors.As(err, &n) || hostNames(n.silent) != "b" || hostNames(n.without) != "c" {
		t.Errorf("who could not be asked: %+v", n)
	}
}

// What another host's reference means here is what it would mean in a command here, but for namespaces of others.
func TestSandboxesForAnotherHost(t *testing.T) {
	t.Parallel()
	all := map[record.SandboxID]*record.Sandbox{}
	b := newBoxes(nil)
	for id, name := range map[record.SandboxID]string{"5baa1": "web", "5baa2": "db", "5bcc3": "5baa", "77dd4": "WEB2"} {
		all[id] = &record.Sandbox{ID: id, Name: name}
		b.show(all[id])
	}
	for ref, want := range map[string]string{
		"web": "5baa1!", "Web2": "77dd4!", "5baa2": "5baa2!", "5baa": "5bcc3!", "5ba": "5baa1 5baa2", "77": "77dd4", "none": "", "": "", "docker:web": "",
	} {
		var got []string
		for _, f := range findBoxes(all, ref) {
			mark := ""
			if f.Exact {
				mark = "!"
			}
			got = append(got, string(f.ID)+mark)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%q: got %v, want %s", ref, got, want)
		}
		s, err := b.find(ref)
		if one := len(got) == 1; one != (err == nil) || one && strings.TrimSuffix(got[0], "!") != string(s.ID) {
			t.Errorf("%q means %v (%v) here, and %v for others", ref, s, err, got)
		}
	}
}

func TestHowWellAReferenceFits(t *testing.T) {
	t.Parallel()
	all := map[record.SandboxID]*record.Sandbox{}
	for id, name := range map[record.SandboxID]string{"5baa1234567890": "web", "5baa2234567890": "77", "77dd4": "db"} {
		all[id] = &record.Sandbox{ID: id, Name: name}
	}
	for ref, want := range map[string]fit{
		"Web": fitsExactly, "5baa1234567890": fitsExactly, "5baa12345678": fitsExactly, "77": fitsExactly, "5baa1": fitsPartly, "5baa": fitsPartly, "77d": fitsPartly, "none": fitsNot, "": fitsNot,
	} {
		if got := fitOf(all, ref); got != want {
			t.Errorf("%q fits %d, want %d", ref, got, want)
		}
	}
}

type where string

func (w where) Network() string { return "tcp" }
func (w where) String() string  { return string(w) }

func TestWhoIsRefusedIsToldOfOnceAMinute(t *testing.T) {
	t.Parallel()
	clock := &steppedClock{now: time.Unix(1e9, 0)}
	var told []event.Event
	r := &refusals{clock: clock, emit: func(e event.Event) { told = append(told, e) }, name: func(id record.HostID) string { return "host " + string(id) }}
	why := errors.New("the certificate has expired")
	for range 3 {
		r.tell("", where("192.0.2.9:4000"), why)
		r.tell("", where("192.0.2.9:4001"), why) // the same machine
		r.tell("b", where("192.0.2.9:4002"), why)
	}
	if len(told) != 2 || told[0].Attributes["from"] != "192.0.2.9:4000" || told[1].Attributes["name"] != "host b" || told[1].Attributes["reason"] != why.Error() {
		t.Fatalf("told %+v", told)
	}
	clock.now = clock.now.Add(refusalEvery)
	r.tell("b", where("192.0.2.9:4002"), why)
	if len(told) != 3 {
		t.Errorf("after a minute: %+v", told)
	}
	for i := range 2 * maxRefusals {
		r.tell(record.HostID(strings.Repeat("x", i)), where("192.0.2.9:4002"), why)
	}
	if len(r.last) > maxRefusals {
		t.Errorf("%d are remembered", len(r.last))
	}
}

type steppedClock struct{ now time.Time }

func (c *steppedClock) Now() time.Time                       { return c.now }
func (c *steppedClock) After(time.Duration) <-chan time.Time { return nil }

// A certificate is worth what the host's record is worth: none without one, and none with another key than the record's.
func TestWhoIsAMember(t *testing.T) {
	t.Parallel()
	p := record.Empty()
	named := identity.Named{ID: "a"}
	if _, err := memberIn(p, named, "k1", false); !errors.Is(err, peer.ErrUnsettled) {
		t.Errorf("before the first picture: %v", err)
	}
	var puts []store.Entry
	for _, h := range []*record.Host{
		{ID: "a", Name: "alpha", Advertise: "192.0.2.1:2376", VTEP: netip.MustParseAddr("192.0.2.1"), Incarnation: 1, PublicKey: "k1"},
		{ID: "b", Name: "beta", Advertise: "192.0.2.2:2376", VTEP: netip.MustParseAddr("192.0.2.2"), Incarnation: 1},
	} {
		b, err := record.Encode(h)
		if err != nil {
			t.Fatal(err)
		}
		puts = append(puts, store.Entry{Key: record.HostKey(h.ID), Value: b, Rev: 3})
	}
	fence, err := record.Encode(&record.Fence{Host: "b", Incarnation: 1, Revoked: "k7", RevokedBefore: []string{"k6"}})
	if err != nil {
		t.Fatal(err)
	}
	puts = append(puts, store.Entry{Key: record.FenceKey("b"), Value: fence, Rev: 3})
	p = p.Apply(store.Meta, store.Batch{Rev: 3, Resync: true, Puts: puts})
	for name, tc := range map[string]struct {
		named identity.Named
		print string
		want  record.HostID
		words string
		pki   bool
	}{
		"by its ID and key":                                        {named, "k1", "a", "", false},
		"with another key":                                         {named, "k2", "", "another key", false},
		"a record that tells no key":                               {identity.Named{ID: "b"}, "k9", "b", "", false},
		"by the name, of a foreign PKI":                            {identity.Named{DNS: []string{"BETA"}}, "k9", "b", "", false},
		"by the address":                                           {identity.Named{Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}, "k1", "a", "", false},
		"by the address, another key":                              {identity.Named{Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}, "k2", "", "another key", false},
		"another key, of a foreign PKI":                            {identity.Named{DNS: []string{"alpha"}}, "k2", "a", "", true},
		"its key went with its removal, and its record tells none": {identity.Named{ID: "b"}, "k7", "", "was removed", false},
		"so did an earlier one":                                    {identity.Named{ID: "b"}, "k6", "", "was removed", false},
		"of a foreign PKI, too":                                    {identity.Named{DNS: []string{"beta"}}, "k7", "", "was removed", true},
		"removed":                                                  {identity.Named{ID: "c"}, "k1", "", "not in the cluster", false},
		"nobody's name":                                            {identity.Named{DNS: []string{"gamma"}}, "k1", "", "not in the cluster", false},
	} {
		if id, err := memberIn(p, tc.named, tc.print, tc.pki); id != tc.want || (err == nil) != (tc.words == "") || err != nil && !strings.Contains(err.Error(), tc.words) {
			t.Errorf("%s: %q, %v", name, id, err)
		}
	}
}
