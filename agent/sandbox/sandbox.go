// Package sandbox makes the network namespaces of `weft run` and runs processes in them.
//
// Its place in the flow: the agent asks a Host for a namespace (Create), attaches endpoints to it, and then has the process started
// (Start). Each sandbox that runs has a supervisor: a process of the same binary (see Main) that holds the child, its terminal, its log
// and its exit status, and that serves a socket in the sandbox's directory. The agent is one of its clients and may be killed at any
// moment: the child does not notice, and the next agent finds it again (Recover).
//
// What is where:
//
//	<RunDir>/<id>/netns                        the network namespace, bound to a file
//	<RunDir>/<id>/hosts,resolv.conf,hostname   what the child sees in /etc
//	(host ports)                               held and served by the supervisor while they are published: listen*.go
//	<RunDir>/<id>/lock,sock                    held and served by the supervisor as long as it lives
//	<RunDir>/<id>/uts                          where there are no control groups: the namespace by which a sandbox's processes are known
//	<StateDir>/<id>/log.json,log.json.1        what the child wrote, as docker's json-file does
//	<StateDir>/<id>/exit.json                  how it ended; not there while it runs
//
// Files: sandbox.go, create.go, start.go, watch.go, attach.go, recover.go and stream.go are the agent's side; frame.go is the protocol;
// supervisor.go, serve.go, process.go, command.go, user.go, spawner.go, mount.go, bus.go, log.go and terminal.go the supervisor's;
// exitfile.go, probe.go, cgroup.go and proc.go are used by both.
package sandbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// ErrNotRunning is returned where a sandbox has no process now.
var ErrNotRunning = errors.New("the sandbox is not running")

// Config says where a Host keeps its files.
type Config struct {
	RunDir   string       // the Host's alone; need not outlive a reboot
	StateDir string       // the Host's alone; must outlive a reboot
	Binary   string       // whose main calls Main; "": this process's own
	Log      *slog.Logger // nil: nothing is logged
}

// Spec is a process to run.
type Spec struct {
	Hostname string   `json:"hostname,omitempty"` // "": the host's
	Command  []string `json:"command"`
	Env      []string `json:"env,omitempty"`     // K=V, over PATH, HOME, HOSTNAME and, with a terminal, TERM
	User     string   `json:"user,omitempty"`    // NAME|UID[:GROUP|GID]; "": root
	Workdir  string   `json:"workdir,omitempty"` // "": /
	TTY      bool     `json:"tty,omitempty"`
	Stdin    bool     `json:"stdin,omitempty"` // false: /dev/null

	// The rest is for Start only.
	Hosts       string `json:"-"`                      // content of /etc/hosts; "": the host's, unless SetHosts was called
	Resolv      string `json:"-"`                      // content of /etc/resolv.conf; "": the host's
	HostNetwork bool   `json:"host_network,omitempty"` // no network namespace of its own
	Detached    bool   `json:"detached,omitempty"`     // no Attach follows at once: do not hold the first output for one
}

// Exit is how a process ended.
type Exit struct {
	Code  int       `json:"code"` // 128+N where signal N ended it
	Error string    `json:"error,omitempty"`
	At    time.Time `json:"at,omitzero"`
}

// StartError says that a process could not be run because of what was asked for. Code is docker's: 127 where there is no such command,
// 126 where it cannot be executed, 125 for everything else.
type StartError struct {
	Code   int
	Reason string
}

func (e *StartError) Error() string { return e.Reason }

// ExitCode is Code, for those who know of exit codes only.
func (e *StartError) ExitCode() int { return e.Code }

func refuse(code int, format string, args ...any) *StartError {
	return &StartError{Code: code, Reason: fmt.Sprintf(format, args...)}
}

// Host has the sandboxes of this host. All methods may be called concurrently, but those that change one sandbox (Create, Start,
// Remove) must follow each other.
type Host struct {
	cfg     Config
	cgroups cgroups
	exited  chan string

	ctx    context.Context // of the watching goroutines
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu       sync.Mutex // guards the rest; never held across I/O
	runs     map[string]*run
	prepared map[string]ready
}

// New prepares the directories. Call Recover before anything else, and Close at the end.
func New(cfg Config) (*Host, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Binary == "" {
		cfg.Binary = "/proc/self/exe" // also where the file was replaced by a newer one
	}
	for _, d := range []*string{&cfg.RunDir, &cfg.StateDir} {
		abs, err := filepath.Abs(*d)
		if err != nil {
			return nil, fmt.Errorf("find the directory of sandboxes: %w", err)
		}
		if err := os.MkdirAll(abs, 0o700); err != nil {
			return nil, fmt.Errorf("make the directory of sandboxes: %w", err)
		}
		if *d, err = filepath.EvalSymlinks(abs); err != nil {
			return nil, fmt.Errorf("find the directory of sandboxes: %w", err)
		}
	}
	if err := shareDir(cfg.RunDir); err != nil {
		return nil, err
	}
	h := &Host{cfg: cfg, cgroups: findCgroups(cfg.RunDir), exited: make(chan string), runs: map[string]*run{}, prepared: map[string]ready{}}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	return h, nil
}

// Close ends what the Host itself does. Sandboxes go on.
func (h *Host) Close() {
	h.cancel()
	h.mu.Lock()
	for _, r := range h.runs {
		r.close()
	}
	unused := slices.Collect(maps.Values(h.prepared))
	clear(h.prepared)
	h.mu.Unlock()
	for _, v := range unused {
		v.discard()
	}
	h.wg.Wait()
	h.cgroups.leave()
}

// Exited tells of each process that ended, by its sandbox's ID, once: of those that Start started and of those that Recover found alive.
func (h *Host) Exited() <-chan string { return h.exited }

// NetnsPath is the file of a sandbox's network namespace. It is not there for a sandbox in the host's network or one that is down.
func (h *Host) NetnsPath(id string) string { return filepath.Join(h.runDir(id), "netns") }

// LogPath is the file of what a sandbox's processes wrote, the newest part of it.
func (h *Host) LogPath(id string) string { return filepath.Join(h.stateDir(id), logName) }

// PID is the process of a sandbox, or 0 where none runs.
func (h *Host) PID(id string) int {
	if r := h.run(id); r != nil && !r.ended() {
		return r.pid
	}
	return 0
}

func (h *Host) runDir(id string) string   { return filepath.Join(h.cfg.RunDir, id) }
func (h *Host) stateDir(id string) string { return filepath.Join(h.cfg.StateDir, id) }

func (h *Host) run(id string) *run {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.runs[id]
}

// checkID refuses what must not become a part of a path.
func checkID(id string) error {
	if id == "" || len(id) > 64 {
		return fmt.Errorf("sandbox ID %q: it must have 1 to 64 hexadecimal digits", id)
	}
	for _, c := range id {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return fmt.Errorf("sandbox ID %q: it must have hexadecimal digits only", id)
		}
	}
	return nil
}

// shareDir makes dir a mount of its own, so that a child can leave all the namespaces below it behind with one unmount, and a shared one,
// so that whoever copies the host's mounts hears of their removal and does not keep them alive.
func shareDir(dir string) error {
	err := unix.Mount("", dir, "none", unix.MS_SHARED|unix.MS_REC, "")
	if errors.Is(err, unix.EINVAL) { // not a mount yet
		if err = unix.Mount(dir, dir, "none", unix.MS_BIND|unix.MS_REC, ""); err == nil {
			err = unix.Mount("", dir, "none", unix.MS_SHARED|unix.MS_REC, "")
		}
	}
	if err != nil {
		return fmt.Errorf("share the directory of sandboxes %s: %w", dir, err)
	}
	return nil
}
