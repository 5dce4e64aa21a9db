package agent

import (
	"cmp"
	"net/netip"
	"slices"
	"testing"

	"weft/bridge"
	"weft/store/record"
)

func TestTalksAreWhatLinksLeadTo(t *testing.T) {
	server := func(f func(*record.Sandbox)) *record.Sandbox {
		s := box("server", in(front, "e1", "172.18.0.2"))
		s.Name = "db"
		s.Ports, s.Expose = []record.PortSpec{{Proto: "tcp", First: 80, Last: 81}}, []record.PortSpec{{Proto: "udp", First: 53, Last: 53}, {Proto: "tcp", First: 80, Last: 80}}
		f(s)
		return s
	}
	client := func(l record.Link) *record.Sandbox {
		s := box("client", in(front, "e2", "172.18.0.3"))
		s.Attachments[0].Links = []record.Link{l}
		return s
	}
	as := func(*record.Sandbox) {}
	id := server(as).ID
	talk := func(proto string, port uint16) bridge.Talk {
		return bridge.Talk{From: netip.MustParseAddr("172.18.0.3"), To: netip.MustParseAddr("172.18.0.2"), Proto: proto, Port: port}
	}
	all := []bridge.Talk{talk("udp", 53), talk("tcp", 80), talk("tcp", 81)}
	for name, tc := range map[string]struct {
		boxes []*record.Sandbox
		want  []bridge.Talk
	}{
		"by name":                     {[]*record.Sandbox{server(as), client(record.Link{Target: "DB"})}, all},
		"by ID":                       {[]*record.Sandbox{server(as), client(record.Link{Target: string(id)})}, all},
		"bound":                       {[]*record.Sandbox{server(func(s *record.Sandbox) { s.Name = "renamed" }), client(record.Link{Target: "db", Sandbox: id})}, all},
		"bound to one that is gone":   {[]*record.Sandbox{server(as), client(record.Link{Target: "db", Sandbox: "other"})}, nil},
		"no link":                     {[]*record.Sandbox{server(as), box("client", in(front, "e2", "172.18.0.3"))}, nil},
		"a target that is down":       {[]*record.Sandbox{server(func(s *record.Sandbox) { s.Up = false }), client(record.Link{Target: "db"})}, nil},
		"a target in another network": {[]*record.Sandbox{server(func(s *record.Sandbox) { s.Attachments[0].Network = back }), client(record.Link{Target: "db"})}, nil},
		"a target without ports":      {[]*record.Sandbox{server(func(s *record.Sandbox) { s.Ports, s.Expose = nil, nil }), client(record.Link{Target: "db"})}, nil},
	} {
		got := talks(boxMap(tc.boxes...), front)
		slices.SortFunc(got, func(a, b bridge.Talk) int { return cmp.Compare(a.Port, b.Port) })
		if !slices.Equal(got, tc.want) {
			t.Errorf("%s: got %v", name, got)
		}
	}
}
