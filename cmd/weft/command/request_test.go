package command

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	weftv1 "weft/proto/weft/v1"
)

// requestTest is a command line, and the first thing that the agent is asked because of it.
type requestTest struct {
	args string
	want proto.Message
}

// envFile stands for the path of a file of variables.
const envFile = "FILE"

func requestTests() []requestTest {
	return []requestTest{
		{"network create n", &weftv1.CreateNetworkRequest{Name: "n", Driver: "bridge", IpamDriver: "default"}},
		{"network create -d overlay --subnet 10.1.0.0/24,10.2.0.0/24 --subnet fd00::/64 --gateway 10.1.0.1 --ip-range 10.1.0.0/25 " +
			"--aux-address r=10.1.0.2 --aux-address s=10.1.0.3 -o a=b=c -o flag --label l=1 --label bare --ipam-driver x --ipam-opt y=z " +
			"--internal --ipv6 --attachable --ingress --scope global --config-only --config-from other n",
			&weftv1.CreateNetworkRequest{
				Name: "n", Driver: "overlay", Subnets: []string{"10.1.0.0/24", "10.2.0.0/24", "fd00::/64"}, Gateways: []string{"10.1.0.1"},
				IpRanges: []string{"10.1.0.0/25"}, AuxAddresses: map[string]string{"r": "10.1.0.2", "s": "10.1.0.3"},
				Options: map[string]string{"a": "b=c", "flag": ""}, Labels: map[string]string{"l": "1", "bare": ""}, IpamDriver: "x",
				IpamOptions: map[string]string{"y": "z"}, Internal: true, Ipv6: true, Attachable: true, Ingress: true, Scope: "global",
				ConfigOnly: true, ConfigFrom: "other",
			}},
		{"network ls -f name=a -f name=b -f LABEL=k=v", &weftv1.ListNetworksRequest{Filters: []*weftv1.Filter{
			{Key: "name", Value: "a"}, {Key: "name", Value: "b"}, {Key: "label", Value: "k=v"}}}},
		{"network connect --alias a --alias b --ip 10.1.0.9 --ip6 fd00::9 --link x:y --link z --driver-opt k=v --gw-priority -3 --mac-address 02:00:00:00:00:01 n c",
			&weftv1.ConnectRequest{Target: "c", Attachment: &weftv1.Attachment{
				Network: "n", Aliases: []string{"a", "b"}, Ip: "10.1.0.9", Ip6: "fd00::9", MacAddress: "02:00:00:00:00:01", GwPriority: -3,
				Links: []*weftv1.Link{{Target: "x", Alias: "y"}, {Target: "z", Alias: "z"}}, DriverOptions: map[string]string{"k": "v"}}}},
		{"network connect --alias a --alias b,mode=vip --alias c,MODE=DNS n c", &weftv1.ConnectRequest{Target: "c", Attachment: &weftv1.Attachment{
			Network: "n", Aliases: []string{"a", "b", "c"}, VipAliases: []string{"b"}}}},
		{"network disconnect n c", &weftv1.DisconnectRequest{Network: "n", Target: "c"}},
		{"network disconnect --force n c", &weftv1.DisconnectRequest{Network: "n", Target: "c", Force: true}},
		{"network disconnect -f --live n c", &weftv1.DisconnectRequest{Network: "n", Target: "c", Force: true, Live: true}},
		{"ps -a -f status=exited", &weftv1.ListSandboxesRequest{All: true, Filters: []*weftv1.Filter{{Key: "status", Value: "exited"}}}},
		{"stop c", &weftv1.StopSandboxRequest{Ref: "c"}},
		{"stop -t -1 c", &weftv1.StopSandboxRequest{Ref: "c", Timeout: durationpb.New(-time.Second)}},
		{"restart -s INT c", &weftv1.RestartSandboxRequest{Ref: "c", Signal: 2}},
		{"rename c d", &weftv1.RenameSandboxRequest{Ref: "c", Name: "d"}},
		{"logs c", &weftv1.LogsRequest{Ref: "c", Tail: -1}},
		{"logs -f -n 5 --since 2026-03-04T05:06:07.5Z --until 1772600767.25 c", &weftv1.LogsRequest{Ref: "c", Follow: true, Tail: 5,
			Since: &timestamppb.Timestamp{Seconds: 1772600767, Nanos: 500000000}, Until: &timestamppb.Timestamp{Seconds: 1772600767, Nanos: 250000000}}},
		{"stop -t 0 -s 9 c", &weftv1.StopSandboxRequest{Ref: "c", Signal: 9, Timeout: durationpb.New(0)}},
		{"stop --time 3 --signal hup c", &weftv1.StopSandboxRequest{Ref: "c", Signal: 1, Timeout: durationpb.New(3 * time.Second)}},
		{"restart -t 3 c", &weftv1.RestartSandboxRequest{Ref: "c", Timeout: durationpb.New(3 * time.Second)}},
		{"kill c", &weftv1.SignalSandboxRequest{Ref: "c", Signal: 9}},
		{"kill -s usr1 c", &weftv1.SignalSandboxRequest{Ref: "c", Signal: 10}},
		{"network prune -f --filter label=a=b --filter until=1h", &weftv1.ListNetworksRequest{Filters: []*weftv1.Filter{
			{Key: "dangling", Value: "true"}, {Key: "type", Value: "custom"}, {Key: "label", Value: "a=b"}}}},
		{"rm -f c", &weftv1.RemoveSandboxRequest{Ref: "c", Force: true}},
		{"endpoint ls -f network=n -f host=h", &weftv1.ListEndpointsRequest{Filters: []*weftv1.Filter{{Key: "network", Value: "n"}, {Key: "host", Value: "h"}}}},
	}
}

func runRequestTests() []requestTest {
	return []requestTest{
		{"run -d sleep -d 10", &weftv1.CreateSandboxRequest{Command: []string{"sleep", "-d", "10"}, Detached: true, Once: true}},
		{"run -d -- sleep -- 10", &weftv1.CreateSandboxRequest{Command: []string{"sleep", "--", "10"}, Detached: true, Once: true}},
		{"run -d --ip 172.17.0.9 x", &weftv1.CreateSandboxRequest{Command: []string{"x"}, Detached: true, Once: true, Attachments: []*weftv1.Attachment{{Network: "bridge", Ip: "172.17.0.9"}}}},
		{"run -dit x", &weftv1.CreateSandboxRequest{Command: []string{"x"}, Detached: true, Once: true, Stdin: true, Tty: true}},
		{"run -d --restart on-failure:3 --stop-signal int --stop-timeout 3 --add-host a:[fd00::1] --add-host b=192.0.2.1 x", &weftv1.CreateSandboxRequest{
			Command: []string{"x"}, Detached: true, Once: true, Restart: &weftv1.RestartPolicy{Name: "on-failure", Max: 3}, StopSignal: 2,
			StopTimeout: durationpb.New(3 * time.Second), ExtraHosts: []string{"a:fd00::1", "b:192.0.2.1"}}},
		{"run -d --restart=no x", &weftv1.CreateSandboxRequest{Command: []string{"x"}, Detached: true, Once: true}},
		{"run -d --restart unless-stopped x", &weftv1.CreateSandboxRequest{Command: []string{"x"}, Detached: true, Once: true, Restart: &weftv1.RestartPolicy{Name: "unless-stopped"}}},
		{"run -d --network bridge x", &weftv1.CreateSandboxRequest{Command: []string{"x"}, Detached: true, Once: true, Attachments: []*weftv1.Attachment{{Network: "bridge"}}}},
		{"run -d --network host x", &weftv1.CreateSandboxRequest{Command: []string{"x"}, Detached: true, Once: true, NetworkMode: "host"}},
		{"run -d --net=none x", &weftv1.CreateSandboxRequest{Command: []string{"x"}, Detached: true, Once: true, NetworkMode: "none"}},
		{"run -d --network n --network name=m,alias=a,alias=b,ip=10.2.0.2,ip6=fd00::2,mac-address=02:00:00:00:00:02,link=x:y,driver-opt=k=v,gw-priority=7 " +
			"--ip 10.1.0.9 --ip6 fd00::9 --mac-address 02:00:00:00:00:01 --network-alias c --link t:u x",
			&weftv1.CreateSandboxRequest{Command: []string{"x"}, Detached: true, Once: true, Attachments: []*weftv1.Attachment{
				{Network: "n", Ip: "10.1.0.9", Ip6: "fd00::9", MacAddress: "02:00:00:00:00:01", Aliases: []string{"c"}, Links: []*weftv1.Link{{Target: "t", Alias: "u"}}},
				{Network: "m", Ip: "10.2.0.2", Ip6: "fd00::2", MacAddress: "02:00:00:00:00:02", Aliases: []string{"a", "b"},
					Links: []*weftv1.Link{{Target: "x", Alias: "y"}}, DriverOptions: map[string]string{"k": "v"}, GwPriority: 7},
			}}},
		{"run -d --network name=n,alias=a,alias=b,mode=vip,ip=10.1.0.2 --network-alias c,mode=vip --network-alias d x", &weftv1.CreateSandboxRequest{
			Command: []string{"x"}, Detached: true, Once: true, Attachments: []*weftv1.Attachment{
				{Network: "n", Ip: "10.1.0.2", Aliases: []string{"a", "b", "c", "d"}, VipAliases: []string{"b", "c"}}}}},
		{"run -d --rm --name c -h hh -u 1000:1000 -w /srv -t --dns 9.9.9.9 --dns-search a --dns-option b --dns-opt c --add-host x:10.0.0.1 -l a=b " +
			"-e A=1 -e HERE -e NOTHERE -e B= -e A=2 --env-file " + envFile + " x",
			&weftv1.CreateSandboxRequest{
				Name: "c", Command: []string{"x"}, Hostname: "hh", User: "1000:1000", Workdir: "/srv", Tty: true, AutoRemove: true, Detached: true, Once: true,
				Dns: []string{"9.9.9.9"}, DnsSearch: []string{"a"}, DnsOptions: []string{"b", "c"}, ExtraHosts: []string{"x:10.0.0.1"},
				Labels: map[string]string{"a": "b"}, Env: []string{"F=from file", "A=2", "HERE=yes", "B="},
			}},
	}
}

// What the agent is asked for is what the flags say.
func TestRequests(t *testing.T) {
	for _, tt := range append(requestTests(), runRequestTests()...) {
		t.Run(tt.args, func(t *testing.T) {
			f, s := newFake(), newShell(t)
			s.env["HERE"] = "yes"
			f.serve(t, s.path)
			file := tempFile(t, "# comment\n\n  F=from file\nA=0\nUNSET\n")
			r := s.run(strings.Fields(strings.ReplaceAll(tt.args, envFile+" ", file+" "))...)
			if r.code != 0 {
				t.Fatalf("exit %d: %s", r.code, r.err)
			}
			f.mu.Lock()
			defer f.mu.Unlock()
			got := f.asked[0]
			if d := cmp.Diff(tt.want, got, protocmp.Transform(), protocmp.IgnoreEmptyMessages()); d != "" {
				t.Errorf("the agent was asked (-want +got):\n%s", d)
			}
		})
	}
}

func TestEnvFileErrors(t *testing.T) {
	s := newShell(t)
	newFake().serve(t, s.path)
	r := s.run("run", "-d", "--env-file", tempFile(t, "A=1\nB C=1\n"), "x")
	if r.code != 125 || !strings.Contains(r.err, "line 2: variable 'B C' is not a valid name") {
		t.Errorf("exit %d: %s", r.code, r.err)
	}
}

// --rm removes also what did not start; without it the sandbox stays, as docker's container does.
func TestDetachedThatDoesNotStart(t *testing.T) {
	for _, rm := range []bool{true, false} {
		f, s := newFake(), newShell(t)
		f.serve(t, s.path)
		f.refuse[boxID] = status.Error(codes.FailedPrecondition, "no supervisor")
		args := []string{"run", "-d", "x"}
		if rm {
			args = []string{"run", "-d", "--rm", "x"}
		}
		r := s.run(args...)
		if want := "weft: no supervisor.\nSee 'weft run --help'.\n"; r.code != 125 || r.err != want || r.out != "" {
			t.Errorf("--rm=%v: exit %d, %q, %q; want 125 and %q", rm, r.code, r.out, r.err, want)
		}
		removed := f.count(func(m proto.Message) bool { _, ok := m.(*weftv1.RemoveSandboxRequest); return ok })
		if (removed == 1) != rm {
			t.Errorf("--rm=%v: removed %d times", rm, removed)
		}
	}
}

func TestCompletion(t *testing.T) {
	f, s := newFake(), newShell(t)
	f.fakeImport.note = f.note
	f.serve(t, s.path)
	tests := []struct{ args, want string }{
		{"network rm |", "web"},
		{"network rm web |", ""},
		{"network inspect web |", "bridge"},
		{"network connect |", "bridge web"},
		{"network connect bridge |", "c1"},
		{"network connect web |", ""}, // c1 is in it
		{"network connect web c1 |", ""},
		{"network connect bridge d|", "c1 docker:"},
		{"network connect bridge pid|", "c1 pid:"},
		{"network disconnect web |", "c1 c2"},
		{"network disconnect web c1 |", ""},
		{"network create -d |", "bridge overlay"},
		{"network create |", ""},
		{"network create --scope |", "local global"},
		{"network create --subnet |", ""},
		{"network create --ipam-driver |", "default"},
		{"network ls -f |", "id= name= driver= scope= type= label= dangling="},
		{"network ls -f type=|", "type=custom type=builtin"},
		{"network ls -f name=|", "name=bridge name=web"},
		{"network ls --format |", "json {{json .}} table {{.ID}} {{.Name}} {{.Driver}} {{.Scope}} {{.IPv4}} {{.IPv6}} {{.Internal}} {{.Labels}} {{.CreatedAt}}"},
		{"network ls |", ""},
		{"network prune --filter |", "label= label!= until="},
		{"endpoint ls -f host=|", "host=h1 host=h2"},
		{"stop |", "c1"},
		{"kill -s |", "TERM KILL HUP INT QUIT USR1 USR2 STOP CONT"},
		{"exec |", "c1"},
		{"rm |", "c1"},
		{"inspect |", "c1 bridge web"},
		{"run --network |", "bridge web host none"},
		{"run --link |", "c1"},
		{"run --name |", ""},
		{"ps -f |", "id= name= status= exited= label= network= before= since= publish= expose="},
		{"ps -f status=|", "status=created status=running status=restarting status=exited"},
		{"import release |", "bridge web"},
		{"import release web |", "web1 web2"},
		{"import release web web1 |", "web2"},
		{"completion |", "bash zsh fish"},
	}
	for _, tt := range tests {
		args := append([]string{"__complete"}, strings.Fields(tt.args)...)
		args[len(args)-1] = strings.TrimSuffix(args[len(args)-1], "|")
		r := s.run(args...)
		names, directive := r.out, ""
		if at := strings.LastIndex(r.out, "\n:"); at >= 0 {
			names, directive = r.out[:at], r.out[at+2:]
		} else if strings.HasPrefix(r.out, ":") {
			names, directive = "", r.out[1:]
		}
		if got := strings.Join(strings.Fields(names), " "); got != tt.want || r.code != 0 || strings.HasPrefix(directive, "1\n") {
			t.Errorf("%s: %q (directive %s, exit %d), want %q", tt.args, got, strings.TrimSpace(directive), r.code, tt.want)
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if r := s.run("completion", shell); r.code != 0 || !strings.Contains(r.out, "__complete") {
			t.Errorf("completion %s: exit %d, %d bytes", shell, r.code, len(r.out))
		}
	}
}

func TestCompletionWithoutAgentIsSilent(t *testing.T) {
	s := newShell(t)
	if r := s.run("__complete", "network", "rm", ""); r.code != 0 || !strings.HasPrefix(r.out, ":4") || strings.Contains(r.err, "Cannot") {
		t.Errorf("exit %d, %q, %q", r.code, r.out, r.err)
	}
}

// Every command explains itself, with an example, and takes the plain words for options.
func TestHelp(t *testing.T) {
	s := newShell(t)
	for _, args := range []string{
		"", "network", "network create", "network ls", "network inspect", "network rm", "network connect", "network disconnect", "network prune", "run", "restart", "attach", "logs", "rename", "kill", "wait", "exec", "ps",
		"stop", "start", "rm", "inspect", "endpoint", "endpoint ls", "host", "host ls", "version", "completion",
	} {
		r := s.run(append(strings.Fields(args), "--help")...)
		if r.code != 0 || r.err != "" || !strings.HasPrefix(r.out, "Usage:  weft "+args) || !strings.Contains(r.out, "\nExamples:\n  ") {
			t.Errorf("weft %s --help: exit %d, %q\n%s", args, r.code, r.err, r.out)
		}
		if strings.Contains(r.out, "[flags]") {
			t.Errorf("weft %s --help has [flags]", args)
		}
	}
}
