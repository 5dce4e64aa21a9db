package registry_test

import (
	"errors"
	"testing"
	"time"

	"weft/agent/registry"
	"weft/store"
	"weft/store/memory"
	"weft/store/record"
)

// live opens a host's session, and returns what ends it.
func live(t *testing.T, h *host) (end func()) {
	t.Helper()
	s, err := h.OpenLiveness(t.Context(), registry.Life{
		Liveness: record.Liveness{Host: h.as.Host, Incarnation: 1, Instance: "i"}, TTL: time.Minute,
	})
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := s.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAnEndpointOfAnotherHostIsCleared(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name         string
		alive, force bool // the owner has a session; it is cleared all the same
		refused      bool
	}{
		{"of a host that is gone", false, false, false},
		{"of a host that is alive", true, false, true},
		{"of a host that is alive, by force", true, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := memory.New()
			owner, other := newHost(t, w, "owner"), newHost(t, w, "other")
			n := create(t, owner, spec("web", "10.1.0.0/24"))
			ep := endpoint(n, owner, "db", "10.1.0.9")
			if _, err := owner.CreateEndpoint(t.Context(), owner.as, ep); err != nil {
				t.Fatal(err)
			}
			end := live(t, owner)
			if !c.alive {
				end()
			}
			other.look(t, n.ID)

			_, done, err := other.ClearEndpoint(t.Context(), other.as, n.ID, ep.ID, registry.Clearing{Live: c.force, Word: true})

			other.look(t, n.ID)
			net, _ := other.picture.Net(n.ID)
			word, told := other.picture.Cleared(ep.ID)
			if c.refused {
				if registry.KindOf(errors.Unwrap(err)) != registry.InUse || !net.NameTaken("db") || told {
					t.Errorf("got %v; the name is taken: %v, the word is there: %v; want a refusal and nothing changed", err, net.NameTaken("db"), told)
				}
				return
			}
			if err != nil || !done || net.Len() > 0 || net.NameTaken("db") || net.Taken(ep.Addrs[0]) {
				t.Errorf("got %v, and %d endpoints; want none, and no claim", err, net.Len())
			}
			if !told || word.Host != "owner" || word.By != "other" || word.Name != "db" || word.Network != n.ID {
				t.Errorf("the word for the owner is %+v", word)
			}
			check(t, other.st)

			// A second time is no error, and leaves no second word; what the owner has obeyed is gone.
			if err := owner.Obeyed(t.Context(), owner.as, ep.ID); err != nil {
				t.Error(err)
			}
			if _, done, err := other.ClearEndpoint(t.Context(), other.as, n.ID, ep.ID, registry.Clearing{Live: c.force, Word: true}); err != nil || done {
				t.Errorf("a second time: %v, %v", done, err)
			}
			if _, err := other.st.Get(t.Context(), record.ClearedKey(ep.ID)); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("the word for the owner: %v, want that it is gone", err)
			}
			if err := owner.Obeyed(t.Context(), owner.as, ep.ID); err != nil {
				t.Error(err)
			}
		})
	}
}
