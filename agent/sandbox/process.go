package sandbox

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// terminalGrace is how long what a process wrote last may be on its way through its terminal.
	terminalGrace = 50 * time.Millisecond
	// drainMax is what a pipe can hold at most, by the kernel's default.
	drainMax = 1 << 20
)

// process is one that the supervisor started, with its streams.
type process struct {
	pid      int
	bus      *bus
	terminal *os.File // nil: pipes
	stdin    *os.File // nil: none; with a terminal, that
	outputs  []*os.File
	pumps    sync.WaitGroup
	status   <-chan unix.WaitStatus
}

// launch starts what a Spec says. Its output goes to b from then on.
func launch(s *spawner, spec Spec, b *bus, cgroup *os.File) (*process, error) {
	p := &process{bus: b}
	var childs [3]*os.File
	err := s.do(func() error {
		c, err := resolve(spec)
		if err != nil {
			return err
		}
		if spec.TTY {
			err = p.openTerminal(&childs, c.who, spec.Stdin)
		} else {
			err = p.openPipes(&childs, c.who, spec.Stdin)
		}
		if err != nil {
			return err
		}
		p.pid, p.status, err = s.start(c, spec.TTY, childs, cgroup)
		return err
	})
	for _, f := range childs {
		_ = f.Close() // a nil one gives an error and nothing else
	}
	if err != nil {
		p.closeStreams()
		return nil, err
	}
	for i, f := range p.outputs {
		kind := frameStdout
		if i == 1 {
			kind = frameStderr
		}
		p.pumps.Go(func() { p.pump(f, kind) })
	}
	return p, nil
}

func (p *process) openTerminal(childs *[3]*os.File, who identity, stdin bool) error {
	ours, theirs, err := openTerminal(who.uid)
	if err != nil {
		return err
	}
	*childs = [3]*os.File{theirs, theirs, theirs}
	p.terminal, p.outputs = ours, []*os.File{ours}
	if stdin {
		p.stdin = ours
	}
	return nil
}

func (p *process) openPipes(childs *[3]*os.File, who identity, stdin bool) (err error) {
	if stdin {
		childs[0], p.stdin, err = os.Pipe()
	} else {
		childs[0], err = os.Open(os.DevNull)
	}
	if err != nil {
		return fmt.Errorf("make the standard input: %w", err)
	}
	for i := 1; i < 3; i++ {
		r, w, err := os.Pipe()
		if err != nil {
			return fmt.Errorf("make an output: %w", err)
		}
		childs[i] = w
		p.outputs = append(p.outputs, r)
	}
	for i, f := range childs { // so that /dev/stdin and the like can be opened by whoever it runs as
		if i > 0 || stdin {
			if err := f.Chown(int(who.uid), int(who.gid)); err != nil {
				return fmt.Errorf("hand the streams over: %w", err)
			}
		}
	}
	return nil
}

func (p *process) closeStreams() {
	if p.stdin != nil {
		_ = p.stdin.Close()
	}
	for _, f := range p.outputs {
		_ = f.Close()
	}
}

// pump brings one output to the bus until its end, or until the process has ended and nothing of its own is left in it.
func (p *process) pump(f *os.File, kind frameType) {
	buf := make([]byte, dataSize)
	for {
		n, err := f.Read(buf)
		if n > 0 {
			p.bus.write(kind, buf[:n])
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			p.drain(f, kind, buf)
		}
		if err != nil { // the end of a terminal is EIO
			return
		}
	}
}

// drain takes what is there and waits for nothing.
func (p *process) drain(f *os.File, kind frameType, buf []byte) {
	raw, err := f.SyscallConn()
	if err != nil {
		return
	}
	for total := 0; total < drainMax; {
		n := 0
		if err := raw.Control(func(fd uintptr) { n, _ = unix.Read(int(fd), buf) }); err != nil || n <= 0 {
			return
		}
		p.bus.write(kind, buf[:n])
		total += n
	}
}

// input takes a piece of standard input; it waits while the process does not read. What nobody takes is dropped.
func (p *process) input(data []byte) {
	if p.stdin != nil {
		_, _ = p.stdin.Write(data)
	}
}

// endInput ends a standard input that is no terminal.
func (p *process) endInput() {
	if p.stdin != nil && p.terminal == nil {
		_ = p.stdin.Close()
	}
}

func (p *process) resize(rows, columns uint16) error {
	if p.terminal == nil {
		return nil
	}
	err := resizeTerminal(p.terminal, rows, columns)
	if errors.Is(err, os.ErrClosed) || errors.Is(err, io.ErrClosedPipe) {
		return nil
	}
	return err
}

// settle waits, after the process has ended, until all that it wrote is on its way to log and readers.
func (p *process) settle() {
	p.endInput()
	p.bus.rush()
	grace := time.Duration(0)
	if p.terminal != nil {
		grace = terminalGrace
	}
	for _, f := range p.outputs { // whose end may never come: somebody else may hold them
		_ = f.SetReadDeadline(time.Now().Add(grace))
	}
	p.pumps.Wait()
	p.closeStreams()
}

// exitOf is a status as a shell tells it.
func exitOf(st unix.WaitStatus) Exit {
	e := Exit{Code: st.ExitStatus(), At: time.Now().UTC()}
	if st.Signaled() {
		e.Code = 128 + int(st.Signal())
	}
	return e
}
