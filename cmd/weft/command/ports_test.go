package command

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	weftv1 "weft/proto/weft/v1"
)

func spec(proto, ip string, hostFirst, hostLast, first, last uint32) *weftv1.PortSpec {
	return &weftv1.PortSpec{Protocol: proto, HostIp: ip, HostFirst: hostFirst, HostLast: hostLast, First: first, Last: last}
}

func TestPublishedPortsAreReadAsDockerReadsThem(t *testing.T) {
	t.Parallel()
	for given, want := range map[string][]*weftv1.PortSpec{
		"80":                                    {spec("tcp", "", 0, 0, 80, 80)},
		"80/udp":                                {spec("udp", "", 0, 0, 80, 80)},
		"53:53/UDP":                             {spec("udp", "", 53, 53, 53, 53)},
		"8080:80":                               {spec("tcp", "", 8080, 8080, 80, 80)},
		":80":                                   {spec("tcp", "", 0, 0, 80, 80)},
		"0:80":                                  {spec("tcp", "", 0, 0, 80, 80)},
		"127.0.0.1:8080:80":                     {spec("tcp", "127.0.0.1", 8080, 8080, 80, 80)},
		"127.0.0.1::80":                         {spec("tcp", "127.0.0.1", 0, 0, 80, 80)},
		"[::1]:8080:80/tcp":                     {spec("tcp", "::1", 8080, 8080, 80, 80)},
		"::1:8080:80":                           {spec("tcp", "::1", 8080, 8080, 80, 80)},
		"[fd00::5]::80":                         {spec("tcp", "fd00::5", 0, 0, 80, 80)},
		"8000-8001:80-81":                       {spec("tcp", "", 8000, 8000, 80, 80), spec("tcp", "", 8001, 8001, 81, 81)},
		"8000-8005:80":                          {spec("tcp", "", 8000, 8005, 80, 80)},
		"80-81":                                 {spec("tcp", "", 0, 0, 80, 80), spec("tcp", "", 0, 0, 81, 81)},
		"published=8080,target=80":              {spec("tcp", "", 8080, 8080, 80, 80)},
		"target=53,published=5353,protocol=udp": {spec("udp", "", 5353, 5353, 53, 53)},
		"target=80":                             {spec("tcp", "", 0, 0, 80, 80)},
		"published=8000-8001,target=80-81,mode=host": {spec("tcp", "", 8000, 8000, 80, 80), spec("tcp", "", 8001, 8001, 81, 81)},
	} {
		got, err := parsePublish([]string{given})
		if err != nil {
			t.Errorf("-p %s: %v", given, err)
		}
		if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
			t.Errorf("-p %s: %s", given, diff)
		}
	}
}

func TestWrongPortsAreRefusedInDockersWords(t *testing.T) {
	t.Parallel()
	for given, want := range map[string]string{
		"":                              "no port specified",
		"8080:":                         "no port specified",
		"80x":                           "invalid containerPort: 80x",
		"0":                             "invalid containerPort: 0",
		"65536":                         "invalid containerPort: 65536",
		"99999:80":                      "invalid hostPort: 99999",
		"8000-8002:80-81":               "invalid ranges specified for container and host Ports: 80-81 and 8000-8002",
		"82-80":                         "invalid containerPort: 82-80",
		"0-5:80":                        "invalid hostPort: 0-5",
		"localhost:8080:80":             "invalid IP address: localhost",
		"300.0.0.1:8080:80":             "invalid IP address: 300.0.0.1",
		"80/icmp":                       "invalid proto: icmp",
		"80/sctp":                       "sctp ports cannot be published",
		"published=80,target":           "invalid publish opts format (should be name=value but got 'target')",
		"published=80,target=80,host=a": `invalid publish option "host"`,
	} {
		if _, err := parsePublish([]string{given}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("-p %s: %v, want %q", given, err, want)
		}
	}
	for given, want := range map[string]string{
		"8080:80": "invalid port format for --expose: 8080:80",
		"80-70":   "invalid range format for --expose: 80-70, error:",
		"":        "invalid range format for --expose: , error:",
		"0":       "invalid range format for --expose: 0, error:",
		"80/x":    "invalid port format for --expose: 80/x: invalid proto: x",
	} {
		if _, err := parseExpose([]string{given}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("--expose %s: %v, want %q", given, err, want)
		}
	}
}

func TestRunPassesPortsOn(t *testing.T) {
	t.Parallel()
	var p portFlags
	p.publish, p.expose, p.all = []string{"8080:80", "53/udp"}, []string{"9000-9001"}, true
	var got weftv1.CreateSandboxRequest
	if err := p.into(&got); err != nil {
		t.Fatal(err)
	}
	want := &weftv1.CreateSandboxRequest{
		Ports:  []*weftv1.PortSpec{spec("tcp", "", 8080, 8080, 80, 80), spec("udp", "", 0, 0, 53, 53)},
		Expose: []*weftv1.PortSpec{spec("tcp", "", 0, 0, 9000, 9001)}, PublishAll: true,
	}
	if diff := cmp.Diff(want, &got, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
}

// Whatever is given: no panic, and what is taken makes sense.
func FuzzParsePublish(f *testing.F) {
	for _, s := range []string{"80", "[::1]:1-2:3-4/udp", "a=b", "published=1,target=2", "::", "1.2.3.4::80", "-", "1-1:1", "1:2:3:4:5"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		specs, err := parsePublish([]string{s})
		if err != nil {
			return
		}
		for _, p := range specs {
			if p.First == 0 || p.First != p.Last || p.Last > 65535 || p.HostLast < p.HostFirst || p.HostLast > 65535 || p.HostFirst == 0 && p.HostLast != 0 {
				t.Errorf("-p %q gives %v", s, p)
			}
		}
	})
}

func FuzzParseExpose(f *testing.F) {
	for _, s := range []string{"80", "80-90/udp", "0", "-1", "/tcp", "1-"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		specs, err := parseExpose([]string{s})
		if err == nil && (len(specs) != 1 || specs[0].First == 0 || specs[0].Last < specs[0].First || specs[0].Last > 65535) {
			t.Errorf("--expose %q gives %v", s, specs)
		}
	})
}

func binding(proto, ip string, host, port uint32) *weftv1.PortBinding {
	return &weftv1.PortBinding{Protocol: proto, HostIp: ip, HostPort: host, Port: port}
}

func TestTheColumnOfPortsIsDockers(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		s    *weftv1.Sandbox
		want string
	}{
		{"nothing", &weftv1.Sandbox{}, ""},
		{"exposed", &weftv1.Sandbox{Expose: []*weftv1.PortSpec{spec("tcp", "", 0, 0, 80, 82), spec("udp", "", 0, 0, 53, 53)}}, "53/udp, 80-82/tcp"},
		{"both families", &weftv1.Sandbox{
			Ports:     []*weftv1.PortSpec{spec("tcp", "", 8080, 8080, 80, 80)},
			Published: []*weftv1.PortBinding{binding("tcp", "0.0.0.0", 8080, 80), binding("tcp", "::", 8080, 80)},
		}, "0.0.0.0:8080->80/tcp, [::]:8080->80/tcp"},
		{"same ports become ranges", &weftv1.Sandbox{
			Published: []*weftv1.PortBinding{binding("tcp", "0.0.0.0", 81, 81), binding("tcp", "0.0.0.0", 80, 80), binding("udp", "127.0.0.1", 82, 82)},
		}, "0.0.0.0:80-81->80-81/tcp, 127.0.0.1:82->82/udp"},
		{"others stay by themselves, at the end", &weftv1.Sandbox{
			Expose:    []*weftv1.PortSpec{spec("tcp", "", 0, 0, 99, 99)},
			Published: []*weftv1.PortBinding{binding("tcp", "0.0.0.0", 8081, 81), binding("tcp", "0.0.0.0", 8080, 80)},
		}, "99/tcp, 0.0.0.0:8080->80/tcp, 0.0.0.0:8081->81/tcp"},
		{"a gap ends a range", &weftv1.Sandbox{Expose: []*weftv1.PortSpec{spec("tcp", "", 0, 0, 80, 81), spec("tcp", "", 0, 0, 90, 90)}}, "80-81/tcp, 90/tcp"},
	} {
		c.s.Status = "running"
		if got := portsColumn(c.s); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
		c.s.Status = "exited"
		if got := portsColumn(c.s); got != "" {
			t.Errorf("%s, not running: %q", c.name, got)
		}
	}
}

func TestInspectShowsPortsAsDockerDoes(t *testing.T) {
	t.Parallel()
	v := sandboxView(&weftv1.Sandbox{
		Status: "running", Ports: []*weftv1.PortSpec{spec("tcp", "", 8000, 8010, 80, 80)}, Expose: []*weftv1.PortSpec{spec("udp", "", 0, 0, 53, 53)},
		Published: []*weftv1.PortBinding{binding("tcp", "0.0.0.0", 8003, 80), binding("tcp", "::", 8003, 80)}, PublishAll: true,
	})
	if diff := cmp.Diff(portMap{"80/tcp": {{"0.0.0.0", "8003"}, {"::", "8003"}}, "53/udp": nil}, v.NetworkSettings.Ports); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(portMap{"80/tcp": {{"", "8000-8010"}}}, v.HostConfig.PortBindings); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]struct{}{"80/tcp": {}, "53/udp": {}}, v.Config.ExposedPorts); diff != "" || !v.HostConfig.PublishAllPorts {
		t.Error(diff, v.HostConfig.PublishAllPorts)
	}
}

func TestPortListsAsDockerDoes(t *testing.T) {
	t.Parallel()
	s := &weftv1.Sandbox{Published: []*weftv1.PortBinding{
		binding("tcp", "::", 8080, 80), binding("udp", "127.0.0.1", 5353, 53), binding("tcp", "0.0.0.0", 8080, 80),
		binding("tcp", "0.0.0.0", 32768, 80),
	}}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"c1"}, "53/udp -> 127.0.0.1:5353|80/tcp -> 0.0.0.0:8080|80/tcp -> 0.0.0.0:32768|80/tcp -> [::]:8080"},
		{[]string{"c1", "80"}, "0.0.0.0:8080|0.0.0.0:32768|[::]:8080"},
		{[]string{"c1", "80/tcp"}, "0.0.0.0:8080|0.0.0.0:32768|[::]:8080"},
		{[]string{"c1", "53/udp"}, "127.0.0.1:5353"},
		{[]string{"c1", "80/udp"}, "No public port '80/udp' published for c1"},
		{[]string{"c1", "x"}, "invalid port (x): invalid syntax"},
		{[]string{"c1", "70000"}, "invalid port (70000): value out of range"},
	} {
		lines, err := portLines(s, c.args)
		if err != nil {
			lines = slices.Concat(lines, []string{err.Error()})
		}
		if got := strings.Join(lines, "|"); got != c.want {
			t.Errorf("port %s: %q, want %q", fmt.Sprint(c.args), got, c.want)
		}
	}
}
