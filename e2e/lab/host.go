package lab

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"weft/identity"
	"weft/kernel"
	weftv1 "weft/proto/weft/v1"
)

// Host is a node with an agent.
type Host struct {
	*Node
	Args       []string            // more options of weftd, after those of the lab
	Env        []string            // more of its environment
	Credential *syscall.Credential // nil: root
	Weftd      string              // the agent's program at the next start; "": the lab's
	StateDir   string              // as the next start of weftd has it
	VTEP       netip.Addr          // the zero Addr: the host's address
	NoJoin     bool                // without a certificate of the first host's authority

	number int

	mu      sync.Mutex // guards what follows
	agent   *process
	client  *grpc.ClientConn
	manager *manager // nil: agents are started without one
}

// AddHost plugs a new host in. Its agent is not started.
func (l *Lab) AddHost(name string) (*Host, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(l.hosts) + 1
	h := &Host{number: n, StateDir: filepath.Join(l.cfg.Dir, name, "state")}
	if err := os.MkdirAll(filepath.Join(l.cfg.Dir, name), 0o755); err != nil {
		return nil, fmt.Errorf("make the directory of %s: %w", name, err)
	}
	var err error
	if h.Node, err = l.makeNode(fmt.Sprint(n), hostAddr(n)); err != nil {
		return nil, err
	}
	h.Name = name
	if n == 1 {
		if l.authority, err = identity.CreateAuthority(h.pkiDir(), time.Now); err != nil {
			return nil, err
		}
	}
	l.hosts = append(l.hosts, h)
	return h, l.plug(h.Node, fmt.Sprintf("host%d", n))
}

// Dir is the host's own directory: its state, its run directory and its log.
func (h *Host) Dir() string     { return filepath.Join(h.lab.cfg.Dir, h.Name) }
func (h *Host) RunDir() string  { return filepath.Join(h.Dir(), "run") }
func (h *Host) LogPath() string { return filepath.Join(h.Dir(), "weftd.log") }

// Socket is the agent's admin socket, as -H and WEFT_HOST take it.
func (h *Host) Socket() string     { return "unix://" + h.socketPath() }
func (h *Host) socketPath() string { return filepath.Join(h.RunDir(), "weftd.sock") }

// Log returns the last lines that the agent logged.
func (h *Host) Log(lines int) string { return tail(h.LogPath(), lines) }

// Start starts the agent, which must not run.
func (h *Host) Start() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.agent != nil && h.agent.running() {
		return fmt.Errorf("start weftd on %s: it runs already", h.Name)
	}
	cmd, err := h.command()
	if err != nil {
		return err
	}
	started := func() {}
	if h.manager != nil {
		if started, err = h.manager.prepare(cmd); err != nil {
			return errors.Join(err, cmd.Stderr.(*os.File).Close())
		}
	}
	h.agent, err = launch(cmd, h.Node.Start)
	started()
	h.lab.cfg.Log.Debug("agent started", "host", h.Name, "error", err)
	return errors.Join(err, cmd.Stderr.(*os.File).Close())
}

// command is weftd as it is run here.
func (h *Host) command() (*exec.Cmd, error) {
	log, err := os.OpenFile(h.LogPath(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open the log of %s: %w", h.Name, err)
	}
	args := []string{
		"--config", os.DevNull, "-H", h.Socket(), "--state-dir", h.StateDir, "--run-dir", h.RunDir(),
		"--name", h.Name, "--cluster-advertise", "eth0",
	}
	join, err := h.join()
	if err != nil {
		return nil, errors.Join(err, log.Close())
	}
	args = slices.Concat(args, join, h.lab.cfg.Store.Args(h))
	cmd := exec.Command(cmp.Or(h.Weftd, h.lab.cfg.Weftd), append(args, h.Args...)...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(plainEnv(), h.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: h.Credential}
	return cmd, nil
}

// pkiDir is where the agent keeps its certificate, and the first one the authority's key.
func (h *Host) pkiDir() string { return filepath.Join(h.StateDir, "pki") }

// join lets the agent join the first host, as a user who has a token.
func (h *Host) join() ([]string, error) {
	if h.number == 1 || h.NoJoin {
		return nil, nil
	}
	h.lab.mu.Lock()
	authority := h.lab.authority
	h.lab.mu.Unlock()
	t, err := authority.Token(time.Hour)
	if err != nil {
		return nil, err
	}
	return []string{"--join", hostAddr(1).String(), "--token", t.Secret()}, nil
}

// identified waits for the certificate of a host that joins a first one that runs.
func (h *Host) identified(ctx context.Context) error {
	if h.NoJoin || !h.lab.Hosts()[0].Running() {
		return nil
	}
	return poll(ctx, 10*time.Millisecond, func() error {
		_, err := os.Stat(filepath.Join(h.pkiDir(), "host.pem"))
		return err
	})
}

// plainEnv is this process's environment without what the user has set for an agent, or a command, of their own.
func plainEnv() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "WEFT_") })
}

// Run runs weftd to its end, which is to come by itself, and returns what it said and its exit code.
func (h *Host) Run(ctx context.Context, args ...string) (Result, error) {
	cmd, err := h.command()
	if err != nil {
		return Result{}, err
	}
	defer func() { _ = cmd.Stderr.(*os.File).Close() }()
	var out, errs bytes.Buffer
	cmd.Args = append(cmd.Args, args...)
	whole := *cmd
	whole.Stdout, whole.Stderr = &out, &errs
	p, err := launch(&whole, h.Node.Start)
	if err != nil {
		return Result{}, err
	}
	select {
	case <-p.ended:
	case <-ctx.Done():
		_ = p.cmd.Process.Kill()
		<-p.ended
		return Result{}, fmt.Errorf("weftd on %s did not end by itself: %w; it said %s%s", h.Name, context.Cause(ctx), out.String(), errs.String())
	}
	return Result{Stdout: out.String(), Stderr: errs.String(), Code: whole.ProcessState.ExitCode()}, nil
}

// Up starts the agent and waits until it answers.
func (h *Host) Up(ctx context.Context) error {
	if err := h.Start(); err != nil {
		return err
	}
	return h.Ready(ctx)
}

// Ready waits until the agent answers on its admin socket.
func (h *Host) Ready(ctx context.Context) error {
	c, err := h.Client()
	if err != nil {
		return err
	}
	err = poll(ctx, 5*time.Millisecond, func() error {
		if !h.Running() {
			return nil
		}
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_, err := healthpb.NewHealthClient(c).Check(ctx, &healthpb.HealthCheckRequest{})
		return err
	})
	if err != nil {
		return fmt.Errorf("weftd on %s is not ready: %w", h.Name, err)
	}
	if !h.Running() {
		return fmt.Errorf("weftd on %s has ended: %s", h.Name, h.Log(3))
	}
	return nil
}

// Joined waits until the agent is a member of its cluster and has brought this host in line with it.
func (h *Host) Joined(ctx context.Context) error {
	c, err := h.Client()
	if err != nil {
		return err
	}
	cluster := weftv1.NewClusterClient(c)
	err = poll(ctx, 10*time.Millisecond, func() error {
		r, err := cluster.ListHosts(ctx, &weftv1.ListHostsRequest{})
		if err != nil {
			return err
		}
		for _, host := range r.Hosts {
			if host.Self && host.Name == h.Name && host.Incarnation > 0 && host.Vtep == h.vtep().String() && len(host.Notes) == 0 {
				return nil
			}
		}
		return fmt.Errorf("it lists the hosts %v", r.Hosts)
	})
	if err == nil {
		err = h.identified(ctx)
	}
	if err == nil {
		_, err = cluster.WaitApplied(ctx, &weftv1.WaitAppliedRequest{})
	}
	if err != nil {
		return fmt.Errorf("weftd on %s has not joined: %w", h.Name, err)
	}
	return nil
}

func (h *Host) vtep() netip.Addr {
	if h.VTEP.IsValid() {
		return h.VTEP
	}
	return h.Addr
}

// Running tells whether the agent's process is there.
func (h *Host) Running() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.agent != nil && h.agent.running()
}

// PID is the agent's process; 0 where there is none.
func (h *Host) PID() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.agent == nil || !h.agent.running() {
		return 0
	}
	return h.agent.cmd.Process.Pid
}

// Stop ends the agent as a service manager does; sandboxes go on.
func (h *Host) Stop(ctx context.Context) error { return h.signal(ctx, syscall.SIGTERM) }

// Kill ends the agent with SIGKILL; sandboxes go on.
func (h *Host) Kill() error { return h.signal(context.Background(), syscall.SIGKILL) }

func (h *Host) signal(ctx context.Context, sig syscall.Signal) error {
	h.mu.Lock()
	p := h.agent
	h.mu.Unlock()
	if p == nil {
		return nil
	}
	if err := p.end(ctx, sig); err != nil {
		return fmt.Errorf("end weftd on %s: %w", h.Name, err)
	}
	return nil
}

// reap waits for the agent, which has been killed.
func (h *Host) reap() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.agent != nil {
		<-h.agent.ended
	}
}

// Restart stops the agent, starts it again and waits until it answers.
func (h *Host) Restart(ctx context.Context) error {
	if err := h.Stop(ctx); err != nil {
		return err
	}
	return h.Up(ctx)
}

// PowerOff does to the host what the loss of power does: everything that runs is gone, and so are its interfaces and its run directory.
// What it has on disk stays. Start switches it on again.
func (h *Host) PowerOff(ctx context.Context) error {
	if err := h.Kill(); err != nil {
		return err
	}
	h.mu.Lock()
	if h.manager != nil {
		h.manager.forget()
	}
	h.mu.Unlock()
	if err := (remains{mark: h.Dir(), dir: h.RunDir()}).clear(ctx); err != nil {
		return fmt.Errorf("power %s off: %w", h.Name, err)
	}
	if err := h.lab.br.link(h.port, netlink.LinkDel); err != nil {
		return fmt.Errorf("power %s off: %w", h.Name, err)
	}
	if err := errors.Join(kernel.RemoveNetns(h.Path), kernel.MakeNetns(h.Path)); err != nil {
		return fmt.Errorf("power %s off: %w", h.Name, err)
	}
	return h.lab.plug(h.Node, h.port)
}

// Result is what a command said.
type Result struct {
	Stdout, Stderr string
	Code           int
}

// Weft runs the weft command against this host's agent. An error means that it could not be run; a command that failed has a Code.
func (h *Host) Weft(ctx context.Context, args ...string) (Result, error) {
	var out, errs bytes.Buffer
	cmd := h.Command(ctx, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || ctx.Err() != nil) {
		return Result{}, fmt.Errorf("run weft %v: %w", args, errors.Join(err, ctx.Err()))
	}
	return Result{Stdout: out.String(), Stderr: errs.String(), Code: cmd.ProcessState.ExitCode()}, nil
}

// Command is the weft command against this host's agent, not started.
func (h *Host) Command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, h.lab.cfg.Weft, args...)
	cmd.Env = append(plainEnv(), "WEFT_HOST="+h.Socket())
	return cmd
}

// Client is a connection to the admin socket. It outlives the agent's restarts.
func (h *Host) Client() (*grpc.ClientConn, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.client != nil {
		return h.client, nil
	}
	c, err := grpc.NewClient("passthrough:///"+h.Name,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", h.socketPath())
		}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 5 * time.Millisecond, Multiplier: 1.2, MaxDelay: 50 * time.Millisecond},
			MinConnectTimeout: time.Second,
		}))
	if err != nil {
		return nil, fmt.Errorf("prepare to speak to weftd on %s: %w", h.Name, err)
	}
	h.client = c
	return c, nil
}

func (h *Host) closeClient() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.client != nil {
		_ = h.client.Close() // nothing is left to be sent
		h.client = nil
	}
}
