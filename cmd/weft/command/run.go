package command

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	weftv1 "weft/proto/weft/v1"
)

func (c *cli) runCommand() *cobra.Command {
	var r runFlags
	cmd := &cobra.Command{
		Use: "run [OPTIONS] [--] COMMAND [ARG...]", Short: "Run a process in a new sandbox", Args: atLeast(1),
		Long: `Run a process in a new sandbox: a network namespace with addresses of its networks, names and a host name of its own,
and the files of this host. In the foreground, stdin, signals and the exit code are passed on. The exit code is 125 where weft itself
failed, 126 where the command cannot be run, 127 where it was not found.`,
		Example: `  weft run -d --name db --network web -- postgres -D /srv/db
  weft run --rm --network web --network name=back,alias=c,ip=10.5.0.9 -- \
    curl http://db:5432`,
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveDefault
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.runSandbox(cmd, &r, args); err != nil {
				return runFault(err)
			}
			return nil
		},
	}
	r.add(cmd)
	return cmd
}

func (c *cli) runSandbox(cmd *cobra.Command, r *runFlags, args []string) error {
	if r.detach && !cmd.Flags().Changed("interactive") {
		r.stdin = false
	}
	req, err := r.request(args, c.env.Lookup)
	if err != nil {
		return err
	}
	if req.NetworkMode == "host" && (len(req.Ports) > 0 || req.PublishAll) {
		fmt.Fprintln(c.env.Err, "WARNING: Published ports are discarded when using host network mode")
	}
	if r.tty && !r.detach && r.stdin && cmd.Flags().Changed("interactive") {
		if err := c.needTerminal(); err != nil {
			return err
		}
	}
	keys, err := r.life.keys.parse()
	if err != nil {
		return err
	}
	if err := r.life.checkCID(); err != nil {
		return err
	}
	if r.detach {
		return c.runDetached(cmd.Context(), req, r.life.writeCID)
	}
	return c.runForeground(cmd.Context(), req, r.sigProxy, keys, r.life.writeCID)
}

func (c *cli) runDetached(ctx context.Context, req *weftv1.CreateSandboxRequest, told func(id string) error) error {
	made, err := call(ctx, c, (*client).CreateSandbox, req)
	if err != nil {
		return err
	}
	if err := told(made.Id); err != nil {
		c.discard(ctx, req, made.Id)
		return err
	}
	if _, err := call(ctx, c, (*client).StartSandbox, &weftv1.StartSandboxRequest{Ref: made.Id}); err != nil {
		c.cleanUp(ctx, req, made.Id)
		return err
	}
	_, err = fmt.Fprintln(c.env.Out, made.Id)
	return err
}

// cleanUp removes a sandbox whose process did not run, or has ended, when it was to be removed (--rm). The agent does so too; that the
// sandbox is gone when the command returns is what scripts rely on.
func (c *cli) cleanUp(ctx context.Context, req *weftv1.CreateSandboxRequest, id string) {
	if req.AutoRemove {
		c.discard(ctx, req, id)
	}
}

// discard removes a sandbox, whatever state it is in.
func (c *cli) discard(ctx context.Context, req *weftv1.CreateSandboxRequest, id string) {
	ctx = context.WithoutCancel(ctx) // also after a signal
	_, err := call(ctx, c, (*client).RemoveSandbox, &weftv1.RemoveSandboxRequest{Ref: id, Force: true})
	if err != nil && status.Code(err) != codes.NotFound {
		fmt.Fprintf(c.env.Err, "WARNING: sandbox %s was not removed: %s\n", req.Name, plain(err))
	}
}
