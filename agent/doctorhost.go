package agent

import (
	"context"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"weft/agent/doctor"
	"weft/kernel"
)

// examineHost looks at what the machine gives.
func (a *Agent) examineHost(context.Context) []doctor.Check {
	lacks, err := kernel.Lacks()
	out := []doctor.Check{a.examineClock().Check(), a.examineCertificate().Check(), doctor.Features(lacks, err)}
	return append(out, a.examineLimits().Check()...)
}

func (a *Agent) examineClock() doctor.Clock {
	now := a.clock.Now()
	out := doctor.Clock{Jumped: now.Round(0).Sub(a.started.Round(0)) - now.Sub(a.started)} // Round(0) takes the monotonic reading off
	state, err := unix.Adjtimex(&unix.Timex{})
	out.Synced, out.Err = state != unix.TIME_ERROR, err
	return out
}

func (a *Agent) examineCertificate() doctor.Certificate {
	out := doctor.Certificate{Now: a.clock.Now()}
	cert, err := a.identity.Current()
	if out.Err = err; err == nil && cert.Leaf != nil {
		out.Until = cert.Leaf.NotAfter
	}
	return out
}

func (a *Agent) examineLimits() doctor.Limits {
	out := doctor.Limits{Dir: a.cfg.StateDir, Flows: number("/proc/sys/net/netfilter/nf_conntrack_count"), MaxFlows: number("/proc/sys/net/netfilter/nf_conntrack_max")}
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err == nil {
		out.MaxFiles = r.Cur
	}
	if open, err := os.ReadDir("/proc/self/fd"); err == nil {
		out.Files = uint64(len(open))
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(a.cfg.StateDir, &fs); err == nil {
		out.DiskFree, out.DiskSize = fs.Bavail*uint64(fs.Bsize), fs.Blocks*uint64(fs.Bsize)
	} else {
		out.DiskFree = ^uint64(0)
	}
	for id, l := range a.locals() {
		if len(l.ports) > out.Ports {
			out.Ports, out.PortsOn = len(l.ports), a.partName(id)
		}
	}
	return out
}

// number reads a file that has one; 0 where it cannot be read.
func number(path string) uint64 {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	n, _ := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	return n
}

// examineNeighbours looks at what others have on this host that gets in weft's way: routes, tunnels.
func (a *Agent) examineNeighbours(ctx context.Context) []doctor.Check {
	var pools []doctor.Pool
	vnis := map[uint32]string{}
	here := a.locals()
	for n := range a.picture().Networks() {
		if n.ConfigOnly {
			continue
		}
		_, used := here[n.ID]
		for _, p := range n.Pools {
			pools = append(pools, doctor.Pool{Network: n.Name, Subnet: p.Subnet, Here: used})
		}
		if !n.IsLocal() {
			vnis[n.VNI] = n.Name
		}
	}
	found, err := a.hostRoutes()
	var routes []doctor.Route
	for _, r := range found {
		routes = append(routes, doctor.Route{Prefix: r.Prefix, Link: r.Link})
	}
	out := doctor.Overlaps(pools, routes, err)
	devices, err := a.kernel.ForeignVXLANs(ctx)
	slices.SortFunc(devices, func(x, y kernel.ForeignVXLAN) int { return strings.Compare(x.Name, y.Name) })
	return append(out, doctor.Foreign(devices, a.settings().VXLANPort, vnis, err)...)
}
