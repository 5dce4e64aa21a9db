package registry_test

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"weft/agent/registry"
	"weft/store"
	"weft/store/memory"
	"weft/store/record"
)

func deleting(t *testing.T, h *host, n *record.Network) {
	t.Helper()
	half := *n
	half.State, half.Deleter = record.Deleting, &record.Deleter{Host: "other", Incarnation: 1}
	write(t, h, &half)
}

func write(t *testing.T, h *host, n *record.Network) {
	t.Helper()
	b, err := record.Encode(n)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.st.Txn(t.Context(), store.Txn{Then: []store.Op{store.Put(record.NetworkKey(n.ID), b)}}); err != nil {
		t.Fatal(err)
	}
}

// Given a network that is being removed, an attach waits for the end of that and goes by it, whatever the picture says.
func TestAnAttachWaitsForARemovalToEnd(t *testing.T) {
	for name, tc := range map[string]struct {
		look bool // the picture has the removal, too
		end  func(*testing.T, *host, *record.Network)
		kind registry.Kind // 0: it attaches
	}{
		"undone":              {false, write, 0},
		"undone, as seen":     {true, write, 0},
		"done":                {false, remove, registry.NotFound},
		"done, as seen":       {true, remove, registry.NotFound},
		"not within its time": {true, func(*testing.T, *host, *record.Network) {}, registry.InUse},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, memory.New(), "a")
			n := create(t, h, spec("net", "10.1.0.0/24"))
			deleting(t, h, n)
			if tc.look {
				h.look(t, n.ID)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			if tc.kind == registry.InUse {
				ctx, cancel = context.WithTimeout(t.Context(), 80*time.Millisecond)
			}
			defer cancel()
			began, done := time.Now(), make(chan error, 1)
			go func() {
				_, err := h.CreateEndpoint(ctx, h.as, endpoint(n, h, "c1", "10.1.0.2"))
				done <- err
			}()
			select {
			case err := <-done:
				t.Fatalf("it did not wait: %v", err)
			case <-time.After(60 * time.Millisecond):
			}
			tc.end(t, h, n)
			err := <-done
			if registry.KindOf(err) != tc.kind || (err == nil) != (tc.kind == 0) {
				t.Errorf("after %v: %v, want kind %d", time.Since(began), err, tc.kind)
			}
			check(t, h.st)
		})
	}
}

func remove(t *testing.T, h *host, n *record.Network) {
	t.Helper()
	if err := h.FinishRemoval(t.Context(), h.as, n.ID); err != nil {
		t.Fatal(err)
	}
}

func words(n int, format string) (out []string) {
	for i := range n {
		out = append(out, fmt.Sprintf(format, i>>8, i&255))
	}
	return out
}

func aux(n int) map[string]string {
	out := map[string]string{}
	for _, a := range words(n, "10.1.%d.%d") {
		if a != "10.1.0.0" {
			out["nas-"+a] = a
		}
	}
	return out
}

// However much a user asks for, it is one transaction within the store's limits, or a refusal that says what is too long.
func TestWhatIsTooLongIsRefusedAndWhatIsLongIsNot(t *testing.T) {
	for name, tc := range map[string]struct {
		spec registry.NetworkSpec
		want string // "" : it is made
	}{
		"many subnets":          {registry.NetworkSpec{Subnets: words(200, "10.%d.%d.0/24")}, ""},
		"too many subnets":      {registry.NetworkSpec{Subnets: words(1500, "10.%d.%d.0/24")}, "definition of network net"},
		"far too many subnets":  {registry.NetworkSpec{Subnets: words(60_000, "10.%d.%d.0/24")}, "definition of network net"},
		"many auxiliary":        {registry.NetworkSpec{Subnets: []string{"10.1.0.0/16"}, Aux: aux(1200)}, ""},
		"too many auxiliary":    {registry.NetworkSpec{Subnets: []string{"10.1.0.0/16"}, Aux: aux(2500)}, "auxiliary addresses"},
		"far too many of those": {registry.NetworkSpec{Subnets: []string{"10.1.0.0/16"}, Aux: aux(60_000)}, "auxiliary addresses"},
		"a long label":          {registry.NetworkSpec{Labels: map[string]string{"x": strings.Repeat("y", store.MaxValue)}}, "labels"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, memory.New(), "a")
			tc.spec.Name = "net"
			began := time.Now()
			_, _, _, err := h.CreateNetwork(t.Context(), h.as, tc.spec)
			refused := err != nil && strings.Contains(err.Error(), tc.want) && strings.Contains(err.Error(), "at most 65536") && registry.KindOf(err) == registry.Invalid
			if tc.want == "" && err != nil || tc.want != "" && !refused {
				t.Errorf("got %v (kind %d), want %q", err, registry.KindOf(err), tc.want)
			}
			if d := time.Since(began); d > 5*time.Second {
				t.Errorf("it took %v", d)
			}
			l, err := h.st.List(t.Context(), store.Meta)
			if err != nil || tc.want != "" && len(l.Entries) != 0 {
				t.Errorf("left %d keys, %v", len(l.Entries), err)
			}
		})
	}
}

func TestAnEndpointWithTooManyNamesIsRefused(t *testing.T) {
	h := newHost(t, memory.New(), "a")
	n := create(t, h, spec("net", "10.1.0.0/16"))
	ep := endpoint(n, h, "c1", "10.1.0.2")
	ep.Aliases = words(3000, "alias-%d-%d")
	ep.Addrs = append(ep.Addrs, netip.MustParseAddr("fd00::2"))
	if _, err := h.CreateEndpoint(t.Context(), h.as, ep); err != nil {
		t.Errorf("3,000 aliases: %v", err)
	}
	more := endpoint(n, h, "c2", "10.1.0.3")
	more.Aliases = words(8000, "alias-%d-%d")
	if _, err := h.CreateEndpoint(t.Context(), h.as, more); registry.KindOf(err) != registry.Invalid || !strings.Contains(err.Error(), "endpoint c2 with its aliases") {
		t.Errorf("8,000 aliases: %v", err)
	}
	_, err := h.UpdateEndpoint(t.Context(), h.as, n.ID, ep.ID, func(e *record.Endpoint) { e.Aliases = more.Aliases })
	if registry.KindOf(err) != registry.Invalid {
		t.Errorf("8,000 aliases later: %v", err)
	}
	check(t, h.st)
}

// An unknown outcome must not swallow what the user is to hear.
func TestWarningsOutliveAnUnknownOutcome(t *testing.T) {
	for _, applied := range []bool{true, false} {
		h := newHost(t, memory.New(), "a")
		create(t, h, spec("net", "10.1.0.0/24"))
		h.st.NextUnknown(applied)
		_, warnings, err := h.RegisterHost(t.Context(), record.Host{
			ID: "a", Name: "alpha", VTEP: netip.MustParseAddr("192.0.2.1"), Incarnation: 1,
			Routes: []record.Route{{Prefix: netip.MustParsePrefix("10.0.0.0/8"), Link: "eth7"}},
		})
		if err != nil || len(warnings) != 1 || !strings.Contains(warnings[0], "network net") {
			t.Errorf("applied %v: warnings %q, %v", applied, warnings, err)
		}
	}
}

func TestARegistrationIsRefused(t *testing.T) {
	h := newHost(t, memory.New(), "a")
	rec := record.Host{ID: "a", Name: "alpha", VTEP: netip.MustParseAddr("192.0.2.1"), Incarnation: 5}
	if _, _, err := h.RegisterHost(t.Context(), rec); err != nil {
		t.Fatal(err)
	}
	rec.Incarnation = 4
	if _, _, err := h.RegisterHost(t.Context(), rec); registry.KindOf(err) != registry.Lost || !strings.Contains(err.Error(), "old copy") {
		t.Errorf("an older incarnation: %v", err)
	}
	b, err := record.Encode(&record.Fence{Host: "a", Incarnation: 5})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.st.Txn(t.Context(), store.Txn{Then: []store.Op{store.Put(record.FenceKey("a"), b)}}); err != nil {
		t.Fatal(err)
	}
	rec.Incarnation = 5
	if _, _, err := h.RegisterHost(t.Context(), rec); registry.KindOf(err) != registry.Cleared || !strings.Contains(err.Error(), "was cleared") {
		t.Errorf("behind its fence: %v", err)
	}
	rec.Incarnation = 6
	if _, _, err := h.RegisterHost(t.Context(), rec); err != nil {
		t.Errorf("its next incarnation: %v", err)
	}
}

func TestALivenessIsTakenOverOrWaitedForAndNeverShared(t *testing.T) {
	w := memory.New()
	h := newHost(t, w, "a")
	life := registry.Life{Liveness: record.Liveness{Host: "a", Incarnation: 1, Instance: "x"}, TTL: 200 * time.Millisecond}
	first, err := h.OpenLiveness(t.Context(), life)
	if err != nil {
		t.Fatal(err)
	}
	second := newHost(t, w, "a")
	life.Resume = first.ID()
	over, err := second.OpenLiveness(t.Context(), life)
	if err != nil || over.ID() != first.ID() {
		t.Fatalf("taken over: %v", err)
	}
	over.Leave()
	life.Resume = ""
	third, err := second.OpenLiveness(t.Context(), life)
	if err != nil {
		t.Fatalf("its predecessor left without a word: %v", err)
	}
	// third is renewed: whoever comes now is a second agent, and waits no longer than a session can outlive its holder.
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := newHost(t, w, "a").OpenLiveness(ctx, life); err == nil {
		t.Error("two agents share one host ID")
	}
	if err := third.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

func FuzzSpec(f *testing.F) {
	f.Add("net", "10.1.0.0/24", "10.1.0.1", "10.1.0.0/25", "10.1.0.9", registry.OptMTU, "1400", false)
	f.Add("net", "fd00:1::/64", "fd00:1::1", "fd00:1::/80", "fd00:1::9", registry.OptMTU, "1280", true)
	f.Add("Host", "", "", "", "", registry.OptRouteOverlap, "maybe", true)
	f.Add("a/b", "10.1.0.0/7", "x", "10.1.0.0/33", "::", "encrypted", "", false)
	f.Fuzz(func(t *testing.T, name, subnet, gateway, ipRange, auxiliary, opt, value string, ipv6 bool) {
		h := newHost(t, memory.New(), "a")
		s := registry.NetworkSpec{Name: name, IPv6: ipv6, Options: map[string]string{opt: value}}
		if subnet != "" {
			s.Subnets, s.Gateways, s.IPRanges, s.Aux = []string{subnet}, []string{gateway}, []string{ipRange}, map[string]string{"x": auxiliary}
		}
		n, _, _, err := h.CreateNetwork(t.Context(), h.as, s)
		if err != nil && registry.KindOf(err) == 0 {
			t.Errorf("%+v: an error that is no refusal: %v", s, err)
		}
		pools := map[bool]int{false: 1, true: 2}[ipv6]
		if err == nil && (n.MTU < 576 || len(n.Pools) != pools || !n.Pools[0].Subnet.Contains(n.Pools[0].Gateway) || !n.Pools[pools-1].Subnet.Contains(n.Pools[pools-1].Gateway)) {
			t.Errorf("accepted %+v as %+v", s, n)
		}
		check(t, h.st)
	})
}
