package command

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"sync"

	"github.com/spf13/cobra"

	weftv1 "weft/proto/weft/v1"
)

func (c *cli) attachCommand() *cobra.Command {
	var noStdin, sigProxy bool
	var keys detaching
	cmd := &cobra.Command{
		Use: "attach [OPTIONS] SANDBOX", Short: "Attach standard input, output and error to a running sandbox", Args: exactly(1),
		Long: `Attach to the process of a sandbox that runs: what it writes from now on is shown, signals and, where it was started with -i, stdin are passed
on. The exit code is the process's. On a terminal, ctrl-p ctrl-q leaves the process alone.`,
		Example: `  weft attach c1
  weft attach --no-stdin --sig-proxy=false web`,
		ValidArgsFunction: c.completeSandboxes(1, false),
		RunE: func(cmd *cobra.Command, args []string) error {
			detach, err := keys.parse()
			if err != nil {
				return err
			}
			return c.attach(cmd.Context(), args[0], attaching{stdin: !noStdin, sigProxy: sigProxy, keys: detach})
		},
	}
	f := cmd.Flags()
	f.BoolVar(&noStdin, "no-stdin", false, "Do not attach standard input")
	f.BoolVar(&sigProxy, "sig-proxy", true, "Pass signals on to the process")
	keys.add(cmd)
	return cmd
}

// attaching says how to attach.
type attaching struct {
	stdin, sigProxy bool
	start           bool   // the sandbox once its streams are there
	keys            []byte // to detach
}

func (c *cli) attach(ctx context.Context, name string, how attaching) error {
	r, err := call(ctx, c, (*client).InspectSandbox, &weftv1.InspectSandboxRequest{Ref: name})
	if err != nil {
		return err
	}
	s := r.Sandbox
	stdin := how.stdin && s.Stdin
	if s.Tty && stdin {
		if err := c.needTerminal(); err != nil {
			return err
		}
	}
	return c.foreground(ctx, how.sigProxy, func(ctx context.Context, p *process) error {
		p.keys = how.keys
		exit, err := p.join(ctx, s.Id, stdin, s.Tty, how.start)
		if err != nil {
			return p.orSignal(ctx, err)
		}
		return ended(int(exit.Code), exit.Error)
	})
}

// foreground has live run with a process whose signals are passed on.
func (c *cli) foreground(ctx context.Context, sigProxy bool, live func(context.Context, *process) error) error {
	a, err := c.agent()
	if err != nil {
		return err
	}
	p := &process{c: c, a: a}
	ctx, cancel := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil)
	if sigProxy {
		caught := make(chan os.Signal, 16)
		signal.Notify(caught, forwarded()...)
		defer signal.Stop(caught)
		wg.Go(func() { p.passSignals(ctx, caught, cancel) })
	}
	return live(ctx, p)
}

// join attaches to a sandbox, which it starts if asked to, until its process has ended or the user detaches.
func (p *process) join(ctx context.Context, id string, stdin, tty, start bool) (exit *weftv1.Exit, err error) {
	p.id = id
	if p.con, err = p.c.openConsole(stdin, tty, p.keys); err != nil {
		return nil, err
	}
	p.relay = p.con.relay(p.c, p.a)
	exit, err = p.run(ctx, start)
	return exit, errors.Join(err, p.con.close())
}
