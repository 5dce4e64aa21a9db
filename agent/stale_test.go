package agent

import (
	"net/netip"
	"testing"
	"time"

	"weft/store"
	"weft/store/record"
)

// lossPicture is one of hosts, of which some are alive.
func lossPicture(t *testing.T, alive ...record.HostID) *record.Snapshot {
	t.Helper()
	put := func(s *record.Snapshot, k store.Key, r any) *record.Snapshot {
		b, err := record.Encode(r)
		if err != nil {
			t.Fatal(err)
		}
		return s.Apply(k.Partition, store.Batch{Rev: 1, Puts: []store.Entry{{Key: k, Value: b, Rev: 1}}})
	}
	s := record.Empty()
	for _, id := range []record.HostID{"a", "b"} {
		s = put(s, record.HostKey(id), &record.Host{ID: id, Name: string(id), Advertise: "192.0.2.1:2376", VTEP: netip.MustParseAddr("192.0.2.1"), Incarnation: 1})
	}
	for _, id := range alive {
		s = put(s, record.AliveKey(id), &record.Liveness{Host: id, Incarnation: 1, Instance: "i"})
	}
	return s
}

// How long a host has been lost counts from when it was seen, never while nobody could be seen.
func TestHowLongAHostHasBeenLost(t *testing.T) {
	t.Parallel()
	const settled = 15 * time.Second
	both, a := lossPicture(t, "a", "b"), lossPicture(t, "a")
	type look struct {
		at      time.Duration
		picture *record.Snapshot
		joined  bool
		want    time.Duration // of b; 1 stands for "just now", -1 for "nobody can tell yet"
	}
	for name, looks := range map[string][]look{
		"alive":                      {{0, both, true, 0}, {time.Hour, both, true, 0}},
		"lost":                       {{0, both, true, 0}, {time.Minute, a, true, 1}, {2 * time.Minute, a, true, time.Minute}},
		"lost and back":              {{0, both, true, 0}, {time.Minute, a, true, 1}, {2 * time.Minute, both, true, 0}, {3 * time.Minute, a, true, 1}},
		"lost before this one came":  {{0, a, true, -1}, {10 * time.Second, a, true, -1}, {15 * time.Second, a, true, 1}, {25 * time.Second, a, true, 10 * time.Second}},
		"the store was away":         {{0, both, true, 0}, {time.Minute, a, true, 1}, {2 * time.Minute, a, false, -1}, {3 * time.Minute, a, true, -1}, {3*time.Minute + 20*time.Second, a, true, 5 * time.Second}},
		"while the store is away":    {{0, both, true, 0}, {time.Minute, a, false, -1}, {time.Hour, a, false, -1}},
		"an agent that never joined": {{0, a, false, -1}, {time.Minute, both, false, 0}},
	} {
		var l losses
		began := time.Unix(1, 0)
		for _, x := range looks {
			got, unsure := l.look(x.picture, x.joined, settled, began.Add(x.at), "b")
			if unsure {
				got = -1
			}
			if got != x.want {
				t.Errorf("%s: after %s it has been lost for %s, want %s", name, x.at, got, x.want)
			}
		}
		if got, unsure := l.look(both, true, settled, began, "nobody"); got != 0 || unsure {
			t.Errorf("%s: a host that nobody knows has been lost for %s", name, got)
		}
	}
}
