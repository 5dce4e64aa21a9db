package bridge

import (
	"fmt"
	"net/netip"

	"weft/kernel"
	"weft/store/record"
)

// Published is a port of a sandbox of this host that is reachable at an address of the host.
type Published struct {
	Network record.NetworkID
	Link    string // of the host, towards the network: its bridge or its uplink
	Binding record.PortBinding
	Target  netip.Addr // of the host address's family
}

// Names of the table of published ports. It is a table of its own, so that its rules are the same whatever is published: a port more is an
// element more.
const (
	publishTable = "inet weft-ports"
	openMap      = "open4"  // at every address of the host
	openMap6     = "open6"  //
	boundMap     = "bound4" // at one of them
	boundMap6    = "bound6"
	hairpinSet   = "hairpins"
	selfSet      = "self4" // sandboxes that call what they publish themselves
	selfSet6     = "self6"
)

// RenderPublished returns the rules that bring what is sent to published ports to their sandboxes; nothing where none is published.
//
// What comes from outside or from another sandbox, and what the host sends to one of its own addresses, is translated with the sender's
// address kept. Only what is sent out where it came in needs the host's address instead: else the answer would go past the translation.
// What is for a loopback address is not touched: such packets cannot leave the host, and the sandbox's supervisor has them.
func RenderPublished(ps []Published) kernel.State {
	out := kernel.State{}
	if len(ps) == 0 {
		return out
	}
	out.Add(kernel.Object{Key: kernel.Key{Kind: kernel.KindTable, NS: kernel.HostNS, Link: publishTable}, Spec: publishRules()})
	for _, p := range ps {
		AddPublished(out, p)
	}
	return out
}

// AddPublished adds what one more port needs beside the table.
func AddPublished(out kernel.State, p Published) {
	add := func(set string, t kernel.SetType, dst, value string) {
		out.Add(kernel.Object{
			Key:  kernel.Key{Kind: kernel.KindElement, NS: kernel.HostNS, Link: publishTable + " " + set, Dst: dst},
			Spec: kernel.Element{Type: t, Value: value},
		})
	}
	b := p.Binding
	if b.HostAddr.IsLoopback() || b.HostAddr.Is4() != p.Target.Is4() {
		return // the supervisor's
	}
	add(hairpinSet, kernel.SetLinks, p.Link+" "+p.Link, "")
	service := fmt.Sprintf("%s %d", b.Proto, b.HostPort)
	if p.Target.Is4() {
		add(selfSet, kernel.SetService, p.Target.String()+" "+service, "")
	} else {
		add(selfSet6, kernel.SetService6, p.Target.String()+" "+service, "")
	}
	target := fmt.Sprintf("%s %d", p.Target, b.Port)
	switch at := b.HostAddr.String() + " " + service; {
	case b.HostAddr == netip.IPv4Unspecified():
		add(openMap, kernel.MapService, service, target)
	case b.HostAddr == netip.IPv6Unspecified():
		add(openMap6, kernel.MapService6, service, target)
	case b.HostAddr.Is4():
		add(boundMap, kernel.MapDestService, at, target)
	default:
		add(boundMap6, kernel.MapDestService6, at, target)
	}
}

// publishRules are before Docker's and the user's own (-100): who has bound the port, has it.
func publishRules() kernel.Table {
	local := kernel.Match{Field: kernel.DestType, Value: "local"}
	to := func(set string, by kernel.Field, also ...kernel.Match) kernel.Rule {
		return kernel.Rule{If: append([]kernel.Match{local}, also...), Verdict: kernel.DNAT, By: by, To: "@" + set}
	}
	rules := []kernel.Rule{
		// Where bridges call iptables, a packet is translated in its bridge, which does not send it out where it came in.
		{If: []kernel.Match{{Field: kernel.SourceService, Value: "@" + selfSet}}, Verdict: kernel.Return},
		{If: []kernel.Match{{Field: kernel.SourceService6, Value: "@" + selfSet6}}, Verdict: kernel.Return},
		to(boundMap, kernel.DestService),
		to(boundMap6, kernel.DestService6),
		to(openMap, kernel.Service, kernel.Match{Field: kernel.DestAddr, Not: true, Value: "127.0.0.0/8"}),
		to(openMap6, kernel.Service, kernel.Match{Field: kernel.DestAddr6, Not: true, Value: "::1"}),
	}
	return kernel.Table{
		Sets: []kernel.Set{
			{Name: openMap, Type: kernel.MapService}, {Name: openMap6, Type: kernel.MapService6},
			{Name: boundMap, Type: kernel.MapDestService}, {Name: boundMap6, Type: kernel.MapDestService6},
			{Name: hairpinSet, Type: kernel.SetLinks}, {Name: selfSet, Type: kernel.SetService}, {Name: selfSet6, Type: kernel.SetService6},
		},
		Chains: []kernel.Chain{
			{Name: "prerouting", Type: "nat", Hook: "prerouting", Priority: -110, Rules: rules},
			{Name: "output", Type: "nat", Hook: "output", Priority: -110, Rules: rules},
			{Name: "postrouting", Type: "nat", Hook: "postrouting", Priority: 90, Rules: []kernel.Rule{
				{If: []kernel.Match{{Field: kernel.InOut, Value: "@" + hairpinSet}, {Field: kernel.CTStatus, Value: "dnat"}}, Verdict: kernel.Masquerade},
			}},
		},
	}
}
