package dockerd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// daemon serves containers on a socket, and returns DOCKER_HOST.
func daemon(t *testing.T, handle http.HandlerFunc) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "weft-dockerd-")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: handle}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close(); <-done; _ = os.RemoveAll(dir) })
	return "unix://" + path
}

func TestContainer(t *testing.T) {
	t.Parallel()
	const answer = `{"Id":"abc","Name":"/web","State":{"Running":%v,"Pid":%d},"Config":{"Hostname":"h"},"HostConfig":{"NetworkMode":"bridge"}}`
	host := daemon(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.EscapedPath() {
		case "/containers/web/json":
			fmt.Fprintf(w, answer, true, os.Getpid())
		case "/containers/stopped/json":
			fmt.Fprintf(w, answer, false, 0)
		case "/containers/restarting/json":
			fmt.Fprintf(w, answer, true, 0)
		case "/containers/bad%2Fname/json":
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprint(w, `{"message":"bad parameter"}`)
		case "/containers/odd/json":
			fmt.Fprint(w, `[]`)
		case "/containers/empty/json":
			fmt.Fprint(w, `{}`)
		default:
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprint(w, `{"message":"No such container: x"}`)
		}
	})
	c := New(host)
	for ref, want := range map[string]Container{
		"web":        {ID: "abc", Name: "web", Hostname: "h", NetworkMode: "bridge", Running: true, Netns: fmt.Sprintf("/proc/%d/root/proc/%[1]d/ns/net", os.Getpid()), pid: os.Getpid()},
		"stopped":    {ID: "abc", Name: "web", Hostname: "h", NetworkMode: "bridge"},
		"restarting": {ID: "abc", Name: "web", Hostname: "h", NetworkMode: "bridge"},
	} {
		if got, err := c.Container(t.Context(), ref); err != nil || got != want {
			t.Errorf("%s: %+v, %v, want %+v", ref, got, err, want)
		}
	}
	if _, err := c.Container(t.Context(), "gone"); !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "No such container: gone") {
		t.Errorf("gone: %v", err)
	}
	for ref, words := range map[string]string{"bad/name": "400 bad parameter", "odd": "read the Docker daemon's answer", "empty": "is none"} {
		if _, err := c.Container(t.Context(), ref); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: %v, want %q", ref, err, words)
		}
	}
}

func TestADaemonThatIsNotThere(t *testing.T) {
	t.Parallel()
	if _, err := New("unix:///does/not/exist").Container(t.Context(), "x"); err == nil || !strings.Contains(err.Error(), "unix:///does/not/exist") || errors.Is(err, ErrNotFound) {
		t.Errorf("no socket: %v", err)
	}
	for _, host := range []string{"tcp://192.0.2.1:2375", "unix://", "nonsense"} {
		if _, err := New(host).Container(t.Context(), "x"); err == nil || !strings.Contains(err.Error(), "DOCKER_HOST "+host) {
			t.Errorf("%s: %v", host, err)
		}
	}
	hung := make(chan struct{})
	host := daemon(t, func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-hung:
		case <-r.Context().Done():
		}
	})
	defer close(hung)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	begin := time.Now()
	if _, err := New(host).Container(ctx, "x"); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) > patience {
		t.Errorf("a daemon that hangs: %v after %v", err, time.Since(begin))
	}
}

func FuzzParse(f *testing.F) {
	f.Add(200, []byte(`{"Id":"abc","Name":"/web","State":{"Running":true,"Pid":42}}`))
	f.Add(404, []byte(`{"message":"x"}`))
	f.Add(500, []byte(`<html>`))
	f.Fuzz(func(t *testing.T, status int, raw []byte) {
		c, err := parse("x", status, raw)
		if err == nil && (c.ID == "" || c.pid < 0 || c.Running != (c.pid > 0)) {
			t.Errorf("%d %q: %+v", status, raw, c)
		}
	})
}
