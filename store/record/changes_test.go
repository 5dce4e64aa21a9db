package record

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"weft/store"
)

// putOf is a record as a store has it.
func putOf(t testing.TB, k store.Key, rev store.Rev, r any) store.Entry {
	t.Helper()
	b, err := Encode(r)
	if err != nil {
		t.Fatal(err)
	}
	return store.Entry{Key: k, Value: b, Rev: rev}
}

func netPut(t testing.TB, rev store.Rev, eps ...*Endpoint) store.Batch {
	t.Helper()
	b := store.Batch{Rev: rev}
	for _, ep := range eps {
		b.Puts = append(b.Puts, putOf(t, EndpointKey("n", ep.ID), rev, ep))
	}
	return b
}

func endpointChanges(is, was *Snapshot) []string {
	var out []string
	for a, b := range is.EndpointChanges(was) {
		name := func(e *Endpoint) string {
			if e == nil {
				return "-"
			}
			return fmt.Sprintf("%s/%v", e.Name, e.Running)
		}
		out = append(out, name(a)+" "+name(b))
	}
	slices.Sort(out)
	return out
}

// Given two pictures, then their difference is what was written, whether the later one comes from the earlier one or was read anew.
func TestEndpointsThatTwoPicturesHaveDifferently(t *testing.T) {
	t.Parallel()
	ep := func(id string, running bool) *Endpoint {
		return &Endpoint{ID: EndpointID(id), Network: "n", Host: "h", Sandbox: SandboxID(id), Name: id, Running: running}
	}
	const part = "net/n"
	before := Empty().Apply(part, netPut(t, 1, ep("a", true), ep("b", true), ep("c", true)))
	after := before.Apply(part, netPut(t, 2, ep("b", false), ep("d", true)))
	after = after.Apply(part, store.Batch{Rev: 3, Dels: []store.Key{EndpointKey("n", "a")}})
	anew := Empty().Apply(part, netPut(t, 3, ep("b", false), ep("d", true)))
	for name, tt := range map[string]struct {
		was, is *Snapshot
		want    []string
	}{
		"the same":                       {before, before, nil},
		"changed":                        {before, after, []string{"- d/true", "a/true -", "b/true b/false"}},
		"unknown before":                 {Empty(), after, nil},
		"not followed any more":          {before, before.Drop(part), nil},
		"read anew, with another record": {before, anew, []string{"- d/true", "a/true -", "b/true b/false", "c/true -"}},
	} {
		if got := endpointChanges(tt.is, tt.was); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}

func TestNetworksAndHostsThatTwoPicturesHaveDifferently(t *testing.T) {
	t.Parallel()
	net := func(rev store.Rev, id string) store.Entry {
		return putOf(t, NetworkKey(NetworkID(id)), rev, &Network{ID: NetworkID(id), Name: id, State: Active})
	}
	before := Empty().Apply(store.Meta, store.Batch{Rev: 1, Puts: []store.Entry{net(1, "a"), net(1, "b"), putOf(t, HostKey("h"), 1, &Host{ID: "h", VTEP: netip.MustParseAddr("192.0.2.1")})}})
	after := before.Apply(store.Meta, store.Batch{Rev: 2, Puts: []store.Entry{net(2, "c")}, Dels: []store.Key{NetworkKey("a"), HostKey("h")}})
	got := map[string]string{}
	for was, is := range after.NetworkChanges(before) {
		switch {
		case was == nil:
			got[string(is.ID)] = "made"
		case is == nil:
			got[string(was.ID)] = "removed"
		default:
			got[string(is.ID)] = "changed"
		}
	}
	for was, is := range after.HostChanges(before) {
		if was == nil || is != nil {
			t.Errorf("a host: %v, %v", was, is)
			continue
		}
		got[string(was.ID)] = "removed"
	}
	if want := map[string]string{"a": "removed", "c": "made", "h": "removed"}; !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	for range after.NetworkChanges(Empty()) {
		t.Error("a picture that nobody had read yet differs")
	}
}

// The work for one change does not grow with the network: nearly all parts are passed over.
func TestChangesOfALargeNetworkAreFoundInAFewOfItsParts(t *testing.T) {
	t.Parallel()
	eps := make([]*Endpoint, 0, 10_000)
	for i := range cap(eps) {
		eps = append(eps, &Endpoint{ID: EndpointID(fmt.Sprint("e", i)), Network: "n", Host: "h", Sandbox: "s", Name: fmt.Sprint("e", i)})
	}
	before := Empty().Apply("net/n", netPut(t, 1, eps...))
	after := before.Apply("net/n", netPut(t, 2, &Endpoint{ID: "e7", Network: "n", Host: "h", Sandbox: "s", Name: "e7", Running: true}))
	if got := endpointChanges(after, before); !slices.Equal(got, []string{"e7/false e7/true"}) {
		t.Fatalf("%q", got)
	}
	is, _ := after.Net("n")
	was, _ := before.Net("n")
	shared := 0
	for i := range shards {
		if is.shares(was, i) {
			shared++
		}
	}
	if shared != shards-1 {
		t.Errorf("%d of %d parts are passed over", shared, shards)
	}
}
