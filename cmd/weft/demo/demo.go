// Package demo is `weft demo`: it puts three hosts on this machine, runs weft on them as a user would, shows what it runs and what comes
// back, and takes everything away again. It stands beside the command line and uses the programs from outside; serve.go and fetch.go are
// what runs in its sandboxes, so that no other software is needed.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"weft/e2e/lab"
)

// Options of the demo.
type Options struct {
	Out    io.Writer
	Colour bool
	Keep   bool   // leave the hosts up
	Weft   string // this program's file
	Weftd  string // "": beside this program's, or on the path
}

// Where the demo lives: fixed, so that what a demo left that was kept or killed is found.
const (
	dir       = "/run/weft-demo"
	netnsDir  = "/run/netns"
	prefix    = "weft-demo-"
	stepTime  = 30 * time.Second
	logLines  = 8
	hostCount = 3
)

func config(o Options) lab.Config {
	return lab.Config{Dir: dir, NetnsDir: netnsDir, Prefix: prefix, Weft: o.Weft, Weftd: o.Weftd}
}

// Run shows the demo. It leaves nothing on the machine, unless it is to keep the hosts.
func Run(ctx context.Context, o Options) (err error) {
	if err := o.check(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s := &show{out: o.Out, colour: o.Colour, gone: cancel}
	found, err := lab.Sweep(ctx, config(o))
	if err != nil {
		return busy(err)
	}
	if found {
		s.say("An earlier demo was still there; it has been taken down.\n")
	}
	before, err := lab.Look()
	if err != nil {
		return err
	}
	d := &demo{show: s, began: time.Now()}
	d.show.title("weft demo: three hosts on this machine, as network namespaces")
	l, err := lab.New(ctx, config(o))
	if err != nil {
		return busy(err)
	}
	d.lab = l
	kept := false
	defer func() { // also after a panic
		if !kept {
			err = errors.Join(err, l.Close())
		}
	}()
	if err := d.tell(ctx); err != nil {
		return d.explain(ctx, err)
	}
	if o.Keep {
		kept = true
		d.keep()
		return l.Leave()
	}
	return d.end(ctx, before)
}

// Down ends a demo that was kept.
func Down(ctx context.Context, o Options) error {
	if err := asRoot(); err != nil {
		return err
	}
	found, err := lab.Sweep(ctx, config(o))
	if err != nil {
		return busy(err)
	}
	text := "No demo was up."
	if found {
		text = "The demo is down; nothing of it is left."
	}
	_, err = fmt.Fprintln(o.Out, text)
	return err
}

func busy(err error) error {
	if errors.Is(err, lab.ErrBusy) {
		return errors.New("another weft demo is running: wait for it to end, or end it with Ctrl-C")
	}
	return err
}

func asRoot() error {
	if os.Geteuid() != 0 {
		return errors.New("weft demo makes network namespaces: run it as root (sudo weft demo)")
	}
	return nil
}

// check looks for what the demo needs before anything is made.
func (o *Options) check() error {
	if err := asRoot(); err != nil {
		return err
	}
	if o.Weftd == "" {
		o.Weftd = filepath.Join(filepath.Dir(o.Weft), "weftd")
		if _, err := os.Stat(o.Weftd); err != nil {
			found, err := exec.LookPath("weftd")
			if err != nil {
				return fmt.Errorf("weftd is neither beside %s nor on the path: say where it is with --weftd PATH", o.Weft)
			}
			o.Weftd = found
		}
	}
	path, err := filepath.Abs(o.Weftd)
	if err != nil {
		return err
	}
	if _, err := os.Stat(path); err != nil {
		return fmt.Errorf("--weftd %s: %w", o.Weftd, err)
	}
	o.Weftd = path
	return nil
}

// demo is one run.
type demo struct {
	*show
	lab   *lab.Lab
	hosts []*lab.Host
	began time.Time
}

// hostError is an error of one host, whose log may say more.
type hostError struct {
	host *lab.Host
	err  error
}

func (e *hostError) Error() string { return e.host.Name + ": " + e.err.Error() }
func (e *hostError) Unwrap() error { return e.err }

// explain adds what the host's agent logged last.
func (d *demo) explain(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return errors.New("interrupted; everything has been taken down")
	}
	var h *hostError
	if errors.As(err, &h) {
		return fmt.Errorf("%w\nthe last lines of its agent's log:\n%s", err, strings.TrimRight(h.host.Log(logLines), "\n"))
	}
	return err
}

// weft runs a command on a host, shows it and what it printed, and returns that.
func (d *demo) weft(ctx context.Context, h *lab.Host, args ...string) (string, error) {
	d.command(h.Name, "weft", args)
	r, err := h.Weft(ctx, d.real(args)...)
	if err != nil {
		return "", &hostError{h, err}
	}
	d.output(r.Stdout)
	d.output(r.Stderr)
	if r.Code != 0 {
		return "", &hostError{h, fmt.Errorf("weft %s: exit code %d", args[0], r.Code)}
	}
	return r.Stdout, nil
}

// real replaces the program that is to run in a sandbox, which is shown as `weft`, by its file.
func (d *demo) real(args []string) []string {
	out := append([]string(nil), args...)
	for i := range out {
		if i > 0 && out[i-1] == "--" && out[i] == "weft" {
			out[i] = d.lab.WeftPath()
		}
	}
	return out
}
