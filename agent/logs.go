package agent

import (
	"context"

	"weft/agent/api"
	"weft/agent/sandbox"
)

// Logs gives what a sandbox has written to emit.
func (a *Agent) Logs(ctx context.Context, r api.LogsRequest, emit func(api.LogLine) error) error {
	s, err := a.boxes.find(r.Ref)
	if err != nil {
		return err
	}
	if err := ours(s, "read"); err != nil {
		return err
	}
	o := sandbox.LogOptions{Follow: r.Follow, Tail: r.Tail, Since: r.Since, Until: r.Until}
	return a.runner.ReadLog(ctx, string(s.ID), o, func(l sandbox.LogLine) error {
		return emit(api.LogLine{Data: l.Data, Stderr: l.Stderr, Time: l.Time})
	})
}
