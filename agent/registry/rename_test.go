package registry_test

import (
	"errors"
	"testing"

	"weft/agent/registry"
	"weft/store/memory"
	"weft/store/record"
)

// A name moves with its endpoint's record, in one transaction: it has one owner at any time, also where the outcome of the move was unknown.
func TestRename(t *testing.T) {
	w := memory.New()
	a, b := newHost(t, w, "a"), newHost(t, w, "b")
	n := create(t, a, spec("front", "10.1.0.0/24"))
	a.look(t, n.ID)
	b.look(t, n.ID)
	first, second := endpoint(n, a, "c1", "10.1.0.2"), endpoint(n, b, "c2", "10.1.0.3")
	if _, err := a.CreateEndpoint(t.Context(), a.as, first); err != nil {
		t.Fatal(err)
	}
	if _, err := b.CreateEndpoint(t.Context(), b.as, second); err != nil {
		t.Fatal(err)
	}
	rename := func(to string) error {
		_, err := a.UpdateEndpoint(t.Context(), a.as, n.ID, first.ID, func(e *record.Endpoint) { e.Name = to })
		return err
	}
	var taken *registry.NameTakenError
	if err := rename("C2"); !errors.As(err, &taken) || taken.Owner.ID != second.ID || taken.Host != "b" { // a's picture does not show it
		t.Errorf("to another's: %v", err)
	}
	check(t, a.st)
	for _, applied := range []bool{true, false} {
		for _, to := range []string{"c3", "C3", "c1"} { // one of them by its case alone
			a.st.NextUnknown(applied)
			if err := rename(to); err != nil {
				t.Errorf("to %s, applied %v: %v", to, applied, err)
			}
			check(t, a.st)
		}
	}
	if err := rename("c3"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.CreateEndpoint(t.Context(), b.as, endpoint(n, b, "c1", "10.1.0.4")); err != nil {
		t.Errorf("the old name is not free: %v", err)
	}
	b.look(t, n.ID)
	if _, err := b.CreateEndpoint(t.Context(), b.as, endpoint(n, b, "c3", "10.1.0.5")); !errors.As(err, &taken) {
		t.Errorf("the new name is free: %v", err)
	}
	check(t, a.st)
	a.look(t, n.ID)
	if _, err := a.DeleteEndpoint(t.Context(), a.as, n.ID, first.ID); err != nil {
		t.Fatal(err)
	}
	check(t, a.st)
}
