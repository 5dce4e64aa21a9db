package command

import (
	"errors"
	"io"
	"os"

	mobyterm "github.com/moby/term"
	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// chunkSize is how much of stdin goes into one message: half of what the contract allows.
const chunkSize = 32 << 10

// input reads stdin ahead by one chunk, over every reconnection. chunks is closed at the end of stdin.
type input struct {
	chunks   chan []byte
	quit     chan struct{}
	wake     *os.File // closed to end a wait for a terminal or pipe that has nothing to say; nil where stdin is no file
	done     chan struct{}
	detached chan struct{} // closed when the keys to detach were typed
}

// readInput starts reading; close ends it and takes no byte that comes later, so that those are there for whoever reads stdin next. Where keys
// are typed the reading ends as well.
func readInput(r io.Reader, keys []byte) (*input, error) {
	in := &input{chunks: make(chan []byte), quit: make(chan struct{}), done: make(chan struct{}), detached: make(chan struct{})}
	f, ok := r.(*os.File)
	if len(keys) > 0 {
		r = mobyterm.NewEscapeProxy(r, keys)
	}
	if !ok {
		go in.read(r, func() bool { return true })
		return in, nil
	}
	sleep, wake, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	in.wake = wake
	go func() {
		defer sleep.Close()
		in.read(r, func() bool { return readable(int(f.Fd()), int(sleep.Fd())) })
	}()
	return in, nil
}

func (in *input) close() {
	close(in.quit)
	if in.wake != nil {
		in.wake.Close()
	}
	<-in.done
}

func (in *input) read(r io.Reader, ready func() bool) {
	defer close(in.done)
	for ready() {
		b := make([]byte, chunkSize)
		n, err := r.Read(b)
		if n > 0 {
			select {
			case in.chunks <- b[:n]:
			case <-in.quit:
				return
			}
		}
		switch {
		case isDetached(err):
			close(in.detached)
			return
		case err != nil:
			close(in.chunks)
			return
		}
	}
}

// readable waits until a read of fd would not wait, or, with false, until the other end of sleep is closed.
func readable(fd, sleep int) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(sleep), Events: unix.POLLIN}}
	for {
		if _, err := unix.Poll(fds, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return true // what cannot be polled is read
		} else if err == nil {
			return fds[1].Revents == 0
		}
	}
}

// terminal is stdin as a terminal, if it is one.
func terminal(r io.Reader) (*os.File, bool) {
	f, ok := r.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return nil, false
	}
	return f, true
}

// inBackground says that a read of this terminal would stop the process: a job started with & .
func inBackground(f *os.File) bool {
	group, err := unix.IoctlGetInt(int(f.Fd()), unix.TIOCGPGRP)
	return err == nil && group != unix.Getpgrp()
}
