package bridge

import (
	"fmt"

	"weft/kernel"
)

// The host's tables and their sets; those of IPv6 have a 6 at their end.
const (
	hostTable   = "inet weft"
	linkSet     = "links"    // where networks come into the host: uplinks and bridges
	internalSet = "internal" // of these, bridges whose network has no way out
	insideSet   = "inside"   // a bridge to itself, where sandboxes may reach each other
	sameSet     = "same"     // a link to itself: one network
	gateSet     = "gates"    // a bridge and its gateways
	poolSet     = "pools"    // of every network
	natSet      = "natted"   // pools whose packets leave with the host's address
	vtepSet     = "vteps"
	tunnelSet   = "tunnels" // the port of tunnels that end here: else Docker's swarm and others may have it
	peerSet     = "peers"   // the port of tunnels of other hosts
	openMap     = "open"    // ports published on every address
	boundMap    = "bound"   // ports published on one
	proxySet    = "proxied" // ports that lead to another address family

	portTable = "bridge weft"
	guardSet  = "guarded" // ports of weft's bridges: no others are looked at
	portSet   = "ports"   // what they may say they are
	portSet6  = "ports6"
	closedSet = "closed" // ports of networks whose sandboxes reach each other by links alone
	talkSet   = "talks"  // what those links lead to; in both tables: with bridge-nf-call-iptables, the host's sees it too
	talkSet6  = "talks6"
)

// Passed is a bit of the packet's mark that weft's rules set on what they let pass, from their forward chain on and up to the end of the forward
// hook: a rule in another's chain can tell by it (see kernel.Guest).
const Passed = 0x20000000

// turned is the bit of what goes back where it came from, to a published port. It is set in the forward hook: in postrouting there is no way in to
// look at, where bridge netfilter has called it.
const turned = 0x10000000

var (
	inLinks  = is(kernel.InLink, "@"+linkSet)
	outLinks = is(kernel.OutLink, "@"+linkSet)
	same     = is(kernel.InOut, "@"+sameSet)
	pass     = kernel.Rule{Verdict: kernel.Jump, To: "pass"}
	natted   = is(kernel.CTStatus, "dnat")
	passMark = fmt.Sprintf("%#x/%#x", Passed, Passed)
	turnMark = fmt.Sprintf("%#x/%#x", turned, turned)
)

func is(f kernel.Field, v string) kernel.Match { return kernel.Match{Field: f, Value: v} }

func not(m kernel.Match) kernel.Match {
	m.Not = true
	return m
}

func rule(v kernel.Verdict, ms ...kernel.Match) kernel.Rule { return kernel.Rule{If: ms, Verdict: v} }

// passing lets what matches pass.
func passing(ms ...kernel.Match) kernel.Rule {
	r := pass
	r.If = ms
	return r
}

// hostRules are the same whatever networks are here: what differs is in the sets.
func hostRules() kernel.Table {
	return kernel.Table{
		Sets: []kernel.Set{
			{Name: linkSet, Type: kernel.SetLink}, {Name: internalSet, Type: kernel.SetLink}, {Name: insideSet, Type: kernel.SetLinks}, {Name: sameSet, Type: kernel.SetLinks},
			{Name: gateSet, Type: kernel.SetLinkAddr}, {Name: gateSet + "6", Type: kernel.SetLinkAddr6},
			{Name: poolSet, Type: kernel.SetPrefix}, {Name: poolSet + "6", Type: kernel.SetPrefix6}, {Name: natSet, Type: kernel.SetPrefix}, {Name: natSet + "6", Type: kernel.SetPrefix6},
			{Name: tunnelSet, Type: kernel.SetService}, {Name: peerSet, Type: kernel.SetService}, {Name: vtepSet, Type: kernel.SetAddr}, {Name: vtepSet + "6", Type: kernel.SetAddr6},
			{Name: talkSet, Type: kernel.SetTalk}, {Name: talkSet6, Type: kernel.SetTalk6},
			{Name: openMap, Type: kernel.MapService}, {Name: openMap + "6", Type: kernel.MapService6}, {Name: boundMap, Type: kernel.MapDestService}, {Name: boundMap + "6", Type: kernel.MapDestService6},
			{Name: proxySet, Type: kernel.SetService}, {Name: proxySet + "6", Type: kernel.SetService},
		},
		Chains: []kernel.Chain{
			{Name: "forward", Type: "filter", Hook: "forward", Priority: -5, Rules: forwardRules()},
			{Name: "pass", Rules: []kernel.Rule{{Verdict: kernel.SetMark, To: passMark}, {Verdict: kernel.Accept}}},
			{Name: "docker", Rules: dockerRules()},
			{Name: "passed", Type: "filter", Hook: "postrouting", Priority: -300, Rules: []kernel.Rule{
				{If: []kernel.Match{is(kernel.Mark, passMark)}, Verdict: kernel.SetMark, To: fmt.Sprintf("0/%#x", Passed)},
			}},
			{Name: "input", Type: "filter", Hook: "input", Priority: -5, Rules: inputRules()},
			{Name: "prerouting", Type: "nat", Hook: "prerouting", Priority: -105, Rules: publishedRules()},
			// What the host itself sends to its loopback addresses goes to the proxy, whose answers come from there.
			{Name: "output", Type: "nat", Hook: "output", Priority: -105, Rules: append([]kernel.Rule{
				rule(kernel.Return, is(kernel.DestAddr, "127.0.0.0/8")), rule(kernel.Return, is(kernel.DestAddr6, "::1")),
			}, publishedRules()...)},
			{Name: "postrouting", Type: "nat", Hook: "postrouting", Priority: 100, Rules: []kernel.Rule{
				// Back where it came from: answered directly, the answer would come from another address than was asked.
				rule(kernel.Masquerade, is(kernel.Mark, turnMark)),
				rule(kernel.Masquerade, is(kernel.SourceAddr, "@"+natSet), not(outLinks)),
				rule(kernel.Masquerade, is(kernel.SourceAddr6, "@"+natSet+"6"), not(outLinks)),
			}},
		},
	}
}

// forwardRules: out to everywhere but other networks, in for what is published and for answers. What leaves masqueraded comes from a VTEP: the
// other hosts, at each of their addresses, would take it for a tunnel's, of whatever network it says.
func forwardRules() []kernel.Rule {
	return []kernel.Rule{
		{If: []kernel.Match{same, natted}, Verdict: kernel.SetMark, To: turnMark},
		passing(is(kernel.InOut, "@"+insideSet)),
		passing(is(kernel.Asked, "@"+talkSet)), passing(is(kernel.Answered, "@"+talkSet)),
		passing(is(kernel.Asked6, "@"+talkSet6)), passing(is(kernel.Answered6, "@"+talkSet6)),
		// Neighbour discovery that crosses a bridge. Between two networks there is none (RFC 4861, 7.1), but who listens would hear what is in it.
		passing(same, is(kernel.ICMP6Type, "135")), passing(same, is(kernel.ICMP6Type, "136")),
		rule(kernel.Drop, is(kernel.InLink, "@"+internalSet)),
		rule(kernel.Drop, is(kernel.OutLink, "@"+internalSet)),
		passing(outLinks, natted),
		rule(kernel.Drop, inLinks, outLinks),
		rule(kernel.Drop, inLinks, is(kernel.DestAddr, "@"+poolSet)),
		rule(kernel.Drop, inLinks, is(kernel.DestAddr6, "@"+poolSet+"6")),
		passing(outLinks, is(kernel.Established, "")),
		rule(kernel.Drop, outLinks),
		rule(kernel.Drop, inLinks, is(kernel.Service, "@"+peerSet)),
		// Docker's own rules say what may get to its containers: what weft has marked would pass them by.
		rule(kernel.Accept, inLinks, is(kernel.OutLink, "docker*")),
		kernel.Rule{If: []kernel.Match{inLinks, is(kernel.OutLink, "br-*")}, Verdict: kernel.Jump, To: "docker"},
		passing(inLinks),
	}
}

// dockerRules tell bridges that are called as Docker calls them, br- and an ID in hexadecimal digits, from others' (br-lan).
func dockerRules() []kernel.Rule {
	var out []kernel.Rule
	for _, digit := range "0123456789abcdef" {
		out = append(out, rule(kernel.Accept, is(kernel.OutLink, fmt.Sprintf("br-%c*", digit))))
	}
	return out
}

// inputRules: the host is reached as others reach it, but not at the addresses that it has in other networks; from an internal network at the
// gateway alone. Tunnel packets come from the cluster's hosts; a host without tunnels of weft's leaves the port to whoever else has it.
func inputRules() []kernel.Rule {
	local := is(kernel.DestType, "local")
	gate, gate6 := not(is(kernel.InDest, "@"+gateSet)), not(is(kernel.InDest6, "@"+gateSet+"6"))
	tunnel := is(kernel.Service, "@"+tunnelSet)
	return []kernel.Rule{
		rule(kernel.Drop, tunnel, inLinks),
		rule(kernel.Drop, tunnel, not(is(kernel.SourceAddr, "@"+vtepSet))),
		rule(kernel.Drop, tunnel, not(is(kernel.SourceAddr6, "@"+vtepSet+"6"))),
		rule(kernel.Drop, is(kernel.InLink, "@"+internalSet), is(kernel.Family, "ipv4"), is(kernel.Service, "@"+proxySet)), // it would lead out
		rule(kernel.Drop, is(kernel.InLink, "@"+internalSet), is(kernel.Family, "ipv6"), is(kernel.Service, "@"+proxySet+"6")),
		rule(kernel.Drop, is(kernel.InLink, "@"+internalSet), local, gate),
		rule(kernel.Drop, is(kernel.InLink, "@"+internalSet), local, not(is(kernel.DestAddr6, "fe80::/10")), gate6),
		rule(kernel.Drop, inLinks, is(kernel.DestAddr, "@"+poolSet), gate),
		rule(kernel.Drop, inLinks, is(kernel.DestAddr6, "@"+poolSet+"6"), gate6),
	}
}

// publishedRules ask the maps: what is bound to one address comes first.
func publishedRules() []kernel.Rule {
	ask := func(by kernel.Field, set string) kernel.Rule {
		return kernel.Rule{Verdict: kernel.DNAT, By: by, To: "@" + set}
	}
	return []kernel.Rule{
		rule(kernel.Return, not(is(kernel.DestType, "local"))),
		ask(kernel.DestService, boundMap), ask(kernel.DestService6, boundMap+"6"), ask(kernel.Service, openMap), ask(kernel.Service, openMap+"6"),
	}
}

// portRules let a sandbox send with its own hardware address and addresses only, in ARP and neighbour discovery too, and sandboxes of networks
// that are not open reach each other by their links alone. What comes by ports that are not weft's is left alone.
func portRules() kernel.Table {
	at, at6 := "@"+portSet, "@"+portSet6
	ip6 := is(kernel.EtherType, "ip6")
	closed := "@" + closedSet
	return kernel.Table{
		Sets: []kernel.Set{
			{Name: guardSet, Type: kernel.SetLink}, {Name: portSet, Type: kernel.SetPort}, {Name: portSet6, Type: kernel.SetPort6}, {Name: closedSet, Type: kernel.SetLink},
			{Name: talkSet, Type: kernel.SetTalk}, {Name: talkSet6, Type: kernel.SetTalk6},
		},
		Chains: []kernel.Chain{
			{Name: "own", Type: "filter", Hook: "prerouting", Priority: -300, Rules: []kernel.Rule{
				rule(kernel.Accept, not(is(kernel.InLink, "@"+guardSet))),
				rule(kernel.Accept, is(kernel.EtherType, "ip"), is(kernel.SourcePort, at)),
				rule(kernel.Accept, is(kernel.EtherType, "arp"), is(kernel.ARPPort, at), is(kernel.ARPSender, at)),
				rule(kernel.Drop, ip6, is(kernel.ICMP6Type, "136"), not(is(kernel.NDTarget, at6))), // neighbour advertisements
				rule(kernel.Drop, ip6, is(kernel.ICMP6Type, "134")),                                // router advertisements
				rule(kernel.Drop, ip6, is(kernel.ICMP6Type, "137")),                                // redirects
				rule(kernel.Accept, ip6, is(kernel.SourcePort6, at6)),
				rule(kernel.Accept, ip6, is(kernel.SourceAddr6, "::"), is(kernel.ICMP6Type, "135")), // is this address taken?
				rule(kernel.Drop),
			}},
			// After bridge netfilter (0), by which the host's table has seen what it called for: a published port is reached from anywhere.
			{Name: "talk", Type: "filter", Hook: "forward", Priority: 300, Rules: []kernel.Rule{
				rule(kernel.Accept, not(is(kernel.InLink, closed))),
				rule(kernel.Accept, not(is(kernel.OutLink, closed))),
				rule(kernel.Accept, is(kernel.Mark, passMark)),
				rule(kernel.Accept, is(kernel.EtherType, "arp")),
				rule(kernel.Accept, ip6, is(kernel.ICMP6Type, "135")), rule(kernel.Accept, ip6, is(kernel.ICMP6Type, "136")),
				rule(kernel.Accept, is(kernel.Asked, "@"+talkSet)), rule(kernel.Accept, is(kernel.Answered, "@"+talkSet)),
				rule(kernel.Accept, is(kernel.Asked6, "@"+talkSet6)), rule(kernel.Accept, is(kernel.Answered6, "@"+talkSet6)),
				rule(kernel.Drop),
			}},
		},
	}
}
