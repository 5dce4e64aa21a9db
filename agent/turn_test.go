package agent

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"weft/kernel"
	"weft/overlay"
	"weft/port"
	"weft/store/record"
)

// A port that is something else to its sandbox now changes its own routes and rules, and nothing that is the network's or another port's.
func TestAPortThatTurnsChangesItsRoutesAlone(t *testing.T) {
	n := dual(front, "10.1.0.0/24", "fd00:1::/64")
	s, other := box("a", in(front, "e1", "10.1.0.2", "fd00:1::2")), box("b", in(front, "e2", "10.1.0.3", "fd00:1::3"))
	v := view{
		settings: overlay.Settings{Self: self, VTEP: ip("192.0.2.1"), VXLANPort: 4789, NetnsDir: "/run/weft/netns"},
		picture:  picture(t, 5, []*record.Network{n}),
		locals:   presences(self, 1, boxMap(s, other), func(id record.SandboxID) string { return "/ns/" + string(id) }),
	}
	whole, ok := v.network(front)
	if !ok {
		t.Fatal("the network is not here")
	}
	have := v.want(front)
	i := slices.IndexFunc(whole.Ports, func(p port.Port) bool { return p.Endpoint.ID == "e1" })
	p := whole.Ports[i]
	p.Default, p.Default6, p.BySource = false, false, true
	want := v.renderPort(whole, p)
	got := maps.Clone(have)
	for _, op := range kernel.Diff(want, routesOf(p, want, have)) {
		if op.Obj.NS != p.Netns || op.Obj.Kind != kernel.KindRoute && op.Obj.Kind != kernel.KindRule {
			t.Errorf("it would %v", op)
		}
		if op.Verb == kernel.Del {
			delete(got, op.Obj.Key)
		} else {
			got[op.Obj.Key] = op.Obj
		}
	}
	after := whole
	after.Ports = slices.Clone(whole.Ports)
	after.Ports[i] = p
	if left := kernel.Diff(v.render(after), got); len(left) > 0 {
		t.Errorf("still to do: %s", fmt.Sprint(left))
	}
}
