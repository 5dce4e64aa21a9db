package command

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"weft/cmd/weft/table"
	weftv1 "weft/proto/weft/v1"
)

func (c *cli) psCommand() *cobra.Command {
	var l listing
	var all, latest bool
	var last int
	cmd := &cobra.Command{
		Use: "ps [OPTIONS]", Short: "List the sandboxes of this host", Args: exactly(0),
		Long: `List the sandboxes of this host, newest first: those that run or are started again, and namespaces that others made and that are connected to
networks; their COMMAND says what they are.`,
		Example: `  weft ps -a
  weft ps -f network=web --format '{{.Names}} {{.Status}}'`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if latest {
				last = 1
			}
			out, err := call(cmd.Context(), c, (*client).ListSandboxes, &weftv1.ListSandboxesRequest{All: all || last > 0, Filters: l.filters.list})
			if err != nil {
				return err
			}
			if last > 0 && last < len(out.Sandboxes) {
				out.Sandboxes = out.Sandboxes[:last]
			}
			list := table.List{
				Default: "{{.ID}}\t{{.Names}}\t{{.Command}}\t{{.Status}}\t{{.Networks}}\t{{.Ports}}",
				Titles:  map[string]string{"ID": "SANDBOX ID", "CreatedAt": "CREATED AT", "RunningFor": "CREATED"},
			}
			now := time.Now()
			for _, s := range out.Sandboxes {
				list.Rows = append(list.Rows, sandboxRow(s, &l, now))
			}
			return l.show(c, list)
		},
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "Show all sandboxes, not only those that run")
	cmd.Flags().IntVarP(&last, "last", "n", -1, "Show so many that were created last, also those that do not run")
	cmd.Flags().BoolVarP(&latest, "latest", "l", false, "Show the one that was created last, also if it does not run")
	l.add(cmd, "sandbox IDs", "id", "name", "status", "exited", "label", "network", "before", "since", "publish", "expose")
	foreign{"size": "a sandbox has the files of its host, and none of its own"}.add(cmd, map[string]string{"size": "s"}, "size")
	return cmd
}

func sandboxRow(s *weftv1.Sandbox, l *listing, now time.Time) table.Row {
	command := strings.Join(s.Command, " ")
	if s.External != "" {
		command = s.External
	}
	if !l.noTrunc {
		command = table.Shorten(command, 13)
	}
	var networks []string
	for _, e := range s.Endpoints {
		networks = append(networks, settingsName(e))
	}
	if len(networks) == 0 && s.NetworkMode != "" {
		networks = []string{s.NetworkMode}
	}
	return table.Row{
		"ID": l.id(s.Id), "Names": s.Name, "Name": s.Name, "Command": `"` + command + `"`, "CreatedAt": stamp(s.Created),
		"RunningFor": table.Ago(now.Sub(moment(s.Created))) + " ago", "State": s.Status, "Status": statusOf(s, now), "Ports": portsColumn(s),
		"Networks": strings.Join(networks, ","), "Labels": table.Labels(s.Labels),
	}
}

// statusOf is docker's: "Up 3 minutes", "Exited (0) 2 hours ago", "Created".
func statusOf(s *weftv1.Sandbox, now time.Time) string {
	switch s.Status {
	case "running":
		return "Up " + table.Ago(now.Sub(moment(s.Started))) + isolatedMark(s)
	case "exited":
		return fmt.Sprintf("Exited (%d) %s ago", s.GetExit().GetCode(), table.Ago(now.Sub(moment(s.Finished))))
	case "restarting":
		return fmt.Sprintf("Restarting (%d) %s ago", s.GetExit().GetCode(), table.Ago(now.Sub(moment(s.Finished))))
	case "":
		return "Unknown"
	}
	return strings.ToUpper(s.Status[:1]) + s.Status[1:]
}

// isolatedMark tells of a sandbox that lost one of its networks; inspect has the reason, and a restart attaches it anew.
func isolatedMark(s *weftv1.Sandbox) string {
	for _, e := range s.Endpoints {
		if e.GetIsolated() != "" {
			return " (isolated)"
		}
	}
	return ""
}

func (c *cli) stopCommand() *cobra.Command {
	var s stopping
	cmd := &cobra.Command{
		Use: "stop [OPTIONS] SANDBOX [SANDBOX...]", Short: "Stop one or more running sandboxes", Args: atLeast(1),
		Long: "Stop sandboxes: their process gets SIGTERM, and after a while SIGKILL. Names and static addresses stay held.",
		Example: `  weft stop c1
  weft stop -t 60 -s SIGINT db`,
		ValidArgsFunction: c.completeSandboxes(-1, false),
		RunE: func(cmd *cobra.Command, args []string) error {
			stop, err := s.with(cmd, c)
			if err != nil {
				return err
			}
			return c.each(args, func(name string) error { return c.done(name, stop(name)) })
		},
	}
	s.add(cmd)
	return cmd
}

// parseSignal reads TERM, SIGTERM or 15; "" is 0, which leaves the choice to the agent.
func parseSignal(s string) (syscall.Signal, error) {
	if s == "" {
		return 0, nil
	}
	if n, err := strconv.Atoi(s); err == nil && n > 0 && n < 65 {
		return syscall.Signal(n), nil
	}
	name := "SIG" + strings.TrimPrefix(strings.ToUpper(s), "SIG")
	if n := unix.SignalNum(name); n != 0 {
		return n, nil
	}
	return 0, fmt.Errorf("invalid signal: %s", s)
}

func (c *cli) startCommand() *cobra.Command {
	var attach, stdin bool
	var keys detaching
	cmd := &cobra.Command{
		Use: "start [OPTIONS] SANDBOX [SANDBOX...]", Short: "Start one or more stopped sandboxes", Args: atLeast(1),
		Long: `Start sandboxes, with the names and static addresses that they had, and the other ones where they are free. With -a, the one that is started is in
the foreground: what it writes is shown, signals are passed on, and the exit code is its process's.`,
		Example: `  weft start c1 db
  weft start -a c1`,
		ValidArgsFunction: c.completeSandboxes(-1, true),
		RunE: func(cmd *cobra.Command, args []string) error {
			if attach || stdin {
				if len(args) > 1 {
					return errors.New("you cannot start and attach multiple sandboxes at once")
				}
				detach, err := keys.parse()
				if err != nil {
					return err
				}
				return c.attach(cmd.Context(), args[0], attaching{stdin: stdin, sigProxy: true, start: true, keys: detach})
			}
			return c.each(args, func(name string) error {
				_, err := call(cmd.Context(), c, (*client).StartSandbox, &weftv1.StartSandboxRequest{Ref: name})
				return c.done(name, err)
			})
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&attach, "attach", "a", false, "Attach stdout and stderr, and pass signals on")
	f.BoolVarP(&stdin, "interactive", "i", false, "Attach also standard input")
	keys.add(cmd)
	return cmd
}

func (c *cli) removeCommand() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "rm [OPTIONS] SANDBOX [SANDBOX...]", Aliases: []string{"remove"}, Short: "Remove one or more sandboxes", Args: atLeast(1),
		Example: `  weft rm c1
  weft rm -f c1   # also while it runs`,
		ValidArgsFunction: c.completeSandboxes(-1, true),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.each(args, func(name string) error {
				_, err := call(cmd.Context(), c, (*client).RemoveSandbox, &weftv1.RemoveSandboxRequest{Ref: name, Force: force})
				return c.done(name, err)
			})
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "Also remove a sandbox that runs: its process is killed")
	foreign{"volumes": noImages, "link": "a link goes with the sandbox, or when that is disconnected from the network: weft network disconnect"}.add(cmd,
		map[string]string{"volumes": "v", "link": "l"}, "volumes", "link")
	return cmd
}
