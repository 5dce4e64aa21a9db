package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"syscall"
	"time"
)

// Frame is one piece of what a process wrote, or, last, its exit.
type Frame struct {
	Data   []byte
	Stderr bool
	Exit   *Exit
}

// Stream is a process's standard streams. One goroutine may receive and others send. Who holds one must receive until io.EOF or Close:
// a process whose output nobody takes waits. Close leaves the process alone.
type Stream struct {
	link   *link // nil: the process had ended before
	dir    string
	target string
	exit   *Exit
	told   bool
}

// Recv returns the next piece of output, then the exit, then io.EOF. An error that is not io.EOF means that the connection to the
// supervisor was lost, or closed.
func (s *Stream) Recv() (Frame, error) {
	if s.told {
		return Frame{}, io.EOF
	}
	if s.link == nil {
		s.told = true
		return Frame{Exit: s.exit}, nil
	}
	for {
		t, payload, err := s.link.receive()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return Frame{}, fmt.Errorf("read from the sandbox's supervisor: %w", err)
		}
		switch t {
		case frameStdout, frameStderr:
			return Frame{Data: payload, Stderr: t == frameStderr}, nil
		case frameExit:
			e := &Exit{}
			if err := json.Unmarshal(payload, e); err != nil {
				return Frame{}, fmt.Errorf("read a process's exit: %w", err)
			}
			s.told = true
			return Frame{Exit: e}, nil
		}
	}
}

// Write sends to the process's standard input; it waits while the process does not read. Where the process has none, or has closed it,
// the data is dropped.
func (s *Stream) Write(p []byte) (int, error) {
	if s.link == nil {
		return len(p), nil
	}
	for done := 0; done < len(p); {
		n := min(len(p)-done, dataSize)
		if err := s.link.send(frameStdin, p[done:done+n]); err != nil {
			return done, fmt.Errorf("write to the sandbox's supervisor: %w", err)
		}
		done += n
	}
	return len(p), nil
}

// CloseStdin ends the process's standard input, but not that of a terminal.
func (s *Stream) CloseStdin() error {
	if s.link == nil {
		return nil
	}
	if err := s.link.send(frameStdinEnd, nil); err != nil {
		return fmt.Errorf("write to the sandbox's supervisor: %w", err)
	}
	return nil
}

// Resize sets the size of the process's terminal, in characters. Without a terminal nothing happens.
func (s *Stream) Resize(rows, columns uint16) error {
	return s.ask(request{Op: opResize, Target: s.target, Rows: rows, Columns: columns})
}

// Signal sends a signal to the process; to one that has ended nothing happens.
func (s *Stream) Signal(sig syscall.Signal) error {
	return s.ask(request{Op: opSignal, Target: s.target, Signal: int(sig)})
}

// ask uses a connection of its own: on the stream's the request would wait behind input that the process does not read.
func (s *Stream) ask(q request) error {
	if s.link == nil {
		return nil
	}
	l, err := dial(s.dir)
	if err != nil {
		if gone(err) {
			return nil
		}
		return fmt.Errorf("reach the sandbox's supervisor: %w", err)
	}
	defer func() { _ = l.Close() }()
	if _, err := l.call(time.Now().Add(callTimeout), q); err != nil && !errors.Is(err, ErrNotRunning) && !gone(err) {
		return err
	}
	return nil
}

// Close ends the connection.
func (s *Stream) Close() error {
	if s.link == nil {
		return nil
	}
	return s.link.Close()
}
