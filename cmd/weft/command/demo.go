package command

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"weft/cmd/weft/demo"
)

func (c *cli) demoCommand() *cobra.Command {
	var o demo.Options
	var down bool
	cmd := &cobra.Command{
		Use: "demo [OPTIONS]", Short: "Show weft on three hosts made of network namespaces", Args: exactly(0),
		Long: `Put three hosts on this machine, as network namespaces with an agent each, show what weft does between them, and take
everything away again. It needs root and nothing else; the machine's own network is not touched.`,
		Example: `  sudo weft demo
  sudo weft demo --keep
  sudo weft demo --down`,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
			defer stop()
			// A reader that goes away is no reason to leave hosts behind: caught, the signal leaves an error of the write.
			pipe := make(chan os.Signal, 1)
			signal.Notify(pipe, syscall.SIGPIPE)
			defer signal.Stop(pipe)
			self, err := os.Executable()
			if err != nil {
				return fmt.Errorf("find this program's file: %w", err)
			}
			o.Out, o.Weft, o.Colour = c.env.Out, self, c.colours()
			if down {
				return demo.Down(ctx, o)
			}
			return demo.Run(ctx, o)
		},
	}
	cmd.Flags().BoolVar(&o.Keep, "keep", false, "Leave the hosts up, and say what can be tried")
	cmd.Flags().BoolVar(&down, "down", false, "End a demo that was kept")
	cmd.Flags().StringVar(&o.Weftd, "weftd", "", "The agent's program (default: beside this one, or on the path)")
	cmd.MarkFlagsMutuallyExclusive("keep", "down")
	cmd.AddCommand(c.demoServe(), c.demoFetch())
	return cmd
}

// colours tells whether colours are of use, and wanted.
func (c *cli) colours() bool {
	f, ok := c.env.Out.(*os.File)
	_, unwanted := c.env.Lookup("NO_COLOR")
	return ok && term.IsTerminal(int(f.Fd())) && !unwanted
}

// demoServe and demoFetch are what runs in the demo's sandboxes.
func (c *cli) demoServe() *cobra.Command {
	var listen string
	cmd := &cobra.Command{
		Use: "serve [OPTIONS] TEXT", Short: "Answer HTTP requests with a line of text", Args: exactly(1), Hidden: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			return untilSignal(cmd.Context(), func(ctx context.Context) error { return demo.Serve(ctx, listen, args[0]) })
		},
	}
	cmd.Flags().StringVar(&listen, "listen", ":80", "Address to listen on")
	return cmd
}

func (c *cli) demoFetch() *cobra.Command {
	var during time.Duration
	cmd := &cobra.Command{
		Use: "fetch [OPTIONS] URL...", Short: "Make HTTP requests and show who answers", Args: atLeast(1), Hidden: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			return untilSignal(cmd.Context(), func(ctx context.Context) error {
				if during > 0 {
					return demo.FetchSteadily(ctx, c.env.Out, args[0], during)
				}
				return demo.Fetch(ctx, c.env.Out, args)
			})
		},
	}
	cmd.Flags().DurationVar(&during, "for", 0, "Make requests over one connection for this long, and count them")
	return cmd
}

func untilSignal(ctx context.Context, run func(context.Context) error) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	return run(ctx)
}
