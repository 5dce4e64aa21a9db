package record_test

import (
	"strings"
	"testing"

	"weft/store/record"
)

// Hosts of several versions write the same records: what a later one has added outlives a rewrite by an older one, in each kind of record.
func TestEachKindOfRecordKeepsWhatALaterVersionHasAdded(t *testing.T) {
	t.Parallel()
	const when = `"2026-01-02T03:04:05Z"`
	type rec interface{ Decode([]byte) error }
	for name, tc := range map[string]struct {
		r  rec
		in string
	}{
		"cluster":   {new(record.Cluster), `"id":"c","created":` + when},
		"network":   {new(record.Network), `"id":"n","name":"a","driver":"overlay","scope":"global","created":` + when + `,"pools":[],"mtu":1450,"state":"active"`},
		"host":      {new(record.Host), `"id":"h","name":"a","vtep":"192.0.2.1","incarnation":1,"started":` + when},
		"fence":     {new(record.Fence), `"host":"h","incarnation":1,"by":"b","at":` + when},
		"liveness":  {new(record.Liveness), `"host":"h","incarnation":1,"instance":"i"`},
		"endpoint":  {new(record.Endpoint), `"id":"e","network":"n","host":"h","incarnation":1,"sandbox":"s","name":"a","created":` + when},
		"sandbox":   {new(record.Sandbox), `"id":"s","name":"a","created":` + when + `,"status":"created"`},
		"cleared":   {new(record.Cleared), `"endpoint":"e","network":"n","host":"h","name":"a","by":"b","at":` + when},
		"authority": {new(record.Authority), `"certificate":"PEM","host":"h"`},
		"kept":      {new(record.Kept), `"id":"e","network":"n","name":"a","addrs":["10.0.0.9"],"created":` + when},
		"vip":       {new(record.VIP), `"alias":"a","network":"n","addrs":["10.0.0.9"]`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if err := tc.r.Decode([]byte(`{"v":1,` + tc.in + `,"later":{"x":[1,2]},"more":"y"}`)); err != nil {
				t.Fatal(err)
			}
			out, err := record.Encode(tc.r)
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range []string{`"later":{"x":[1,2]}`, `"more":"y"`, `"v":1`} {
				if !strings.Contains(string(out), want) {
					t.Errorf("%s is missing in %s", want, out)
				}
			}
		})
	}
}

func TestAHostsNewRecordKeepsWhatIsNotKnownOfTheOldOne(t *testing.T) {
	t.Parallel()
	var old record.Host
	if err := old.Decode([]byte(`{"v":1,"id":"h","name":"a","vtep":"192.0.2.1","incarnation":1,"started":"2026-01-02T03:04:05Z","later":7}`)); err != nil {
		t.Fatal(err)
	}
	now := record.Host{ID: "h", Name: "b", VTEP: old.VTEP, Incarnation: 2}
	now.KeepUnknown(&old)
	out, err := record.Encode(&now)
	if err != nil || !strings.Contains(string(out), `"later":7`) || !strings.Contains(string(out), `"name":"b"`) {
		t.Errorf("%s, %v", out, err)
	}
}
