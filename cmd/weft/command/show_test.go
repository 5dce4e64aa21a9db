package command

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	weftv1 "weft/proto/weft/v1"
)

func TestStatus(t *testing.T) {
	now := time.Now()
	at := func(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(now.Add(-d)) }
	tests := []struct {
		s    *weftv1.Sandbox
		want string
	}{
		{&weftv1.Sandbox{Status: "created"}, "Created"},
		{&weftv1.Sandbox{Status: "running", Started: at(3 * time.Minute)}, "Up 3 minutes"},
		{&weftv1.Sandbox{Status: "exited", Finished: at(2 * time.Hour), Exit: &weftv1.Exit{Code: 137}}, "Exited (137) 2 hours ago"},
		{&weftv1.Sandbox{}, "Unknown"},
	}
	for _, tt := range tests {
		if got := statusOf(tt.s, now); got != tt.want {
			t.Errorf("%v: %q, want %q", tt.s, got, tt.want)
		}
	}
}

// The table of ps fits a terminal of 80 columns for names as people choose them, but for ports: they have the last column.
func TestPsFits(t *testing.T) {
	f, s := newFake(), newShell(t)
	f.sandboxes = []*weftv1.Sandbox{
		{Id: boxID, Name: "postgres-1", Command: []string{"postgres", "-D", "/srv/db/main"}, Status: "exited", Exit: &weftv1.Exit{Code: 1},
			Finished: timestamppb.New(time.Now().Add(-2 * time.Hour)), NetworkMode: "host"},
		{Id: oldID, Name: "web", Command: []string{"nginx"}, Status: "created"},
	}
	f.serve(t, s.path)
	r := s.run("ps", "-a")
	want := "SANDBOX ID     NAMES        COMMAND           STATUS                   NETWORKS   PORTS\n" +
		"bbbbbbbbbbbb   postgres-1   \"postgres -D …\"   Exited (1) 2 hours ago   host       \n" +
		"eeeeeeeeeeee   web          \"nginx\"           Created                             \n"
	if r.out != want || r.code != 0 {
		t.Errorf("exit %d:\n%s\nwant\n%s", r.code, r.out, want)
	}
	for line := range strings.Lines(strings.ReplaceAll(r.out, "PORTS", "")) {
		if n := utf8.RuneCountInString(strings.TrimRight(line, " \n")); n > 80 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
}

func TestParseSignal(t *testing.T) {
	for in, want := range map[string]syscall.Signal{"": 0, "9": 9, "KILL": 9, "sigterm": 15, "SIGRTMIN": 0, "64": 64, "65": 0, "-1": 0, "0": 0, "x": 0} {
		got, err := parseSignal(in)
		if got != want || (err == nil) != (want != 0 || in == "") {
			t.Errorf("%q: %d, %v; want %d", in, got, err, want)
		}
	}
}

// An error from the agent is its message, however it came here.
func TestPlain(t *testing.T) {
	agent := status.Error(codes.NotFound, "no such thing: x")
	for _, tt := range []struct {
		err  error
		want string
	}{
		{agent, "no such thing: x"},
		{fmt.Errorf("look for x: %w", agent), "look for x: no such thing: x"},
		{errors.Join(agent, nil), "no such thing: x"},
		{errors.New("plain"), "plain"},
	} {
		if got := plain(tt.err); got != tt.want {
			t.Errorf("%q, want %q", got, tt.want)
		}
	}
}

// A network of a sandbox that nobody knows now is shown by what was asked for.
func TestSandboxViewWithoutStore(t *testing.T) {
	v := sandboxView(&weftv1.Sandbox{Id: boxID, Status: "exited", Endpoints: []*weftv1.EndpointSettings{
		{Requested: &weftv1.Attachment{Network: "web"}},
		{Requested: &weftv1.Attachment{Network: webID, Ip6: "fd00::7"}, Endpoint: &weftv1.Endpoint{NetworkName: "six", Addresses: []string{"fd00::7/64"}, Gateway6: "fd00::1"}},
	}})
	if _, ok := v.NetworkSettings.Networks["web"]; !ok || v.HostConfig.NetworkMode != "web" {
		t.Errorf("%+v", v)
	}
	six := v.NetworkSettings.Networks["six"]
	if six.IPv6Gateway != "fd00::1" || six.Gateway != "" || six.GlobalIPv6Address != "fd00::7" || six.GlobalIPv6PrefixLen != 64 || six.IPAddress != "" || six.IPAMConfig.IPv6Address != "fd00::7" {
		t.Errorf("%+v", six)
	}
}
