package doctor

import (
	"fmt"
	"net/netip"
	"time"
)

// Tunnel is what probes have found of the path to a host that shares a network with this one.
type Tunnel struct {
	Host       string
	State      string // of the host, as the cluster sees it: alive, detached, lost, unknown
	Answers    bool
	RTT        time.Duration
	Heard      bool // its own probes come here
	Kernel     bool // where it does not answer: its kernel does, through the tunnel
	Port       uint16
	Here       netip.Addr // the tunnels' addresses
	There      netip.Addr
	Link       string // that this host's tunnels leave by
	Overhead   int    // of a tunnel, in bytes
	Sizes      *Sizes // nil: not looked at
	Sums       *Sums  // nil: not looked at
	SumsFailed error
}

// Sizes is what packets pass, in bytes as the sandboxes count them.
type Sizes struct {
	MTU  int // of the network
	Out  int // the largest that passes from here
	Back bool
}

// Sums is how packets arrived there whose checksum was left to the kernel and the network card.
type Sums struct{ Sent, Good, Wrong int }

// Check tells whether packets pass, how large they may be, and whether they arrive as they were sent.
func (t Tunnel) Check() []Check {
	c := Check{Name: "tunnel", Subject: t.Host, Status: OK}
	switch {
	case t.Answers:
		c.Finding = fmt.Sprintf("answers in %s", t.RTT.Round(time.Microsecond))
		out := []Check{c}
		if t.Sizes != nil {
			out = append(out, t.size())
		}
		if t.Sums != nil || t.SumsFailed != nil {
			out = append(out, t.sums())
		}
		return out
	case t.State == "lost" || t.State == "detached":
		c.Status = Warning
		c.Finding = "the host is " + t.State + ", and does not answer through the tunnel"
		c.Remedy = fmt.Sprintf("start it again; or, if it is gone for good, `weft host rm %s`", t.Host)
		if t.Kernel {
			c.Finding = "the host is " + t.State + ": its kernel answers through the tunnel, and its agent does not"
			c.Remedy = "start weftd there"
		}
	case t.Kernel:
		c.Status = Error
		c.Finding = "its kernel answers through the tunnel, and its agent does not: its names and addresses do not follow what changes"
		c.Remedy = "start weftd there, or see its log; an agent older than probes does not answer them"
	case t.Heard:
		c.Status = Error
		c.Finding = fmt.Sprintf("what this host sends to UDP port %d of %s does not arrive; what comes from there arrives here", t.Port, t.There)
		c.Remedy = fmt.Sprintf("let UDP port %d from %s pass into %s: its firewall, this host's rules for what goes out, and what is between them", t.Port, t.Here, t.Host)
	default:
		c.Status = Error
		c.Finding = fmt.Sprintf("no answer from %s, and nothing of what it sends to UDP port %d arrives here", t.There, t.Port)
		c.Remedy = fmt.Sprintf("let UDP port %d from %s pass into this host, and from %s into %s: firewalls of both, and what is between them", t.Port, t.There, t.Here, t.Host)
	}
	return []Check{c}
}

func (t Tunnel) size() Check {
	c := Check{Name: "mtu", Subject: t.Host, Status: OK, Finding: fmt.Sprintf("packets of %d bytes pass both ways", t.Sizes.MTU)}
	switch {
	case t.Sizes.Out < t.Sizes.MTU:
		c.Status = Error
		c.Finding = fmt.Sprintf("packets of more than %d bytes vanish on the way there, and the network has %d: connections open and then hang", t.Sizes.Out, t.Sizes.MTU)
		c.Remedy = fmt.Sprintf("let the underlay pass %d bytes and ICMP; or make networks with -o com.docker.network.driver.mtu=%d", t.Sizes.MTU+t.Overhead, t.Sizes.Out)
	case !t.Sizes.Back:
		c.Status = Error
		c.Finding = fmt.Sprintf("packets of %d bytes pass there, and those that come back vanish", t.Sizes.MTU)
		c.Remedy = "run weft doctor there: it says how large they may be"
	}
	return c
}

func (t Tunnel) sums() Check {
	c := Check{Name: "checksums", Subject: t.Host, Status: OK}
	switch {
	case t.SumsFailed != nil:
		c.Status, c.Finding = Skipped, fmt.Sprintf("could not be looked at: %v", t.SumsFailed)
	case t.Sums.Wrong > 0, t.Sums.Good == 0:
		c.Status = Error
		c.Finding = fmt.Sprintf("of %d packets whose checksum is computed by hardware, %d arrived wrong and %d not at all", t.Sums.Sent, t.Sums.Wrong, t.Sums.Sent-t.Sums.Good-t.Sums.Wrong)
		c.Remedy = fmt.Sprintf("ethtool -K %s tx off, and tx-udp_tnl-csum-segmentation off where it has that; then look for a newer driver or firmware", t.Link)
	default:
		c.Finding = fmt.Sprintf("%d of %d packets arrived with the right checksum", t.Sums.Good, t.Sums.Sent)
	}
	return c
}
