package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"

	"weft/e2e/lab"
	"weft/store/storetest/server"
)

// Some of the work needs a whole process in a node's namespace, with all its threads: this same program is then started there, with what
// it is to do in a variable. Nothing but its end or an error comes from it beside what it prints.
const childVar = "WEFT_BENCH_CHILD"

// childSpec is what a child is to do.
type childSpec struct {
	Work     string // txn, watch, neighbours, look
	Kind     server.Kind
	Endpoint string // of the store
	Times    int
	Rounds   int      // txn: of many callers
	Host     int      // neighbours: which of several hosts it is
	VTEP     string   // … the address that it is at
	Crowds   []crowd  // … and in each of these it has endpoints, Times many; look: the networks to read
	Spaces   []string // look: network namespaces, by their files
}

func runChild(ctx context.Context, text string, in io.Reader, out io.Writer) error {
	var spec childSpec
	if err := json.Unmarshal([]byte(text), &spec); err != nil {
		return fmt.Errorf("read what to do: %w", err)
	}
	switch spec.Work {
	case "txn":
		return childTransactions(ctx, spec, out)
	case "watch":
		return childWatch(ctx, spec, in, out)
	case "neighbours":
		return childNeighbours(ctx, spec, in, out)
	case "look":
		return childLook(ctx, spec, out)
	}
	return fmt.Errorf("unknown work %q", spec.Work)
}

// child is such a process. Its first line on stdout is its answer; it ends when its input does.
type child struct {
	cmd  *exec.Cmd
	in   io.Closer
	out  *bufio.Reader
	line []byte
}

// next is the next line that it prints.
func (c *child) next() (string, error) { return c.out.ReadString('\n') }

// startChild starts one on a node and waits for its first line.
func (b *bench) startChild(ctx context.Context, on *lab.Node, spec childSpec) (_ *child, err error) {
	spec.Kind, spec.Endpoint = b.kind, b.endpoint()
	text, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program's file: %w", err)
	}
	c := &child{cmd: exec.CommandContext(ctx, self)}
	c.cmd.Env = append(os.Environ(), childVar+"="+string(text))
	c.cmd.Stderr = os.Stderr
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := on.Start(c.cmd); err != nil {
		return nil, fmt.Errorf("start a process on %s: %w", on.Name, err)
	}
	c.out = bufio.NewReader(out)
	c.line, err = c.out.ReadBytes('\n')
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s on %s gave no answer: %w", spec.Work, on.Name, err), c.end())
	}
	return c, nil
}

// end closes the child's input and waits for its end.
func (c *child) end() error {
	_ = c.in.Close() // it has ended otherwise
	if err := c.cmd.Wait(); err != nil {
		return fmt.Errorf("a process of the bench: %w", err)
	}
	return nil
}
