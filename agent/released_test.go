package agent

import (
	"net/netip"
	"testing"

	"weft/store/record"
)

func TestWhatThisHostHasReleasedIsWaitedFor(t *testing.T) {
	// Given a picture that has an endpoint of this host, and one of another
	ep := func(id record.EndpointID, host record.HostID, name, addr string) *record.Endpoint {
		return &record.Endpoint{ID: id, Network: front, Host: host, Sandbox: record.SandboxID("5b" + name), Name: name, Addrs: []netip.Addr{ip(addr)}}
	}
	n := network(front, "10.1.0.0/24")
	net, _ := picture(t, 1, []*record.Network{n}, ep("e1", self, "a", "10.1.0.2"), ep("e2", other, "b", "10.1.0.3")).Net(front)
	attached, gone := box("a", in(front, "e1", "10.1.0.2")), box("a")
	for name, c := range map[string]struct {
		boxes map[record.SandboxID]*record.Sandbox
		box   string
		want  record.Attachment
		wait  bool
	}{
		"its own, which it left":                   {boxMap(gone), "a", record.Attachment{Endpoint: "e9"}, true},
		"one of a sandbox that is no more":         {boxMap(), "a", record.Attachment{Endpoint: "e9"}, true},
		"the address of what was left":             {boxMap(gone), "c", record.Attachment{Endpoint: "e9", IP: ip("10.1.0.2")}, true},
		"the endpoint that a stopped one has kept": {boxMap(gone), "a", record.Attachment{Endpoint: "e1"}, false},
		"a name that is in use here":               {boxMap(attached), "a", record.Attachment{Endpoint: "e9"}, false},
		"another host's name":                      {boxMap(), "b", record.Attachment{Endpoint: "e9"}, false},
		"another host's address":                   {boxMap(), "c", record.Attachment{Endpoint: "e9", IP: ip("10.1.0.3")}, false},
		"what is free":                             {boxMap(gone), "c", record.Attachment{Endpoint: "e9", IP: ip("10.1.0.7")}, false},
	} {
		if got := releasing(self, c.boxes, net, c.box, c.want); got != c.wait {
			t.Errorf("%s: waits %v, want %v", name, got, c.wait)
		}
	}
}
