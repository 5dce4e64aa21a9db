package command

import (
	"fmt"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/protobuf/types/known/durationpb"

	weftv1 "weft/proto/weft/v1"
)

func (c *cli) restartCommand() *cobra.Command {
	var s stopping
	cmd := &cobra.Command{
		Use: "restart [OPTIONS] SANDBOX [SANDBOX...]", Short: "Restart one or more sandboxes", Args: atLeast(1),
		Long:              "Stop sandboxes and start them again, with the names and addresses that they had. One that does not run is started.",
		Example:           "  weft restart -t 30 db",
		ValidArgsFunction: c.completeSandboxes(-1, true),
		RunE: func(cmd *cobra.Command, args []string) error {
			sig, timeout, limit, err := s.parse(cmd)
			if err != nil {
				return err
			}
			return c.each(args, func(name string) error {
				r := &weftv1.RestartSandboxRequest{Ref: name, Signal: int32(sig), Timeout: timeout}
				_, err := callWithin(cmd.Context(), c, limit, (*client).RestartSandbox, r)
				return c.done(name, err)
			})
		},
	}
	s.add(cmd)
	return cmd
}

func (c *cli) renameCommand() *cobra.Command {
	return &cobra.Command{
		Use: "rename SANDBOX NEW_NAME", Short: "Rename a sandbox", Args: exactly(2),
		Long:              "Rename a sandbox, here and in all its networks: from then on names there answer to the new one. Its host name inside stays.",
		Example:           "  weft rename c1 db",
		ValidArgsFunction: c.completeSandboxes(1, true),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, err := call(cmd.Context(), c, (*client).RenameSandbox, &weftv1.RenameSandboxRequest{Ref: args[0], Name: args[1]})
			return err
		},
	}
}

// stopping are the flags of what stops a process.
type stopping struct {
	seconds int
	signal  string
}

func (s *stopping) add(cmd *cobra.Command) {
	cmd.Flags().SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if name == "timeout" { // docker's newer name
			name = "time"
		}
		return pflag.NormalizedName(name)
	})
	cmd.Flags().IntVarP(&s.seconds, "time", "t", 0, "Seconds to wait before the process is killed (-1: for ever; default: the sandbox's own, or 10)")
	cmd.Flags().StringVarP(&s.signal, "signal", "s", "", "Signal to send, by name or number (default: the sandbox's own, or SIGTERM)")
}

// forLong stands for a wait without end.
const forLong = 365 * 24 * time.Hour

// parse returns what to tell the agent, and how long to wait for it: what the sandbox itself says is not known here.
func (s *stopping) parse(cmd *cobra.Command) (sig syscall.Signal, timeout *durationpb.Duration, limit time.Duration, err error) {
	if sig, err = parseSignal(s.signal); err != nil {
		return 0, nil, 0, err
	}
	if !cmd.Flags().Changed("time") {
		return sig, nil, forLong, nil
	}
	t := time.Duration(s.seconds) * time.Second
	if t < 0 {
		return sig, durationpb.New(-time.Second), forLong, nil
	}
	return sig, durationpb.New(t), t + callTimeout, nil
}

// with gives the function that stops one sandbox.
func (s *stopping) with(cmd *cobra.Command, c *cli) (func(name string) error, error) {
	sig, timeout, limit, err := s.parse(cmd)
	if err != nil {
		return nil, err
	}
	return func(name string) error {
		r := &weftv1.StopSandboxRequest{Ref: name, Signal: int32(sig), Timeout: timeout}
		_, err := callWithin(cmd.Context(), c, limit, (*client).StopSandbox, r)
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
