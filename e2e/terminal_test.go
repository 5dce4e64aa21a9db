package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"weft/e2e/lab"
)

// screen is a terminal with a command at it: what the command shows is kept.
type screen struct {
	t     testing.TB
	outer *os.File
	cmd   *exec.Cmd
	wg    sync.WaitGroup

	mu   sync.Mutex // guards text
	text strings.Builder
}

// terminal runs a weft command at a terminal of 24 lines and 80 columns.
func (h *host) terminal(args ...string) *screen {
	t := h.c.t
	t.Helper()
	outer, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	must(t, err)
	raw, err := outer.SyscallConn()
	must(t, err)
	var n int
	must(t, raw.Control(func(fd uintptr) {
		must(t, unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0))
		n, err = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
	}))
	must(t, err)
	inner, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	must(t, err)
	defer inner.Close()
	s := &screen{t: t, outer: outer, cmd: h.Command(within(t, patience), args...)}
	s.resize(24, 80)
	s.cmd.Stdin, s.cmd.Stdout, s.cmd.Stderr = inner, inner, inner
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	must(t, s.cmd.Start())
	s.wg.Go(func() {
		buf := make([]byte, 4096)
		for {
			n, err := outer.Read(buf)
			s.mu.Lock()
			s.text.Write(buf[:n])
			s.mu.Unlock()
			if err != nil {
				return
			}
		}
	})
	t.Cleanup(func() { _ = outer.Close(); s.wg.Wait() })
	return s
}

func (s *screen) resize(rows, columns uint16) {
	s.t.Helper()
	raw, err := s.outer.SyscallConn()
	must(s.t, err)
	must(s.t, raw.Control(func(fd uintptr) {
		must(s.t, unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns}))
	}))
}

func (s *screen) types(keys string) {
	s.t.Helper()
	_, err := s.outer.WriteString(keys)
	must(s.t, err)
}

// shows waits for a text, which may have been there before.
func (s *screen) shows(text string) {
	s.t.Helper()
	eventually(s.t, patience, func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if !strings.Contains(s.text.String(), text) {
			return fmt.Errorf("%q is not among %q", text, s.text.String())
		}
		return nil
	})
}

// answers types a command at each new prompt until a text is shown.
func (s *screen) answers(command, text string) {
	s.t.Helper()
	prompts := 0
	eventually(s.t, patience, func() error {
		s.mu.Lock()
		shown := s.text.String()
		s.mu.Unlock()
		if strings.Contains(shown, text) {
			return nil
		}
		if n := strings.Count(shown, "ready>"); n != prompts {
			prompts = n
			s.types(command + "\r")
		}
		return fmt.Errorf("%q is not among %q", text, shown)
	})
}

// ends waits for the command's end.
func (s *screen) ends(code int) {
	s.t.Helper()
	_ = s.cmd.Wait()
	if got := s.cmd.ProcessState.ExitCode(); got != code {
		s.t.Errorf("%v ended with %d, want %d", s.cmd.Args, got, code)
	}
}

// A shell at a terminal: it knows its size and each new one, keys are its own, and who detaches finds it again.
func TestATerminal(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, lab.Embedded{})
	c.start()
	h := c.hosts[0]
	s := h.terminal("run", "-it", "--rm", "--name", "shell", "--network", "none", "-e", "PS1=ready>", "--", "sh")
	s.shows("ready>")
	s.types("stty size\r")
	s.shows("24 80")
	s.resize(40, 100)
	s.answers("stty size", "40 100") // the new size takes another way than the keys
	s.types("sh -c 'echo begin $((1+1)); exec sleep 1000'\r")
	s.shows("begin 2")
	s.types("\x03") // the shell's child's, and not weft's
	s.shows("^C")
	s.types("echo still $((40+2))\r")
	s.shows("still 42")
	s.types("\x10\x11")
	s.ends(0)
	if v := h.life("shell"); !runs(v) {
		t.Errorf("after detaching it is %+v", v)
	}
	s = h.terminal("attach", "shell")
	s.types("echo again $((40+3))\r")
	s.shows("again 43")
	s.types("exit 3\r")
	s.ends(3)
	h.refuses(1, "No such sandbox", "inspect", "--type", "sandbox", "shell") // --rm

	// In the background with a terminal it waits for somebody to attach.
	h.weft("run", "-dit", "--name", "later", "--network", "none", "--", "sh")
	s = h.terminal("attach", "--detach-keys", "ctrl-a,d", "later")
	s.types("echo once $((40+4))\r")
	s.shows("once 44")
	s.types("\x01d")
	s.shows("read escape sequence")
	s.ends(1)
	h.weft("rm", "-f", "later")
}
