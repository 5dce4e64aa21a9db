// Package overlay renders overlay networks into kernel state: what this host's kernel should hold for a network, for one port of it, and
// for one remote endpoint. What all of them need of the host is bridge's. It is pure: the same records give the same state on every host and in every life of an
// agent.
//
// Each network that has endpoints here has a namespace of its own, so that its inner packets meet none of the host's firewall:
//
//	sandbox eth0 ── ep… ┐                    ┌ vx0 ── UDP, through the host's namespace, to the other hosts' VTEPs
//	sandbox eth0 ── ep… ┴ br0 (the gateways) ┤
//	                                         └ up0 ── weft… in the host's namespace: egress, masqueraded
//
// Nothing is learned and nothing is flooded: forwarding and neighbour entries of all endpoints are there before a packet is. Where a network
// has multicast, that and broadcast go to each host that has an endpoint in it, once.
package overlay

import (
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"

	"weft/kernel"
	"weft/port"
	"weft/store/record"
)

// Settings are what rendering needs of the host and the cluster.
type Settings struct {
	Self      record.HostID
	VTEP      netip.Addr
	VXLANPort uint16
	NetnsDir  string
}

// Network is a network as this host sees it.
type Network struct {
	Record    *record.Network
	Endpoints []*record.Endpoint // all of it; those without addresses or not running are left out
	Ports     []port.Port        // this host's own
	Hosts     func(record.HostID) (vtep netip.Addr, ok bool)
}

// Names within a network's namespace.
const (
	BridgeName = "br0"
	TunnelName = "vx0"
	uplinkName = "up0"
	portSet    = "ports"
	portTable  = "bridge weft"
)

// The uplink is unnumbered: both ends have the same pair of link-local addresses in every network, with permanent neighbours, and nothing
// of it is seen outside.
var (
	uplinkInner = netip.MustParseAddr("169.254.77.2")
	uplinkOuter = netip.MustParseAddr("169.254.77.1")
)

// NetnsPath is the file of a network's namespace.
func NetnsPath(s Settings, id record.NetworkID) string {
	return filepath.Join(s.NetnsDir, "weft-"+record.ShortID(id))
}

// renderer collects the state of one network.
type renderer struct {
	Settings
	n   Network
	ns  string
	out kernel.State

	ends map[record.HostID]bool // that are in out
}

func (r *renderer) add(kind kernel.Kind, ns, link, dst string, spec kernel.Spec) {
	r.out.Add(kernel.Object{Key: kernel.Key{Kind: kind, NS: ns, Link: link, Dst: dst}, Spec: spec})
}

func newRenderer(s Settings, n Network) *renderer {
	return &renderer{Settings: s, n: n, ns: NetnsPath(s, n.Record.ID), out: kernel.State{}, ends: map[record.HostID]bool{}}
}

// Render returns all that this host's kernel holds for a network; nothing where it has no port in it.
func Render(s Settings, n Network) kernel.State {
	r := newRenderer(s, n)
	if len(n.Ports) == 0 {
		return r.out
	}
	r.base()
	if !n.Record.Internal {
		r.uplink()
	}
	for _, p := range n.Ports {
		r.port(p)
	}
	for _, ep := range n.Endpoints {
		r.remote(ep)
	}
	return r.out
}

// RenderPort returns the part of Render's result that one port of this host needs.
func RenderPort(s Settings, n Network, p port.Port) kernel.State {
	r := newRenderer(s, n)
	r.port(p)
	return r.out
}

// Shared returns what several endpoints of one host have together.
func Shared(s Settings, n Network) kernel.State {
	r := newRenderer(s, n)
	for h, vtep := range Ends(s, n) {
		r.end(h, vtep)
	}
	return r.out
}

// Ends returns the other hosts that a network's tunnel leads to, with their tunnel addresses.
func Ends(s Settings, n Network) map[record.HostID]netip.Addr {
	r, out := newRenderer(s, n), map[record.HostID]netip.Addr{}
	for _, ep := range n.Endpoints {
		if vtep, ok := r.leads(ep); ok {
			out[ep.Host] = vtep
		}
	}
	return out
}

// TunnelMAC is the hardware address of a host's end of a network's tunnel. Probes between the hosts go there, which no sandbox sees or can send to.
func TunnelMAC(n record.NetworkID, h record.HostID) string {
	return port.MAC("vxlan", string(n), string(h))
}

// RemotePort returns the part of Render's result that one endpoint of another host needs.
func RemotePort(s Settings, n Network, ep *record.Endpoint) kernel.State {
	r := newRenderer(s, n)
	r.remote(ep)
	return r.out
}

// base is the bridge with the gateways, the tunnel, and the rules of the ports.
func (r *renderer) base() {
	rec := r.n.Record
	r.add(kernel.KindNetns, r.ns, "", "", kernel.Netns{})
	sysctls := map[string]string{
		"net/ipv4/ip_forward": "1", // between the pools, and out
		// Each direction of a conversation between two pools passes another host's bridge: no reverse path, no redirects.
		"net/ipv4/conf/all/rp_filter": "0", "net/ipv4/conf/default/rp_filter": "0",
		"net/ipv4/conf/all/send_redirects": "0", "net/ipv4/conf/default/send_redirects": "0",
		// Off, a packet through the bridge costs a sixth less.
		"net/bridge/bridge-nf-call-iptables": "0", "net/bridge/bridge-nf-call-ip6tables": "0", "net/bridge/bridge-nf-call-arptables": "0",
	}
	maps.Copy(sysctls, r.sysctls6())
	for name, value := range sysctls {
		r.add(kernel.KindSysctl, r.ns, name, "", kernel.Sysctl{Value: value})
	}
	r.add(kernel.KindBridge, r.ns, BridgeName, "", kernel.Bridge{MAC: port.MAC("bridge", string(rec.ID)), MTU: rec.MTU})
	r.out.Add(kernel.Object{
		Key: kernel.Key{Kind: kernel.KindVXLAN, NS: r.ns, Link: TunnelName},
		Spec: kernel.VXLAN{
			VNI: rec.VNI, Local: r.VTEP, Port: r.VXLANPort, MAC: TunnelMAC(rec.ID, r.Self), MTU: rec.MTU,
			At: kernel.Port{Master: BridgeName, NeighSuppress: true, NoFlood: true, Multicast: rec.Multicast()},
		},
		Holds: kernel.HoldsVNI(rec.VNI, r.VXLANPort),
	})
	for _, p := range rec.Pools {
		if p.Gateway.IsValid() {
			r.add(kernel.KindAddr, r.ns, BridgeName, netip.PrefixFrom(p.Gateway, p.Subnet.Bits()).String(), kernel.Addr{})
		}
	}
	if dual(rec) {
		r.carries6(r.ns, BridgeName)
	}
	r.add(kernel.KindTable, r.ns, portTable, "", portRules(dual(rec)))
}

// portRules let a sandbox send with its own hardware address and address only, in ARP too. What comes through the tunnel was checked where
// it entered. IPv6 is dropped where the network has none.
func portRules(six bool) kernel.Table {
	at := "@" + portSet
	t := kernel.Table{
		Sets: []kernel.Set{{Name: portSet, Type: kernel.SetPort}},
		Chains: []kernel.Chain{{
			Name: "own", Type: "filter", Hook: "prerouting", Priority: -300,
			Rules: []kernel.Rule{
				{If: []kernel.Match{{Field: kernel.InLink, Value: TunnelName}}, Verdict: kernel.Accept},
				{If: []kernel.Match{{Field: kernel.EtherType, Value: "ip"}, {Field: kernel.SourcePort, Value: at}}, Verdict: kernel.Accept},
				{If: []kernel.Match{{Field: kernel.EtherType, Value: "arp"}, {Field: kernel.ARPPort, Value: at}, {Field: kernel.ARPSender, Value: at}}, Verdict: kernel.Accept},
			},
		}},
	}
	own := &t.Chains[0]
	if six {
		t.Sets = append(t.Sets, kernel.Set{Name: portSet6, Type: kernel.SetPort6})
		own.Rules = append(own.Rules, rules6()...)
	}
	own.Rules = append(own.Rules, kernel.Rule{Verdict: kernel.Drop})
	return t
}

// uplink leads out of the network into the host.
func (r *renderer) uplink() {
	rec := r.n.Record
	outer := port.UplinkName(rec.ID)
	inMAC, outMAC := port.MAC("uplink-inner", string(rec.ID)), port.MAC("uplink-outer", string(rec.ID))
	r.add(kernel.KindVeth, r.ns, uplinkName, "", kernel.Veth{
		MAC: inMAC, MTU: rec.MTU, Peer: kernel.Peer{NS: kernel.HostNS, Name: outer, MAC: outMAC},
	})
	r.add(kernel.KindAddr, r.ns, uplinkName, uplinkInner.String()+"/32", kernel.Addr{})
	r.add(kernel.KindNeigh, r.ns, uplinkName, uplinkOuter.String(), kernel.Neigh{MAC: outMAC})
	r.add(kernel.KindRoute, r.ns, uplinkName, "0.0.0.0/0", kernel.Route{Via: uplinkOuter})
	r.add(kernel.KindNeigh, kernel.HostNS, outer, uplinkInner.String(), kernel.Neigh{MAC: inMAC})
	if dual(rec) {
		r.uplink6(outer, inMAC, outMAC)
	}
	for _, p := range rec.Pools {
		via := uplinkInner
		if p.Subnet.Addr().Is6() {
			via = uplinkInner6
		}
		r.add(kernel.KindRoute, kernel.HostNS, outer, p.Subnet.String(), kernel.Route{Via: via})
	}
}

// port is one endpoint of this host: its pair, its addresses and routes in the sandbox, its entries here, and last the rule that lets it speak.
func (r *renderer) port(p port.Port) {
	ep, name := p.Endpoint, port.Name(p.Endpoint.ID)
	port.Render(r.out, r.n.Record, port.Place{NS: r.ns, At: kernel.Port{Master: BridgeName}}, p)
	r.add(kernel.KindFDB, r.ns, name, string(ep.MAC), kernel.FDB{})
	for _, a := range ep.Addrs {
		if _, ok := r.n.Record.PoolOf(a); !ok {
			continue
		}
		r.add(kernel.KindNeigh, r.ns, BridgeName, a.String(), kernel.Neigh{MAC: string(ep.MAC)})
		if a.Is4() {
			r.add(kernel.KindElement, r.ns, portTable+" "+portSet, fmt.Sprintf("%s %s %s", name, ep.MAC, a), kernel.Element{Type: kernel.SetPort})
		}
	}
	if dual(r.n.Record) {
		for _, a := range senders6(ep) {
			r.add(kernel.KindElement, r.ns, portTable+" "+portSet6, fmt.Sprintf("%s %s %s", name, ep.MAC, a), kernel.Element{Type: kernel.SetPort6})
		}
	}
}

// leads returns the other host's tunnel address that packets to an endpoint go to, if there is one.
func (r *renderer) leads(ep *record.Endpoint) (netip.Addr, bool) {
	if ep.Host == r.Self || !ep.Running || ep.MAC == "" || len(ep.Addrs) == 0 {
		return netip.Addr{}, false
	}
	vtep, ok := r.n.Hosts(ep.Host)
	return vtep, ok && vtep.Is4() == r.VTEP.Is4() // of another family: no tunnel leads there
}

// remote is one endpoint of another host: where its hardware address is, and which one its address has.
func (r *renderer) remote(ep *record.Endpoint) {
	vtep, ok := r.leads(ep)
	if !ok {
		return
	}
	for _, a := range ep.Addrs {
		r.add(kernel.KindNeigh, r.ns, BridgeName, a.String(), kernel.Neigh{MAC: string(ep.MAC)})
	}
	r.add(kernel.KindFDB, r.ns, TunnelName, string(ep.MAC), kernel.FDB{})
	r.add(kernel.KindFDB, r.ns, TunnelName, string(ep.MAC)+" self", kernel.FDB{VTEP: vtep})
	r.end(ep.Host, vtep)
}

// end is the tunnel's end at another host: where probes go, and where multicast does. The bridge has no entry for it, so that no sandbox can send there.
func (r *renderer) end(h record.HostID, vtep netip.Addr) {
	if r.ends[h] {
		return
	}
	r.ends[h] = true
	r.add(kernel.KindFDB, r.ns, TunnelName, TunnelMAC(r.n.Record.ID, h)+" self", kernel.FDB{VTEP: vtep})
	if r.n.Record.Multicast() {
		r.add(kernel.KindFDB, r.ns, TunnelName, kernel.FloodDst(vtep), kernel.FDB{VTEP: vtep})
	}
}
