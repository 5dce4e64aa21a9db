package agent

import (
	"fmt"
	"maps"
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"weft/kernel"
	"weft/overlay"
	"weft/store/record"
)

// However a network's endpoints change, looking at the changed ones alone leads to the state that rendering everything leads to.
func TestChangesLeadToTheWhole(t *testing.T) {
	settings := overlay.Settings{Self: self, VTEP: ip("192.0.2.1"), VXLANPort: 4789, NetnsDir: "/run/weft/netns"}
	quiet, chatty := network(front, "10.1.0.0/24"), network(front, "10.1.0.0/24")
	chatty.Options = map[string]string{record.OptMulticast: "true"}
	mine := box("mine", in(front, "e0", "10.1.0.2"))
	rapid.Check(t, func(rt *rapid.T) {
		n := []*record.Network{quiet, chatty}[rapid.IntRange(0, 1).Draw(rt, "network")]
		draw := func(label string) map[record.EndpointID]*record.Endpoint {
			out := map[record.EndpointID]*record.Endpoint{"e0": endpointOf(self, 1, mine, mine.Attachments[0])}
			for i := range rapid.IntRange(0, 6).Draw(rt, label) {
				id := record.EndpointID(fmt.Sprintf("e%d", 1+i))
				s := box(string(id), in(front, id, fmt.Sprintf("10.1.0.%d", rapid.IntRange(3, 12).Draw(rt, "addr")+10*i)))
				s.Up = rapid.Bool().Draw(rt, "up")
				s.Attachments[0].VIPAliases = [][]string{nil, {"a"}, {"a", "b"}}[rapid.IntRange(0, 2).Draw(rt, "aliases")]
				host := []record.HostID{other, self}[rapid.IntRange(0, 1).Draw(rt, "host")]
				out[id] = endpointOf(host, 1, s, s.Attachments[0])
			}
			return out
		}
		at := func(rev uint64, eps map[record.EndpointID]*record.Endpoint) view {
			var all []*record.Endpoint
			for _, ep := range eps {
				all = append(all, ep)
			}
			return view{
				settings: settings, picture: picture(t, 5, []*record.Network{n}, all...),
				locals: presences(self, 1, boxMap(mine), func(record.SandboxID) string { return "/ns" }),
			}
		}
		before, after := draw("before"), draw("after")
		for i := range 7 {
			id := record.EndpointID(fmt.Sprintf("e%d", i))
			if before[id] != nil && rapid.Bool().Draw(rt, "stays") {
				after[id] = before[id]
			}
		}
		v, w := at(1, before), at(2, after)
		have := v.want(front)
		changed := map[record.EndpointID]bool{}
		for i := range 7 {
			id := record.EndpointID(fmt.Sprintf("e%d", i))
			if !reflect.DeepEqual(before[id], after[id]) {
				changed[id] = true
			}
		}
		shown, _ := v.picture.Net(front)
		want, part := w.changed(front, changed, shown, have)
		got := maps.Clone(have)
		for _, o := range kernel.Diff(want, part) {
			if o.Verb == kernel.Del {
				delete(got, o.Obj.Key)
			} else {
				got[o.Obj.Key] = o.Obj
			}
		}
		if left := kernel.Diff(w.want(front), got); len(left) > 0 {
			rt.Fatalf("still to do: %v", left)
		}
	})
}
