package registry_test

import (
	"errors"
	"testing"

	"weft/agent/registry"
	"weft/store/memory"
	"weft/store/record"
)

// A hardware address that was asked for has one owner in a network; it goes with its endpoint, or when the endpoint has another.
func TestHardwareAddressesHaveOneOwner(t *testing.T) {
	w := memory.New()
	a, b := newHost(t, w, "a"), newHost(t, w, "b")
	n := create(t, a, spec("front", "10.1.0.0/24"))
	other := create(t, a, spec("back", "10.2.0.0/24"))
	a.look(t, n.ID, other.ID)
	b.look(t, n.ID, other.ID)
	of := func(h *host, n *record.Network, name, addr string, m record.MAC) *record.Endpoint {
		ep := endpoint(n, h, name, addr)
		ep.MAC, ep.StaticMAC = m, true
		return ep
	}
	const mac = "02:00:00:00:00:01"
	first := of(a, n, "c1", "10.1.0.2", mac)
	if _, err := a.CreateEndpoint(t.Context(), a.as, first); err != nil {
		t.Fatal(err)
	}
	second := of(b, n, "c2", "10.1.0.3", mac) // b's picture does not show the first
	_, err := b.CreateEndpoint(t.Context(), b.as, second)
	var taken *registry.MACTakenError
	if !errors.As(err, &taken) || taken.Owner != "c1" || registry.KindOf(err) != registry.Exists {
		t.Fatalf("a second owner: %v", err)
	}
	if _, err := b.CreateEndpoint(t.Context(), b.as, of(b, other, "c2", "10.2.0.3", mac)); err != nil {
		t.Errorf("in another network: %v", err)
	}
	second.MAC = "02:00:00:00:00:02"
	if _, err := b.CreateEndpoint(t.Context(), b.as, second); err != nil {
		t.Fatal(err)
	}
	check(t, a.st)

	_, err = b.UpdateEndpoint(t.Context(), b.as, n.ID, second.ID, func(e *record.Endpoint) { e.MAC = mac })
	if !errors.As(err, &taken) {
		t.Errorf("an update to another's: %v", err)
	}
	if _, err := a.UpdateEndpoint(t.Context(), a.as, n.ID, first.ID, func(e *record.Endpoint) { e.MAC = "02:00:00:00:00:03" }); err != nil {
		t.Fatal(err)
	}
	if _, err := b.UpdateEndpoint(t.Context(), b.as, n.ID, second.ID, func(e *record.Endpoint) { e.MAC = mac }); err != nil {
		t.Errorf("an update to one that was given up: %v", err)
	}
	check(t, a.st)
	for h, ep := range map[*host]*record.Endpoint{a: first, b: second} {
		h.look(t, n.ID)
		if _, err := h.DeleteEndpoint(t.Context(), h.as, n.ID, ep.ID); err != nil {
			t.Fatal(err)
		}
	}
	l, err := a.st.List(t.Context(), record.NetPartition(n.ID))
	if err != nil || len(l.Entries) > 0 {
		t.Errorf("left: %v, %v", l.Entries, err)
	}
}
