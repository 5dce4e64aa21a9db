package api

import (
	"net/netip"

	weftv1 "weft/proto/weft/v1"
	"weft/store/record"
)

// maxPorts bounds the ports of one sandbox: each published one is a socket or two.
const maxPorts = 4096

// portSpecs reads what a request says of ports; flag is what they were given by. Published ones come one by one, or as many on the host as
// inside.
func portSpecs(flag string, in []*weftv1.PortSpec) ([]record.PortSpec, error) {
	var out []record.PortSpec
	count := 0
	for _, p := range in {
		s, err := portSpec(flag, p)
		if err != nil {
			return nil, err
		}
		if count += int(s.Last-s.First) + 1; count > maxPorts {
			return nil, Refuse(Invalid, "%s: a sandbox can have %d ports, and more were given", flag, maxPorts)
		}
		out = append(out, s)
	}
	return out, nil
}

func portSpec(flag string, p *weftv1.PortSpec) (record.PortSpec, error) {
	s := record.PortSpec{Proto: p.GetProtocol(), First: uint16(p.GetFirst()), Last: uint16(p.GetLast()), HostFirst: uint16(p.GetHostFirst()), HostLast: uint16(p.GetHostLast())}
	switch {
	case s.Proto != "tcp" && s.Proto != "udp":
		return s, Refuse(Invalid, "invalid proto: %s (%s)", s.Proto, flag)
	case max(p.First, p.Last, p.HostFirst, p.HostLast) > 65535, p.First == 0, p.Last < p.First, p.HostLast < p.HostFirst, p.HostFirst == 0 && p.HostLast != 0:
		return s, Refuse(Invalid, "invalid ports %d-%d:%d-%d (%s)", p.HostFirst, p.HostLast, p.First, p.Last, flag)
	case p.First != p.Last && p.HostFirst != 0 && p.HostLast-p.HostFirst != p.Last-p.First:
		return s, Refuse(Invalid, "invalid ranges specified for container and host Ports: %d-%d and %d-%d (%s)", p.First, p.Last, p.HostFirst, p.HostLast, flag)
	}
	if p.HostIp == "" {
		return s, nil
	}
	a, err := netip.ParseAddr(p.HostIp)
	if err != nil || a.Zone() != "" {
		return s, Refuse(Invalid, "invalid IP address: %s (%s)", p.HostIp, flag)
	}
	s.HostAddr = a.Unmap()
	return s, nil
}

// setPorts takes the ports of a request for a new sandbox.
func setPorts(sb *record.Sandbox, r *weftv1.CreateSandboxRequest) (err error) {
	if sb.Ports, err = portSpecs("--publish", r.Ports); err != nil {
		return err
	}
	sb.Expose, err = portSpecs("--expose", r.Expose)
	sb.PublishAll = r.PublishAll
	return err
}

// showPorts adds a sandbox's ports to what is shown of it.
func showPorts(out *weftv1.Sandbox, s *record.Sandbox) {
	out.Ports, out.Expose, out.PublishAll = specsProto(s.Ports), specsProto(s.Expose), s.PublishAll
	for _, b := range s.Published {
		out.Published = append(out.Published, &weftv1.PortBinding{Protocol: b.Proto, HostIp: b.HostAddr.String(), HostPort: uint32(b.HostPort), Port: uint32(b.Port)})
	}
}

func specsProto(in []record.PortSpec) []*weftv1.PortSpec {
	var out []*weftv1.PortSpec
	for _, s := range in {
		p := &weftv1.PortSpec{Protocol: s.Proto, HostFirst: uint32(s.HostFirst), HostLast: uint32(s.HostLast), First: uint32(s.First), Last: uint32(s.Last)}
		if s.HostAddr.IsValid() {
			p.HostIp = s.HostAddr.String()
		}
		out = append(out, p)
	}
	return out
}
