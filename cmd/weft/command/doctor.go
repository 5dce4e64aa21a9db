package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"

	"github.com/spf13/cobra"

	"weft/cmd/weft/table"
	weftv1 "weft/proto/weft/v1"
)

// doctorOptions are the flags of `weft doctor`.
type doctorOptions struct {
	quick, quiet, strict bool
	format               string
}

func (c *cli) doctorCommand() *cobra.Command {
	var o doctorOptions
	cmd := &cobra.Command{
		Use: "doctor [OPTIONS]", Short: "Examine this host and its paths to others", Args: exactly(0),
		Long: `Examine this host: the store, the clock, what the kernel can do, firewalls, the tunnels to all hosts that share a network with it, and whether
records, kernel and names agree. What looks wrong is looked at again, so that nothing is reported that is only on its way. Each check is a
line, with what to do below it where something is wrong. The exit code is 1 where there is an error, and with --strict where there is a warning.`,
		Example: `  weft doctor
  weft doctor --quick -q
  weft doctor --format '{{.Status}} {{.Name}} {{.Subject}}'`,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(cmd *cobra.Command, _ []string) error { return c.doctor(cmd.Context(), o) },
	}
	f := cmd.Flags()
	f.BoolVar(&o.quick, "quick", false, "Leave out what takes time: large probes, and the store's records as a whole")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "Only display what is not well")
	f.BoolVar(&o.strict, "strict", false, "Take warnings for errors")
	f.StringVar(&o.format, "format", "", "Go template, \"table TEMPLATE\", or \"json\"")
	return cmd
}

// doctor shows each check as it comes.
func (c *cli) doctor(ctx context.Context, o doctorOptions) error {
	a, err := c.agent()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	stream, err := a.Doctor(ctx, &weftv1.DoctorRequest{Quick: o.quick})
	if err != nil {
		return a.said(err)
	}
	var doing atomic.Value
	doing.Store("waiting for the agent")
	stop := c.progressOf(func() string { return doing.Load().(string) })
	defer func() { stop() }()
	r := examined{counts: map[string]int{}}
	for {
		m, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			stop()
			stop = func() {}
			return c.verdict(r, o)
		case err != nil:
			return a.said(err)
		case m.Check == nil:
			doing.Store("looking at " + m.Checking)
			continue
		}
		r.counts[m.Check.Status]++
		switch {
		case o.quiet && (m.Check.Status == "ok" || m.Check.Status == "skipped"):
		case o.format != "":
			r.rows = append(r.rows, checkRow(m.Check))
		default:
			stop()
			_, err = fmt.Fprint(c.env.Out, checkText(m.Check))
			stop = c.progressOf(func() string { return doing.Load().(string) })
		}
		if err != nil {
			return err
		}
	}
}

// examined is what has been seen of the checks: how many ended how, and the rows of a list with a format.
type examined struct {
	counts map[string]int
	rows   []table.Row
}

func checkRow(k *weftv1.Check) table.Row {
	return table.Row{"Name": k.Name, "Subject": k.Subject, "Status": k.Status, "Finding": k.Finding, "Remedy": k.Remedy}
}

// checkText is a check in lines of 80 columns.
func checkText(k *weftv1.Check) string {
	var b strings.Builder
	text := k.Finding
	if k.Subject != "" {
		text = k.Subject + ": " + text
	}
	const indent = 19
	lines := table.Wrap(text, 80-indent)
	fmt.Fprintf(&b, "%-8s %-9s %s\n", k.Status, k.Name, lines[0])
	for _, l := range lines[1:] {
		fmt.Fprintf(&b, "%*s%s\n", indent, "", l)
	}
	if k.Remedy != "" {
		for i, l := range table.Wrap(k.Remedy, 80-indent-2) {
			fmt.Fprintf(&b, "%*s%s %s\n", indent, "", []string{"→", " "}[min(i, 1)], l)
		}
	}
	return b.String()
}

// verdict is the last line, and the exit code.
func (c *cli) verdict(r examined, o doctorOptions) error {
	var n int
	for _, k := range r.counts {
		n += k
	}
	errs, warnings := r.counts["error"], r.counts["warning"]
	text := counted(n, "check") + ": all is well.\n"
	if errs+warnings > 0 {
		text = fmt.Sprintf("%s: %s, %s.\n", counted(n, "check"), counted(errs, "error"), counted(warnings, "warning"))
	}
	var err error
	switch {
	case o.format != "":
		err = table.List{Rows: r.rows, Default: "{{.Status}}\t{{.Name}}\t{{.Subject}}\t{{.Finding}}"}.Write(c.env.Out, o.format)
	case !o.quiet:
		_, err = fmt.Fprint(c.env.Out, text)
	}
	if err == nil && (errs > 0 || o.strict && warnings > 0) {
		err = &fault{code: codeFailure}
	}
	return err
}
