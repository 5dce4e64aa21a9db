package command

import (
	"cmp"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	weftv1 "weft/proto/weft/v1"
)

// portBindingView is where a port of a sandbox is published, with docker's names.
type portBindingView struct {
	HostIP   string `json:"HostIp"`
	HostPort string
}

// portMap is docker's: by "80/tcp"; nil for a port that is exposed and not published.
type portMap map[string][]portBindingView

func portKey(port uint32, proto string) string { return fmt.Sprintf("%d/%s", port, proto) }

// publishedPorts are the ports of a sandbox that runs.
func publishedPorts(s *weftv1.Sandbox) portMap {
	out := portMap{}
	if s.Status != "running" || s.NetworkMode != "" {
		return out
	}
	for k := range exposedPorts(s) {
		out[k] = nil
	}
	for _, b := range s.Published {
		k := portKey(b.Port, b.Protocol)
		out[k] = append(out[k], portBindingView{b.HostIp, strconv.Itoa(int(b.HostPort))})
	}
	return out
}

// askedPorts are the published ports as they were asked for.
func askedPorts(s *weftv1.Sandbox) portMap {
	out := portMap{}
	for _, p := range s.Ports {
		for port := p.First; port <= p.Last; port++ {
			k := portKey(port, p.Protocol)
			out[k] = append(out[k], portBindingView{p.HostIp, hostPorts(p)})
		}
	}
	return out
}

// exposedPorts are those that --expose named and those that are to be published.
func exposedPorts(s *weftv1.Sandbox) map[string]struct{} {
	out := map[string]struct{}{}
	for _, p := range slices.Concat(s.Expose, s.Ports) {
		for port := p.First; port <= p.Last; port++ {
			out[portKey(port, p.Protocol)] = struct{}{}
		}
	}
	return out
}

// shownPort is one entry of the PORTS column.
type shownPort struct {
	ip          string // "" where it is exposed only
	host, inner uint32
	proto       string
}

func (p shownPort) compare(o shownPort) int {
	return cmp.Or(cmp.Compare(p.inner, o.inner), cmp.Compare(p.ip, o.ip), cmp.Compare(p.host, o.host), cmp.Compare(p.proto, o.proto))
}

// portsColumn is docker ps's: neighbours whose port is the same on the host and inside become a range; those whose ports differ come last.
func portsColumn(s *weftv1.Sandbox) string {
	type run struct {
		shownPort
		last uint32
	}
	var runs []*run
	var done, moved []string
	open := map[string]*run{}
	for _, p := range shownPorts(s) {
		if p.ip != "" && p.host != p.inner {
			moved = append(moved, fmt.Sprintf("%s->%d/%s", net.JoinHostPort(p.ip, fmt.Sprint(p.host)), p.inner, p.proto))
			continue
		}
		k := p.ip + "/" + p.proto
		r := open[k]
		switch {
		case r == nil:
			open[k] = &run{p, p.inner}
			runs = append(runs, open[k])
		case p.inner <= r.last+1:
			r.last = p.inner
		default:
			done = append(done, rangeText(r.shownPort, r.last))
			*r = run{p, p.inner}
		}
	}
	for _, r := range runs {
		done = append(done, rangeText(r.shownPort, r.last))
	}
	return strings.Join(append(done, moved...), ", ")
}

func shownPorts(s *weftv1.Sandbox) []shownPort {
	var out []shownPort
	for k, bs := range publishedPorts(s) {
		port, proto, _ := strings.Cut(k, "/")
		inner, _ := strconv.ParseUint(port, 10, 16) // it was written here
		if len(bs) == 0 {
			out = append(out, shownPort{inner: uint32(inner), proto: proto})
		}
		for _, b := range bs {
			host, _ := strconv.ParseUint(b.HostPort, 10, 16)
			out = append(out, shownPort{b.HostIP, uint32(host), uint32(inner), proto})
		}
	}
	slices.SortFunc(out, shownPort.compare)
	return out
}

func rangeText(first shownPort, last uint32) string {
	ports := fmt.Sprint(first.inner)
	if last != first.inner {
		ports += fmt.Sprintf("-%d", last)
	}
	if first.ip != "" {
		ports = net.JoinHostPort(first.ip, ports) + "->" + ports
	}
	return ports + "/" + first.proto
}
