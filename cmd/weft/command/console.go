package command

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/term"

	weftv1 "weft/proto/weft/v1"
)

// console is this side of a process in the foreground: stdin, the terminal's mode and size.
type console struct {
	in      *input
	resized chan os.Signal
	pipe    chan os.Signal
	tty     *os.File // stdin, where it is a terminal that the process has for its own
	saved   *term.State
}

// openConsole starts reading stdin if asked to, and hands the terminal over to the process that has asked for one. On a terminal, keys end the
// reading; nil for none.
func (c *cli) openConsole(stdin, tty bool, keys []byte) (*console, error) {
	con := &console{}
	f, isTerminal := terminal(c.env.In)
	if isTerminal && inBackground(f) {
		stdin, tty = false, false
	}
	if tty && isTerminal {
		saved, err := term.MakeRaw(int(f.Fd()))
		if err != nil {
			return nil, fmt.Errorf("hand the terminal over: %w", err)
		}
		con.tty, con.saved = f, saved
		con.resized = make(chan os.Signal, 1)
		signal.Notify(con.resized, syscall.SIGWINCH)
		// A reader of stdout that goes away must not end this process before it has given the terminal back.
		con.pipe = make(chan os.Signal, 1)
		signal.Notify(con.pipe, syscall.SIGPIPE)
	}
	if stdin {
		if con.tty == nil {
			keys = nil
		}
		in, err := readInput(c.env.In, keys)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("read standard input: %w", err), con.close())
		}
		con.in = in
	}
	return con, nil
}

// close gives the terminal back as it was.
func (con *console) close() error {
	if con.in != nil {
		con.in.close()
	}
	if con.tty == nil {
		return nil
	}
	signal.Stop(con.resized)
	signal.Stop(con.pipe)
	if err := term.Restore(int(con.tty.Fd()), con.saved); err != nil {
		return fmt.Errorf("give the terminal back: %w", err)
	}
	return nil
}

func (con *console) size() *weftv1.WindowSize {
	if con.tty == nil {
		return nil
	}
	return windowSize(con.tty)
}

func (con *console) relay(c *cli, a *client) *relay {
	return &relay{a: a, out: c.env.Out, err: c.env.Err, in: con.in, resized: con.resized, size: con.size}
}

// newline ends a line also on a terminal in raw mode.
func (con *console) newline() string {
	if con.tty != nil {
		return "\r\n"
	}
	return "\n"
}

// forwarded are the signals that are meant for the process.
func forwarded() []os.Signal {
	var out []os.Signal
	for _, s := range []os.Signal{
		syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGALRM,
	} {
		if !signal.Ignored(s) { // nohup, and jobs of a shell without job control
			out = append(out, s)
		}
	}
	return out
}
