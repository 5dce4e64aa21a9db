// Package dockerd asks a Docker daemon about its containers, over its unix socket: which process is a container's first, and so which network
// namespace is its. It changes nothing there, and knows nothing of weft.
package dockerd

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// DefaultHost is where dockerd listens.
	DefaultHost = "unix:///var/run/docker.sock"
	// patience bounds one question.
	patience = 3 * time.Second
	// maxAnswer bounds an answer, in bytes: a container's environment and labels are in it.
	maxAnswer = 8 << 20
)

// ErrNotFound says that there is no such container.
//
//lint:ignore ST1005 Docker's words
var ErrNotFound = errors.New("No such container")

// Container is what is known of one.
type Container struct {
	ID, Name    string
	Hostname    string
	Running     bool
	Netns       string // the file of its network namespace; "" where it does not run
	NetworkMode string // "host", "container:ID", …

	pid int // of its first process, as dockerd numbers processes
}

// Client asks one daemon. Its methods may be called concurrently.
type Client struct {
	host, path string
	err        error // of the address
}

// New prepares to ask the daemon at host, as DOCKER_HOST has it; "" for DefaultHost. An address that is no unix socket is told with each call.
func New(host string) *Client {
	if host == "" {
		host = DefaultHost
	}
	c := &Client{host: host}
	path, ok := strings.CutPrefix(host, "unix://")
	if !ok || path == "" {
		c.err = fmt.Errorf("DOCKER_HOST %s: weft asks the Docker daemon of its own host, at unix:///PATH", host)
	}
	c.path = path
	return c
}

// Container asks for a container by name, ID or unique prefix of one.
func (c *Client) Container(ctx context.Context, ref string) (Container, error) {
	if c.err != nil {
		return Container{}, c.err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	status, raw, peer, err := c.ask(ctx, "/containers/"+url.PathEscape(ref)+"/json")
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err() // and not what it did to the connection
		}
		return Container{}, fmt.Errorf("ask the Docker daemon at %s for container %s: %w", c.host, ref, err)
	}
	out, err := parse(ref, status, raw)
	if out.Running {
		out.Netns = netnsOf(out.pid, peer)
	}
	return out, err
}

// ask makes one request on a connection of its own: questions are rare, and an agent leaves no goroutine behind. peer is the process that
// listens; 0 where this host does not know it.
func (c *Client) ask(ctx context.Context, path string) (status int, raw []byte, peer int, err error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", c.path)
	if err != nil {
		return 0, nil, 0, err
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Now()) })
	defer stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker"+path, nil)
	if err != nil {
		return 0, nil, 0, err
	}
	req.Close = true
	if err := req.Write(conn); err != nil {
		return 0, nil, 0, err
	}
	r, err := http.ReadResponse(bufio.NewReader(conn), req)
	if err != nil {
		return 0, nil, 0, err
	}
	defer func() { _ = r.Body.Close() }()
	raw, err = io.ReadAll(io.LimitReader(r.Body, maxAnswer))
	return r.StatusCode, raw, listener(conn), err
}

// listener is the process that listens on the other end (unix(7), SO_PEERCRED).
func listener(conn net.Conn) int {
	u, ok := conn.(*net.UnixConn)
	if !ok {
		return 0
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return 0
	}
	pid := 0
	_ = raw.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid = int(cred.Pid)
		}
	})
	return pid
}

// netnsOf is the file of a process's network namespace. dockerd may be in a PID namespace of its own (it may itself run in a container): its
// own /proc has its numbers.
func netnsOf(pid, dockerd int) string {
	own := fmt.Sprintf("/proc/%d/ns/net", pid)
	if dockerd > 0 {
		if through := fmt.Sprintf("/proc/%d/root%s", dockerd, own); exists(through) {
			return through
		}
	}
	return own
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// parse reads an answer.
func parse(ref string, status int, raw []byte) (Container, error) {
	switch status {
	case http.StatusOK:
	case http.StatusNotFound:
		return Container{}, fmt.Errorf("%w: %s", ErrNotFound, ref)
	default:
		var refusal struct{ Message string }
		_ = json.Unmarshal(raw, &refusal) // what is no JSON says nothing
		return Container{}, fmt.Errorf("the Docker daemon refuses to tell of container %s: %d %s", ref, status, refusal.Message)
	}
	var v struct {
		ID    string `json:"Id"`
		Name  string
		State struct {
			Running    bool
			Restarting bool
			Pid        int
		}
		Config     struct{ Hostname string }
		HostConfig struct{ NetworkMode string }
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		return Container{}, fmt.Errorf("read the Docker daemon's answer about container %s: %w", ref, err)
	}
	if v.ID == "" || v.State.Pid < 0 {
		return Container{}, fmt.Errorf("the Docker daemon's answer about container %s is none", ref)
	}
	out := Container{ID: v.ID, Name: strings.TrimPrefix(v.Name, "/"), Hostname: v.Config.Hostname, NetworkMode: v.HostConfig.NetworkMode}
	if v.State.Running && v.State.Pid > 0 {
		out.Running, out.pid = true, v.State.Pid
	}
	return out, nil
}
