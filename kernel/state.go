// Package kernel models, reads, compares and changes the network objects that weft owns: namespaces, links, addresses, routes,
// forwarding and neighbour entries, nftables. It stands at the end of the flow store → snapshot → render → diff → apply: overlay and
// bridge render a State, Diff compares it with the one that was read, and an Executor applies the difference.
//
// Nothing is made that an agent without memory could not know again as weft's own:
//
//	kind     weft's own if
//	Netns    its file lies in the directory that the executor was given, and is called weft-…
//	Bridge   it is in one of weft's network namespaces; in the host's, if its alias is weft and a network's ID, whatever its name
//	VXLAN    it is in one of weft's network namespaces
//	Veth     its near end is in one of weft's network namespaces (the far end is in a sandbox's, or in the host's and is called weft…); or in
//	         the host's, is called ep… and has an alias that tells where the far end is
//	Addr     it is on one of weft's links; in a sandbox those have the alias weft, in the host also a name that begins so, or an alias as
//	         bridges and pairs have it. Link-local IPv6 addresses are the kernel's
//	Route    its protocol is Proto, and its table the main one or one of weft's own (FirstTable…)
//	Rule     its protocol is Proto
//	FDB      it is permanent, on a link in one of weft's network namespaces, or on a port of weft's in the host's
//	Neigh    it is permanent, on one of weft's links
//	Sysctl   never something to delete: it goes with its namespace, and those of the host stay as they are
//	Conf     never something to delete: it goes with its link
//	Table    its name is weft, or begins with weft-
//	Element  it is in a set of one of weft's tables
//	Guest    it is a rule in a chain that others offer, with weft's comment
package kernel

import (
	"cmp"
	"fmt"
	"net/netip"
)

// Proto marks routes as weft's (rtnetlink(7), rtm_protocol; 119 is not taken in iproute2's rt_protos).
const Proto = 119

// HostNS is the agent's own network namespace, where the tunnels' UDP sockets and the uplinks are. Any other is named by its file's path.
const HostNS = ""

// Kind is what an object is. An object depends only on kinds before its own.
type Kind uint8

// The kinds, in the order of creation.
const (
	KindNetns Kind = iota
	KindSysctl
	KindBridge
	KindVXLAN
	KindVeth
	KindConf
	KindAddr
	KindRoute
	KindRule
	KindNeigh
	KindFDB
	KindTable
	KindElement
	KindGuest
)

// Key is what the kernel itself treats as unique.
type Key struct {
	Kind Kind
	NS   string // path of the namespace's file, or HostNS
	Link string // the link's name; a sysctl's path below /proc/sys; a table's "family name"; an element's "family name set"
	Dst  string // within the link: an address with its length, a route's prefix, a neighbour's address, a MAC, an element's text; else ""
}

// Compare orders keys by kind, then by place.
func (k Key) Compare(o Key) int {
	return cmp.Or(cmp.Compare(k.Kind, o.Kind), cmp.Compare(k.NS, o.NS), cmp.Compare(k.Link, o.Link), cmp.Compare(k.Dst, o.Dst))
}

// Spec is an object's full value. Two objects of one key whose specs are equal need no work.
type Spec interface {
	Equal(Spec) bool
	fmt.Stringer
}

// Object is one desired or observed kernel object.
type Object struct {
	Key
	Spec Spec
	// Holds names a resource outside Key that no two objects can share ("vni/4096/4789"): it is let go before another takes it.
	Holds string
}

// State maps each key to its object.
type State map[Key]Object

// Add puts an object into the state.
func (s State) Add(o Object) { s[o.Key] = o }

// Netns is a network namespace, bound to the file Key.NS.
type Netns struct{}

// Sysctl is a value below /proc/sys/net as seen in the namespace.
type Sysctl struct{ Value string }

// Bridge is a bridge with a fixed MAC: one that changes with its ports flushes even permanent neighbours. Bridge netfilter, multicast
// snooping and STP are off.
type Bridge struct {
	MAC   string
	MTU   int
	Owner string // in the host's namespace, the ID of its network: it is what tells weft's bridges from others'
}

// Port is how a link behaves as a port of its bridge. Learning is always off.
type Port struct {
	Master        string // "" if it is none
	NeighSuppress bool   // answer ARP from the bridge's permanent neighbours
	NoFlood       bool   // unknown unicast, multicast and broadcast are not sent here
	Multicast     bool   // with NoFlood: multicast and broadcast are
	Isolated      bool
	Hairpin       bool // what comes from here may go back here
}

// VXLAN is a tunnel device. It is made through the host's namespace directly in its own, so that its UDP socket stays in the host's.
// It learns nothing.
type VXLAN struct {
	VNI   uint32
	Local netip.Addr // the VTEP
	Port  uint16     // UDP
	MAC   string
	MTU   int
	At    Port
}

// Veth is a pair: the near end in Key.NS as Key.Link, the far end in Peer.NS as Peer.Name. Both ends are up.
type Veth struct {
	MAC  string // of the near end
	MTU  int    // of both
	At   Port
	Peer Peer
}

// Peer is the far end of a veth pair.
type Peer struct {
	NS   string
	Name string
	MAC  string
}

// Addr is an address on a link; Key.Dst is its CIDR.
type Addr struct{}

// Route is a route of protocol Proto; Key.Dst is its prefix, and " table N" where that is not the main table; Key.Link is where it leads. Via
// may be the zero Addr, and is taken as on-link.
type Route struct {
	Via    netip.Addr
	Src    netip.Addr
	Metric int
}

// Neigh is a permanent neighbour; Key.Dst is its address.
type Neigh struct{ MAC string }

// FDB is a static forwarding entry; Key.Dst is its MAC. With a VTEP it is the VXLAN device's own (`self`), and otherwise the bridge's
// (`master`): those two are different objects, whose Dst differ by the suffix " self". Where the MAC is zero the device has one entry for each
// VTEP that everything it knows no other for goes to, once: its Dst ends with " self VTEP" (FloodDst).
type FDB struct{ VTEP netip.Addr }

func (s Netns) Equal(o Spec) bool  { return o == Spec(s) }
func (s Sysctl) Equal(o Spec) bool { return o == Spec(s) }
func (s Bridge) Equal(o Spec) bool { return o == Spec(s) }
func (s VXLAN) Equal(o Spec) bool  { return o == Spec(s) }
func (s Veth) Equal(o Spec) bool   { return o == Spec(s) }
func (s Addr) Equal(o Spec) bool   { return o == Spec(s) }
func (s Route) Equal(o Spec) bool  { return o == Spec(s) }
func (s Neigh) Equal(o Spec) bool  { return o == Spec(s) }
func (s FDB) Equal(o Spec) bool    { return o == Spec(s) }

func (s Netns) String() string  { return "netns" }
func (s Sysctl) String() string { return "=" + s.Value }
func (s Bridge) String() string {
	if s.Owner != "" {
		return fmt.Sprintf("bridge %s mtu %d of %s", s.MAC, s.MTU, s.Owner)
	}
	return fmt.Sprintf("bridge %s mtu %d", s.MAC, s.MTU)
}
func (s VXLAN) String() string {
	return fmt.Sprintf("vxlan %d local %s:%d %s mtu %d %v", s.VNI, s.Local, s.Port, s.MAC, s.MTU, s.At)
}
func (s Veth) String() string {
	return fmt.Sprintf("veth %s mtu %d %v peer %v", s.MAC, s.MTU, s.At, s.Peer)
}
func (s Addr) String() string  { return "addr" }
func (s Neigh) String() string { return s.MAC }

func (s Route) String() string {
	out := "link"
	if s.Via.IsValid() {
		out = "via " + s.Via.String()
	}
	if s.Src.IsValid() {
		out += " src " + s.Src.String()
	}
	if s.Metric > 0 {
		out += fmt.Sprintf(" metric %d", s.Metric)
	}
	return out
}

func (s FDB) String() string {
	if !s.VTEP.IsValid() {
		return "static"
	}
	return "to " + s.VTEP.String()
}

func (p Port) String() string {
	out := "master " + cmp.Or(p.Master, "none")
	if p.NeighSuppress {
		out += " neigh_suppress"
	}
	if p.NoFlood {
		out += " noflood"
	}
	if p.Multicast {
		out += " multicast"
	}
	if p.Isolated {
		out += " isolated"
	}
	if p.Hairpin {
		out += " hairpin"
	}
	return out
}

func (p Peer) String() string { return fmt.Sprintf("%s %s in %s", p.Name, p.MAC, cmp.Or(p.NS, "host")) }

func (o Object) String() string { return o.Key.String() + " " + o.Spec.String() }

func (k Key) String() string {
	name := [...]string{"netns", "sysctl", "bridge", "vxlan", "veth", "conf", "addr", "route", "rule", "neigh", "fdb", "table", "element", "guest"}[k.Kind]
	out := name + " " + cmp.Or(k.NS, "host")
	if k.Link != "" {
		out += " " + k.Link
	}
	if k.Dst != "" {
		out += " " + k.Dst
	}
	return out
}
