package registry_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"weft/store"
	"weft/store/memory"
	"weft/store/record"
)

// A host whose program was set back to an older version registers again, and loses nothing of what the later one had written.
func TestAHostsRecordKeepsWhatALaterVersionHasAdded(t *testing.T) {
	t.Parallel()
	h := newHost(t, memory.New(), "a")
	later := `{"v":1,"id":"a","name":"a","vtep":"192.0.2.1","incarnation":1,"started":"2026-01-02T03:04:05Z","later":7}`
	if _, err := h.st.Txn(t.Context(), store.Txn{Then: []store.Op{store.Put(record.HostKey("a"), []byte(later))}}); err != nil {
		t.Fatal(err)
	}
	h.look(t)
	self := record.Host{ID: "a", Name: "b", VTEP: netip.MustParseAddr("192.0.2.1"), Incarnation: 1, Started: time.Unix(1, 0)}
	if _, _, err := h.RegisterHost(t.Context(), self); err != nil {
		t.Fatal(err)
	}
	e, err := h.st.Get(t.Context(), record.HostKey("a"))
	if err != nil || !strings.Contains(string(e.Value), `"later":7`) || !strings.Contains(string(e.Value), `"name":"b"`) {
		t.Errorf("%s, %v", e.Value, err)
	}
}
