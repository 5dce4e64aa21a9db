package lab

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// manager is as much of a service manager as an agent speaks to: it hears of its state and keeps file descriptors for the next agent, by
// systemd's protocol (sd_notify(3), sd_listen_fds(3)).
type manager struct {
	conn *net.UnixConn
	path string
	done chan struct{} // closed when nothing is heard any more

	mu    sync.Mutex // guards what follows
	kept  []keptFile
	ready int // how often an agent has said so
}

type keptFile struct {
	name string
	fd   int
}

// Manage has the host's agents started by a service manager that keeps their file descriptors, from the next start on.
func (h *Host) Manage() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.manager != nil {
		return nil
	}
	path := filepath.Join(h.Dir(), "notify.sock")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("manage %s: %w", h.Name, err)
	}
	h.manager = &manager{conn: c, path: path, done: make(chan struct{})}
	go h.manager.hear()
	return nil
}

// Kept returns how many file descriptors are kept by each name; nil for a host that is not managed.
func (h *Host) Kept() map[string]int {
	h.mu.Lock()
	m := h.manager
	h.mu.Unlock()
	if m == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	out := map[string]int{}
	for _, k := range m.kept {
		out[k.name]++
	}
	return out
}

// SaidReady returns how often an agent has told the host's service manager that it is ready.
func (h *Host) SaidReady() int {
	h.mu.Lock()
	m := h.manager
	h.mu.Unlock()
	if m == nil {
		return 0
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ready
}

// hear takes messages until the socket is closed.
func (m *manager) hear() {
	defer close(m.done)
	text, rights := make([]byte, 4096), make([]byte, 4096)
	for {
		n, rn, _, _, err := m.conn.ReadMsgUnix(text, rights)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		m.take(string(text[:n]), filesOf(rights[:rn]))
	}
}

func filesOf(rights []byte) (out []int) {
	all, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		return nil
	}
	for _, c := range all {
		fds, err := unix.ParseUnixRights(&c)
		if err == nil {
			out = append(out, fds...)
		}
	}
	for _, fd := range out {
		unix.CloseOnExec(fd)
	}
	return out
}

// take does what a message says. File descriptors that nobody asks to keep are closed.
func (m *manager) take(text string, fds []int) {
	said := map[string]string{}
	for l := range strings.Lines(text) {
		k, v, _ := strings.Cut(strings.TrimSpace(l), "=")
		said[k] = v
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if said["READY"] == "1" {
		m.ready++
	}
	if said["FDSTOREREMOVE"] == "1" {
		m.kept = keepOnly(m.kept, func(k keptFile) bool { return k.name != said["FDNAME"] })
	}
	for _, fd := range fds {
		if said["FDSTORE"] == "1" {
			m.kept = append(m.kept, keptFile{said["FDNAME"], fd})
		} else {
			_ = unix.Close(fd)
		}
	}
}

// keepOnly closes those that are not to stay.
func keepOnly(all []keptFile, stays func(keptFile) bool) (out []keptFile) {
	for _, k := range all {
		if stays(k) {
			out = append(out, k)
		} else {
			_ = unix.Close(k.fd)
		}
	}
	return out
}

// prepare has cmd begin with what is kept. Which process it is can be told by that process alone: a shell does, before it becomes cmd.
// The returned function is to be called when cmd has started.
func (m *manager) prepare(cmd *exec.Cmd) (started func(), err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var names []string
	for _, k := range m.kept {
		dup, err := unix.FcntlInt(uintptr(k.fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("hand %s over: %w", k.name, err), closeAll(cmd.ExtraFiles))
		}
		cmd.ExtraFiles, names = append(cmd.ExtraFiles, os.NewFile(uintptr(dup), k.name)), append(names, k.name)
	}
	cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+m.path, "LISTEN_FDS="+strconv.Itoa(len(names)), "LISTEN_FDNAMES="+strings.Join(names, ":"))
	cmd.Args = append([]string{"sh", "-c", `LISTEN_PID=$$ exec "$@"`, "sh"}, append([]string{cmd.Path}, cmd.Args[1:]...)...)
	cmd.Path = "/bin/sh"
	return func() { _ = closeAll(cmd.ExtraFiles) }, nil
}

func closeAll(files []*os.File) (err error) {
	for _, f := range files {
		err = errors.Join(err, f.Close())
	}
	return err
}

// forget closes what is kept, as a service manager does that ends with its machine.
func (m *manager) forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.kept = keepOnly(m.kept, func(keptFile) bool { return false })
}

func (m *manager) close() {
	_ = m.conn.Close() // nothing is left to be heard
	<-m.done
	m.forget()
}

// unmanage ends the host's service manager, if it has one.
func (h *Host) unmanage() {
	h.mu.Lock()
	m := h.manager
	h.manager = nil
	h.mu.Unlock()
	if m != nil {
		m.close()
	}
}
