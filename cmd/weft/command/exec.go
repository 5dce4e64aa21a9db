package command

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/spf13/cobra"

	weftv1 "weft/proto/weft/v1"
)

func (c *cli) execCommand() *cobra.Command {
	var r weftv1.ExecStart
	var env envFlags
	var detach bool
	var keys detaching
	cmd := &cobra.Command{
		Use: "exec [OPTIONS] SANDBOX COMMAND [ARG...]", Short: "Run a command in a running sandbox", Args: atLeast(2),
		Example: `  weft exec c1 ip addr
  weft exec -it c1 bash`,
		ValidArgsFunction: c.completeSandboxes(1, false),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			r.Ref, r.Command = args[0], args[1:]
			if r.Env, err = env.resolve(c.env.Lookup); err != nil {
				return err
			}
			leave, err := keys.parse()
			if err != nil {
				return err
			}
			if detach {
				r.Stdin = false
				return c.execDetached(cmd.Context(), &r)
			}
			if r.Tty && r.Stdin {
				if err := c.needTerminal(); err != nil {
					return err
				}
			}
			return c.exec(cmd.Context(), &r, leave)
		},
	}
	f := cmd.Flags()
	f.SetInterspersed(false)
	env.add(f)
	f.BoolVarP(&r.Stdin, "interactive", "i", false, "Pass standard input on")
	f.BoolVarP(&r.Tty, "tty", "t", false, "Give the command a terminal")
	f.StringVarP(&r.User, "user", "u", "", "User, and group, to run as (NAME|UID[:GROUP|GID])")
	f.StringVarP(&r.Workdir, "workdir", "w", "", "Working directory")
	f.BoolVarP(&detach, "detach", "d", false, "Leave the command in the background: nothing of it is shown")
	keys.add(cmd)
	foreign{"privileged": noSecurity}.add(cmd, nil, "privileged")
	return cmd
}

// execDetached returns as soon as the command runs.
func (c *cli) execDetached(ctx context.Context, req *weftv1.ExecStart) error {
	a, err := c.agent()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, o, err := begin(ctx, a.Exec, &weftv1.StreamInput{Kind: &weftv1.StreamInput_Exec{Exec: req}})
	if err != nil {
		return a.said(err)
	}
	if o.GetReady() {
		return nil
	}
	return ended(int(o.GetExit().GetCode()), o.GetExit().GetError())
}

func (c *cli) needTerminal() error {
	if _, ok := terminal(c.env.In); !ok {
		return errors.New("the input device is not a TTY")
	}
	return nil
}

func (c *cli) exec(ctx context.Context, req *weftv1.ExecStart, keys []byte) (err error) {
	a, err := c.agent()
	if err != nil {
		return err
	}
	con, err := c.openConsole(req.Stdin, req.Tty, keys)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, con.close()) }()
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	caught := make(chan os.Signal, 16)
	signal.Notify(caught, forwarded()...)
	defer signal.Stop(caught)
	signals := make(chan syscall.Signal)
	wg.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case s := <-caught:
				select {
				case signals <- s.(syscall.Signal):
				case <-ctx.Done():
				case <-caught: // the second one, while the first cannot be delivered: the user wants out
					cancel()
				}
			}
		}
	})
	r := con.relay(c, a)
	r.signals = signals
	req.Size = con.size()
	started := false
	exit, err := r.follow(ctx, a.Exec, &weftv1.StreamInput{Kind: &weftv1.StreamInput_Exec{Exec: req}}, func() { started = true })
	switch {
	case isDetached(err):
		return err
	case err != nil && ctx.Err() != nil:
		return &fault{code: 128 + int(syscall.SIGINT)}
	case started && (errors.Is(err, errNoExit) || errors.Is(err, errLost)):
		return fmt.Errorf("lost the agent at %s while the command ran in %s; its exit code is not known", a.host, req.Ref)
	case err != nil:
		return err
	}
	return ended(int(exit.Code), exit.Error)
}
