package command

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/docker/go-connections/nat"
	"github.com/spf13/pflag"

	weftv1 "weft/proto/weft/v1"
)

// portFlags are the options of `weft run` about ports, as they came.
type portFlags struct {
	publish, expose []string
	all             bool
}

func (p *portFlags) add(f *pflag.FlagSet) {
	f.StringArrayVarP(&p.publish, "publish", "p", nil, "Publish a port to the host ([HOSTIP:][HOSTPORT:]PORT[/udp], also with ranges)")
	f.BoolVarP(&p.all, "publish-all", "P", false, "Publish all exposed ports to free ports of the host")
	f.StringArrayVar(&p.expose, "expose", nil, "Expose a port or a range of ports (PORT[-LAST][/udp])")
}

// into adds to a request what the options say.
func (p *portFlags) into(out *weftv1.CreateSandboxRequest) (err error) {
	if out.Ports, err = parsePublish(p.publish); err != nil {
		return err
	}
	out.Expose, err = parseExpose(p.expose)
	out.PublishAll = p.all
	return err
}

// parsePublish reads docker's -p: [HOSTIP:][HOSTPORT[-LAST]:]PORT[-LAST][/PROTOCOL], or published=…,target=…,protocol=…. A range of ports is
// as many specs as it has ports in the sandbox.
func parsePublish(values []string) ([]*weftv1.PortSpec, error) {
	var out []*weftv1.PortSpec
	for _, v := range values {
		short, err := shortForm(v)
		if err != nil {
			return nil, err
		}
		ms, err := nat.ParsePortSpec(short)
		if err != nil {
			return nil, err
		}
		for _, m := range ms {
			s, err := portSpec(m)
			if err != nil {
				return nil, err
			}
			out = append(out, s)
		}
	}
	return out, nil
}

// shortForm makes the short form of docker's long one, which has no host address.
func shortForm(v string) (string, error) {
	if !strings.Contains(v, "=") {
		return v, nil
	}
	params := map[string]string{"protocol": "tcp"}
	for field := range strings.SplitSeq(v, ",") {
		k, value, ok := strings.Cut(field, "=")
		if !ok {
			return "", fmt.Errorf("invalid publish opts format (should be name=value but got '%s')", field)
		}
		switch k {
		case "published", "target", "protocol", "mode":
			params[k] = value
		default:
			return "", fmt.Errorf("invalid publish option %q in %s: it takes published=, target=, protocol= and mode=", k, v)
		}
	}
	return params["published"] + ":" + params["target"] + "/" + params["protocol"], nil
}

func portSpec(m nat.PortMapping) (*weftv1.PortSpec, error) {
	port := uint32(m.Port.Int())
	if port == 0 {
		return nil, fmt.Errorf("invalid containerPort: 0")
	}
	proto, err := checkProto(m.Port.Proto())
	if err != nil {
		return nil, err
	}
	s := &weftv1.PortSpec{Protocol: proto, First: port, Last: port}
	if m.Binding.HostIP != "" {
		a, err := netip.ParseAddr(m.Binding.HostIP)
		if err != nil || a.Zone() != "" {
			return nil, fmt.Errorf("invalid IP address: %s", m.Binding.HostIP)
		}
		s.HostIp = a.Unmap().String()
	}
	first, last, err := nat.ParsePortRangeToInt(m.Binding.HostPort)
	if err != nil || first == 0 && last != 0 {
		return nil, fmt.Errorf("invalid hostPort: %s", m.Binding.HostPort)
	}
	s.HostFirst, s.HostLast = uint32(first), uint32(last)
	return s, nil
}

func checkProto(proto string) (string, error) {
	switch proto {
	case "tcp", "udp":
		return proto, nil
	case "sctp":
		return "", fmt.Errorf("sctp ports cannot be published: weft publishes tcp and udp")
	}
	return "", fmt.Errorf("invalid proto: %s", proto)
}

// parseExpose reads docker's --expose: PORT[-LAST][/PROTOCOL].
func parseExpose(values []string) ([]*weftv1.PortSpec, error) {
	var out []*weftv1.PortSpec
	for _, v := range values {
		if strings.Contains(v, ":") {
			return nil, fmt.Errorf("invalid port format for --expose: %s", v)
		}
		proto, ports := nat.SplitProtoPort(v)
		first, last, err := nat.ParsePortRange(ports)
		if err == nil && first == 0 {
			err = fmt.Errorf("there is no port 0")
		}
		if err != nil {
			return nil, fmt.Errorf("invalid range format for --expose: %s, error: %w", v, err)
		}
		if proto, err = checkProto(strings.ToLower(proto)); err != nil {
			return nil, fmt.Errorf("invalid port format for --expose: %s: %w", v, err)
		}
		out = append(out, &weftv1.PortSpec{Protocol: proto, First: uint32(first), Last: uint32(last)})
	}
	return out, nil
}

// hostPorts writes a spec's ports on the host as docker keeps them: "", "8080", or "8000-8010".
func hostPorts(s *weftv1.PortSpec) string {
	switch {
	case s.HostFirst == 0:
		return ""
	case s.HostFirst == s.HostLast:
		return strconv.Itoa(int(s.HostFirst))
	}
	return fmt.Sprintf("%d-%d", s.HostFirst, s.HostLast)
}
