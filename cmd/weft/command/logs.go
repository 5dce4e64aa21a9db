package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	weftv1 "weft/proto/weft/v1"
)

func (c *cli) logsCommand() *cobra.Command {
	var follow, stamps bool
	var tail, since, until string
	cmd := &cobra.Command{
		Use: "logs [OPTIONS] SANDBOX", Short: "Show what a sandbox's process has written", Args: exactly(1),
		Long: `Show what a sandbox's process has written, what it wrote to stderr on stderr. The newest 10 to 20 MiB are kept. With -f it goes on until the
process ends, and over a restart of the agent.`,
		Example: `  weft logs --tail 100 db
  weft logs -f --since 10m -t db`,
		ValidArgsFunction: c.completeSandboxes(1, true),
		RunE: func(cmd *cobra.Command, args []string) error {
			r := &weftv1.LogsRequest{Ref: args[0], Follow: follow}
			var err error
			if r.Tail, err = parseTail(tail); err != nil {
				return err
			}
			now := time.Now()
			if r.Since, err = parseMoment("since", since, now); err != nil {
				return err
			}
			if r.Until, err = parseMoment("until", until, now); err != nil {
				return err
			}
			return c.logs(cmd.Context(), r, stamps)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&follow, "follow", "f", false, "Go on with what is written from now on")
	f.BoolVarP(&stamps, "timestamps", "t", false, "Show the time of each line")
	f.StringVarP(&tail, "tail", "n", "all", "Number of lines to show from the end")
	f.StringVar(&since, "since", "", "Only lines since then (2026-01-02T15:04:05Z, or 42m for that long ago)")
	f.StringVar(&until, "until", "", "Only lines before then (2026-01-02T15:04:05Z, or 42m for that long ago)")
	foreign{"details": "weft's logs have no further attributes"}.add(cmd, nil, "details")
	return cmd
}

// parseTail reads a number of lines; as docker, what is none means all.
func parseTail(s string) (int64, error) {
	if s == "all" || s == "" {
		return -1, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("invalid value for --tail: %q is neither a number nor \"all\"", s)
	}
	return max(n, -1), nil
}

// parseMoment reads a duration before now, seconds since 1970 with or without a fraction, or a time.
func parseMoment(flag, s string, now time.Time) (*timestamppb.Timestamp, error) {
	if s == "" {
		return nil, nil
	}
	if d, err := time.ParseDuration(s); err == nil {
		return timestamppb.New(now.Add(-d)), nil
	}
	if n, err := strconv.ParseFloat(s, 64); err == nil && math.Abs(n) < 1e11 {
		whole, part := math.Modf(n)
		return timestamppb.New(time.Unix(int64(whole), int64(part*1e9))), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02T15:04", "2006-01-02Z07:00", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return timestamppb.New(t), nil
		}
	}
	return nil, fmt.Errorf("invalid value for %q: failed to parse value as time or duration: %q", flag, s)
}

// logs shows a log. Where the agent goes away while it is followed, it goes on with the next one after the last line that was shown.
func (c *cli) logs(ctx context.Context, r *weftv1.LogsRequest, stamps bool) error {
	a, err := c.agent()
	if err != nil {
		return err
	}
	w := &logWriter{out: c.env.Out, err: c.env.Err, stamps: stamps}
	if !r.Follow {
		_, err := w.show(ctx, a, r)
		return err
	}
	return c.resume(ctx, func() (bool, error) {
		if w.last.IsValid() {
			r.Since, r.Tail = timestamppb.New(w.last.AsTime().Add(1)), -1
		}
		return w.show(ctx, a, r)
	})
}

// logWriter writes lines, each to its side.
type logWriter struct {
	out, err io.Writer
	stamps   bool
	last     *timestamppb.Timestamp
	open     [2]bool // stdout, stderr: the last line there has no end yet
}

// show writes what the agent sends, and tells whether it has answered.
func (w *logWriter) show(ctx context.Context, a *client, r *weftv1.LogsRequest) (answered bool, err error) {
	stream, err := a.Logs(ctx, r)
	if err != nil {
		return false, a.said(err)
	}
	answered = hasHeader(stream) // the agent sends it before it looks for the sandbox
	for {
		l, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return true, nil
		case err != nil:
			return answered, a.said(err)
		}
		if err := w.write(l); err != nil {
			return true, err
		}
		w.last, answered = l.Time, true
	}
}

func (w *logWriter) write(l *weftv1.LogsResponse) error {
	to, side := w.out, 0
	if l.Stderr {
		to, side = w.err, 1
	}
	text := string(l.Data)
	if w.stamps && !w.open[side] {
		text = l.Time.AsTime().UTC().Format(time.RFC3339Nano) + " " + text
	}
	w.open[side] = !strings.HasSuffix(text, "\n")
	if _, err := io.WriteString(to, text); err != nil {
		return fmt.Errorf("write the log: %w", err)
	}
	return nil
}
