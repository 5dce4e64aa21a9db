package registry_test

import (
	"net/netip"
	"testing"

	"weft/agent/registry"
	"weft/store/memory"
	"weft/store/record"
)

// A key that went with a host's removal is never its key again, also where the host has registered without one, or with others, and was removed
// once more.
func TestTheKeysOfAHostThatWasRemovedAgainAndAgain(t *testing.T) {
	w := memory.New()
	other := enlisted(t, w, 2)
	h := newHost(t, w, "h1")
	registers := func(incarnation uint64, key string) (kept string) {
		t.Helper()
		_, _, err := h.RegisterHost(t.Context(), record.Host{ID: h.as.Host, Name: "h1", VTEP: netip.MustParseAddr("192.0.2.1"), Incarnation: incarnation, PublicKey: key})
		if err != nil {
			t.Fatal(err)
		}
		h.look(t)
		r, _ := h.picture.Host(h.as.Host)
		return r.PublicKey
	}
	for i, step := range []struct{ shows, kept string }{{"k1", "k1"}, {"k1", ""}, {"k1", ""}, {"k2", "k2"}, {"k1", ""}, {"k2", ""}, {"k3", "k3"}} {
		if kept := registers(uint64(i+1), step.shows); kept != step.kept {
			t.Errorf("life %d shows key %s, and its record has %q, want %q", i+1, step.shows, kept, step.kept)
		}
		f, err := other.FenceHost(t.Context(), other.as, h.as.Host, registry.Fencing{Live: true, Remove: true})
		if err != nil || f == nil {
			t.Fatalf("life %d: %v, %v", i+1, f, err)
		}
		if err := other.ClearHost(t.Context(), other.as, f, nil); err != nil {
			t.Fatal(err)
		}
	}
	h.look(t)
	for key, want := range map[string]bool{"k1": true, "k2": true, "k3": true, "k4": false, "": false} {
		if got := h.picture.Revoked(key); got != want {
			t.Errorf("key %q is revoked: %v", key, got)
		}
	}
}
