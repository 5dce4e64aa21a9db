package command

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/term"
)

// patience is how long an operation may take before a terminal is told that it is still going on.
const patience = time.Second

// progress shows on stderr, if that is a terminal, that something takes its time. The returned function wipes that away.
func (c *cli) progress() (stop func()) {
	return c.progressOf(func() string { return "waiting for the agent" })
}

// progressOf shows how far something has come.
func (c *cli) progressOf(text func() string) (stop func()) {
	f, ok := c.env.Err.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return func() {}
	}
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		spin(f, quit, text)
	}()
	return func() {
		close(quit)
		<-done
	}
}

func spin(f *os.File, quit <-chan struct{}, text func() string) {
	start := time.NewTimer(patience)
	defer start.Stop()
	select {
	case <-quit:
		return
	case <-start.C:
	}
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	defer fmt.Fprint(f, "\r\x1b[K")
	for i := 0; ; i++ {
		fmt.Fprintf(f, "\r%c %s \x1b[K", `|/-\`[i%4], text())
		select {
		case <-quit:
			return
		case <-tick.C:
		}
	}
}
