package command

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	weftv1 "weft/proto/weft/v1"
)

func (c *cli) restartCommand() *cobra.Command {
	var s stopping
	cmd := &cobra.Command{
		Use: "restart [OPTIONS] SANDBOX [SANDBOX...]", Short: "Stop and start one or more sandboxes", Args: atLeast(1),
		Example:           "  weft restart -t 30 db",
		ValidArgsFunction: c.completeSandboxes(-1, true),
		RunE: func(cmd *cobra.Command, args []string) error {
			stop, err := s.with(cmd, c)
			if err != nil {
				return err
			}
			return c.each(args, func(name string) error {
				if err := stop(name); err != nil {
					return err
				}
				_, err := call(cmd.Context(), c, (*client).StartSandbox, &weftv1.StartSandboxRequest{Ref: name})
				return c.done(name, err)
			})
		},
	}
	s.add(cmd)
	return cmd
}

// stopping are the flags of what stops a process.
type stopping struct {
	seconds int
	signal  string
}

func (s *stopping) add(cmd *cobra.Command) {
	cmd.Flags().IntVarP(&s.seconds, "time", "t", 10, "Seconds to wait before the process is killed (-1: for ever)")
	cmd.Flags().StringVarP(&s.signal, "signal", "s", "", "Signal to send, by name or number (default SIGTERM)")
}

// with gives the function that stops one sandbox.
func (s *stopping) with(cmd *cobra.Command, c *cli) (func(name string) error, error) {
	sig, err := parseSignal(s.signal)
	if err != nil {
		return nil, err
	}
	limit := time.Duration(s.seconds) * time.Second
	if s.seconds < 0 {
		limit = 365 * 24 * time.Hour
	}
	return func(name string) error {
		r := &weftv1.StopSandboxRequest{Ref: name, Signal: int32(sig), Timeout: durationpb.New(limit)}
		_, err := callWithin(cmd.Context(), c, limit+callTimeout, (*client).StopSandbox, r)
		return err
	}, nil
}

// done prints the name of what an operation has been done to.
func (c *cli) done(name string, err error) error {
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(c.env.Out, name)
	return err
}

func (c *cli) killCommand() *cobra.Command {
	signal := "KILL"
	cmd := &cobra.Command{
		Use: "kill [OPTIONS] SANDBOX [SANDBOX...]", Short: "Send a signal to one or more running sandboxes", Args: atLeast(1),
		Example: `  weft kill c1
  weft kill -s HUP web`,
		ValidArgsFunction: c.completeSandboxes(-1, false),
		RunE: func(cmd *cobra.Command, args []string) error {
			sig, err := parseSignal(signal)
			if err != nil {
				return err
			}
			return c.each(args, func(name string) error {
				_, err := call(cmd.Context(), c, (*client).SignalSandbox, &weftv1.SignalSandboxRequest{Ref: name, Signal: int32(sig)})
				return c.done(name, err)
			})
		},
	}
	cmd.Flags().StringVarP(&signal, "signal", "s", signal, "Signal to send, by name or number")
	return cmd
}

func (c *cli) waitCommand() *cobra.Command {
	return &cobra.Command{
		Use: "wait SANDBOX [SANDBOX...]", Short: "Block until sandboxes stop, then print their exit codes", Args: atLeast(1),
		Example:           "  weft wait c1",
		ValidArgsFunction: c.completeSandboxes(-1, false),
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := c.agent()
			if err != nil {
				return err
			}
			return c.each(args, func(name string) error {
				r, err := a.WaitSandbox(cmd.Context(), &weftv1.WaitSandboxRequest{Ref: name}) // a process takes as long as it takes
				return c.done(fmt.Sprint(r.GetExit().GetCode()), err)
			})
		},
	}
}
