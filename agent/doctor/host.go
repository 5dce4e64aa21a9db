package doctor

import (
	"fmt"
	"net/netip"
	"time"

	"weft/kernel"
)

// Clock is what can be known of this host's clock without another's.
type Clock struct {
	Jumped time.Duration // since the agent's start, against a clock that nobody sets
	Synced bool          // the kernel says that somebody keeps it right
	Err    error         // the kernel could not be asked
}

// jumpSmall is what keeping a clock right moves it by.
const jumpSmall = 2 * time.Second

// Check tells of a clock that is set or not kept. weft decides nothing by it, but certificates begin and end at times.
func (c Clock) Check() Check {
	k := Check{Name: "clock", Status: OK, Finding: "kept by NTP, and has not jumped since the agent's start"}
	const remedy = "let chrony, ntpd or systemd-timesyncd keep the clock: certificates are good between two times, and logs are compared by them"
	switch {
	case c.Jumped.Abs() > jumpSmall:
		k.Status, k.Remedy = Warning, remedy
		k.Finding = fmt.Sprintf("jumped by %s since the agent's start; nothing is decided by it", c.Jumped.Round(time.Second))
	case c.Err != nil:
		k.Status, k.Finding = Skipped, fmt.Sprintf("the kernel cannot be asked: %v", c.Err)
	case !c.Synced:
		k.Status, k.Finding, k.Remedy = Warning, "nobody keeps it right (the kernel calls it unsynchronised)", remedy
	}
	return k
}

// Certificate is this host's among the cluster's.
type Certificate struct {
	Err   error // there is none, or it cannot be used
	Until time.Time
	Now   time.Time
}

// soonOver is when somebody should look why a certificate was not renewed: that is due at two thirds of its life.
const soonOver = 14 * 24 * time.Hour

// Check tells whether other agents can be asked, and will be tomorrow.
func (c Certificate) Check() Check {
	k := Check{Name: "identity", Status: OK, Finding: "this host's certificate is good until " + c.Until.UTC().Format(time.DateOnly)}
	switch left := c.Until.Sub(c.Now); {
	case c.Err != nil:
		k.Status = Warning
		k.Finding = fmt.Sprintf("other agents cannot be asked: %v", c.Err)
		k.Remedy = "`weft cluster token` on a host that has one, and weftd --join HOST --token TOKEN here"
	case left <= 0:
		k.Status = Error
		k.Finding = "this host's certificate ended at " + c.Until.UTC().Format(time.DateTime)
		k.Remedy = "see that the clock is right; then join again: `weft cluster token` on another host, and weftd --join HOST --token TOKEN here"
	case left < soonOver:
		k.Status = Warning
		k.Finding += ", and was not renewed yet"
		k.Remedy = "see the agent's log: it renews its certificate by itself where the authority's host can be reached"
	}
	return k
}

// Features are what the kernel cannot do.
func Features(lacks []string, err error) Check {
	k := Check{Name: "features", Status: OK, Finding: "the kernel can do all that weft needs"}
	switch {
	case err != nil:
		k.Status, k.Finding, k.Remedy = Error, err.Error(), "give weftd the capabilities CAP_NET_ADMIN and CAP_SYS_ADMIN"
	case len(lacks) > 0:
		k.Status = Error
		k.Finding = "the kernel lacks " + some(lacks)
		k.Remedy = "load the modules (modprobe vxlan, nf_tables_bridge, nft_masq, …), or take a kernel that has them"
	}
	return k
}

// Limits are how much is used of what the system has only so much of.
type Limits struct {
	Files, MaxFiles    uint64 // descriptors of the agent
	Flows, MaxFlows    uint64 // that conntrack knows; 0: it is not there
	Ports              int    // of the bridge that has most
	PortsOn            string // its network
	DiskFree, DiskSize uint64 // bytes of the state directory's file system
	Dir                string
}

// What counts as nearly full.
const (
	bridgePorts = 1000 // a bridge takes few more
	diskLittle  = 64 << 20
	diskNone    = 8 << 20
)

// Check tells of what is nearly used up.
func (l Limits) Check() []Check {
	limits := Check{Name: "limits", Status: OK, Finding: fmt.Sprintf("%d of %d files, %d of %d connections", l.Files, l.MaxFiles, l.Flows, l.MaxFlows)}
	switch {
	case nearly(l.Files, l.MaxFiles):
		limits.Status, limits.Finding = Warning, fmt.Sprintf("the agent has %d of %d files open", l.Files, l.MaxFiles)
		limits.Remedy = "raise LimitNOFILE of the weftd service"
	case nearly(l.Flows, l.MaxFlows):
		limits.Status, limits.Finding = Warning, fmt.Sprintf("conntrack has %d of %d connections: when it is full, new ones are dropped", l.Flows, l.MaxFlows)
		limits.Remedy = fmt.Sprintf("sysctl -w net.netfilter.nf_conntrack_max=%d", 4*l.MaxFlows)
	case nearly(uint64(l.Ports), bridgePorts):
		limits.Status, limits.Finding = Warning, fmt.Sprintf("network %s has %d sandboxes on this host, and a bridge takes about %d", l.PortsOn, l.Ports, bridgePorts)
		limits.Remedy = "start further ones on other hosts, or in another network"
	}
	disk := Check{Name: "disk", Status: OK, Finding: fmt.Sprintf("%d MiB free for %s", l.DiskFree>>20, l.Dir)}
	switch {
	case l.DiskFree < diskNone:
		disk.Status = Error
		disk.Finding = fmt.Sprintf("%d KiB free for %s: what must be remembered is refused", l.DiskFree>>10, l.Dir)
		disk.Remedy = "make room on that file system"
	case l.DiskFree < diskLittle:
		disk.Status, disk.Remedy = Warning, "make room on that file system"
	}
	return []Check{limits, disk}
}

func nearly(used, most uint64) bool { return most > 0 && used > most/10*8 }

// Pool is a network's, and whether this host uses it.
type Pool struct {
	Network string
	Subnet  netip.Prefix
	Here    bool
}

// Route is one that this host has, and is not weft's.
type Route struct {
	Prefix netip.Prefix
	Link   string
}

// Overlaps has an error for each network in use here whose packets a route of this host takes, and a warning where the route is wider than the network, or
// the network is used elsewhere alone.
func Overlaps(pools []Pool, routes []Route, err error) []Check {
	if err != nil {
		return []Check{{Name: "routes", Status: Skipped, Finding: err.Error()}}
	}
	var out []Check
	for _, p := range pools {
		for _, r := range routes {
			if !p.Subnet.Overlaps(r.Prefix) {
				continue
			}
			c := Check{Name: "routes", Subject: p.Network, Status: Warning}
			c.Finding = fmt.Sprintf("subnet %s overlaps this host's route to %s by %s: one of them cannot be reached from here", p.Subnet, r.Prefix, r.Link)
			c.Remedy = fmt.Sprintf("ip route del %s dev %s, if it is not needed; or make the network anew with a --subnet that nobody else has", r.Prefix, r.Link)
			if p.Here && r.Prefix.Bits() >= p.Subnet.Bits() { // it takes packets of the network's own
				c.Status = Error
			}
			out = append(out, c)
		}
	}
	if len(out) == 0 {
		out = append(out, Check{Name: "routes", Status: OK, Finding: fmt.Sprintf("%s and %s overlap nowhere", counted(len(pools), "subnet"), counted(len(routes), "route"))})
	}
	return out
}

// Foreign has an error for each VXLAN device of others on weft's port.
func Foreign(devices []kernel.ForeignVXLAN, port uint16, vnis map[uint32]string, err error) []Check {
	if err != nil {
		return []Check{{Name: "vxlan", Status: Skipped, Finding: err.Error()}}
	}
	var out []Check
	for _, d := range devices {
		if d.Port != port {
			continue
		}
		c := Check{Name: "vxlan", Subject: d.Name, Status: Error}
		c.Finding = fmt.Sprintf("another VXLAN device, with VNI %d, uses UDP port %d of this host too: weft's rules drop what it is sent by hosts outside the cluster", d.VNI, port)
		if n, taken := vnis[d.VNI]; taken {
			c.Finding = fmt.Sprintf("another VXLAN device has VNI %d on UDP port %d, which is network %s's: that network cannot be made here", d.VNI, port, n)
		}
		c.Remedy = fmt.Sprintf("give that one another port (flannel: Port in its Backend; docker swarm init --data-path-port), or delete it (ip link del %s); a cluster's own is chosen by --vxlan-port of its first host", d.Name)
		out = append(out, c)
	}
	if len(out) == 0 {
		out = append(out, Check{Name: "vxlan", Status: OK, Finding: fmt.Sprintf("nobody else's tunnels use UDP port %d here", port)})
	}
	return out
}
