package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/template"
	"time"
	"unicode"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	"weft/cmd/weft/table"
	weftv1 "weft/proto/weft/v1"
)

func (c *cli) eventsCommand() *cobra.Command {
	var since, until, format string
	only := filters{keys: []string{"container", "endpoint", "event", "host", "label", "network", "type"}}
	cmd := &cobra.Command{
		Use: "events [OPTIONS]", Short: "Show what happens, as it happens", Args: exactly(0),
		Long: `Show what happens in the cluster, as the agent of this host sees it, until it is interrupted or --until is reached: networks made and removed,
sandboxes connected and disconnected (on other hosts: in the networks that this host takes part in), sandboxes of this host made, started,
ended, renamed and removed, hosts that come, do not answer or are removed, the store away and back, and all that was cleared or isolated,
with the reason. An agent remembers its last 1024 events, for --since, until it ends; a restart of it is waited for. Who reads too slowly
gets an event "events missed" in place of what it has missed.`,
		Example: `  weft events
  weft events --since 10m --until 0s --filter type=host
  weft events -f event=clear --format '{{.Actor.Attributes.reason}}'`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			show, err := eventFormat(format)
			if err != nil {
				return err
			}
			r := &weftv1.EventsRequest{Filters: only.list}
			now := time.Now()
			if r.Since, err = parseMoment("since", since, now); err != nil {
				return err
			}
			if r.Until, err = parseMoment("until", until, now); err != nil {
				return err
			}
			return c.events(cmd.Context(), r, show)
		},
	}
	f := cmd.Flags()
	f.VarP(&only, "filter", "f", "Filter events (KEY=VALUE with "+strings.Join(only.keys, ", ")+")")
	f.StringVar(&format, "format", "", "Go template, or \"json\"")
	f.StringVar(&since, "since", "", "Begin with events since then (2026-01-02T15:04:05Z, or 42m for that long ago)")
	f.StringVar(&until, "until", "", "End with events before then (2026-01-02T15:04:05Z, or 42m for that long ago)")
	return cmd
}

// eventView is an event as docker's JSON and templates have it.
type eventView struct {
	Status string `json:"status,omitempty"` // of containers alone
	ID     string `json:"id,omitempty"`     // of containers alone
	Type   string
	Action string
	Actor  struct {
		ID         string
		Attributes map[string]string
	}
	Time     int64 `json:"time"`
	TimeNano int64 `json:"timeNano"`
}

func eventOf(e *weftv1.Event) eventView {
	at := e.Time.AsTime()
	v := eventView{Type: e.Type, Action: e.Action, Time: at.Unix(), TimeNano: at.UnixNano()}
	v.Actor.ID, v.Actor.Attributes = e.Id, filled(e.Attributes)
	if e.Type == "container" {
		v.Status, v.ID = e.Action, e.Id
	}
	return v
}

// eventFormat returns how events are to be shown, each with the end of its line.
func eventFormat(format string) (func(io.Writer, *weftv1.Event) error, error) {
	var t *template.Template
	switch format {
	case "":
		return func(w io.Writer, e *weftv1.Event) error {
			_, err := fmt.Fprintln(w, eventLine(e))
			return err
		}, nil
	case "json":
		format = "{{json .}}"
	}
	t, err := table.Parse(format)
	if err != nil {
		return nil, err
	}
	t.Option("missingkey=zero") // events do not all have the same attributes
	return func(w io.Writer, e *weftv1.Event) error {
		var b strings.Builder
		if err := t.Execute(&b, eventOf(e)); err != nil {
			return fmt.Errorf("template parsing error: %w", err)
		}
		_, err := fmt.Fprintln(w, b.String())
		return err
	}, nil
}

// eventTime is docker's: all digits of the nanoseconds, so that columns stand below each other.
const eventTime = "2006-01-02T15:04:05.000000000Z07:00"

// eventLine is docker's line of an event.
func eventLine(e *weftv1.Event) string {
	line := e.Time.AsTime().Local().Format(eventTime) + " " + e.Type + " " + e.Action
	if e.Id != "" {
		line += " " + e.Id
	}
	attrs := make([]string, 0, len(e.Attributes))
	for _, k := range slices.Sorted(maps.Keys(e.Attributes)) {
		attrs = append(attrs, k+"="+e.Attributes[k])
	}
	if len(attrs) > 0 {
		line += " (" + strings.Join(attrs, ", ") + ")"
	}
	return strings.Map(func(r rune) rune { // labels are anyone's words
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, line)
}

// events shows events until they end. Where the agent goes away, it goes on with the next one, whose memory begins with itself, and says so.
func (c *cli) events(ctx context.Context, r *weftv1.EventsRequest, show func(io.Writer, *weftv1.Event) error) error {
	a, err := c.agent()
	if err != nil {
		return err
	}
	last, lost := r.Since, false
	if last == nil {
		last = timestamppb.Now()
	}
	return c.resume(ctx, func() (answered bool, err error) {
		stream, err := a.Events(ctx, r)
		if err != nil {
			return false, a.said(err)
		}
		answered = hasHeader(stream)
		if answered && lost {
			fmt.Fprintln(c.env.Err, "WARNING: the agent was restarted; what happened before it saw it again is not shown")
		}
		for {
			e, err := stream.Recv()
			switch {
			case errors.Is(err, io.EOF):
				return true, nil
			case err != nil:
				r.Since, lost = timestamppb.New(last.AsTime().Add(1)), true
				return answered, a.said(err)
			}
			if err := show(c.env.Out, e); err != nil {
				return true, err
			}
			last = e.Time
		}
	})
}
