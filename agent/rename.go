package agent

import (
	"context"
	"errors"
	"fmt"

	"weft/agent/api"
	"weft/agent/registry"
	"weft/store/record"
)

// RenameSandbox gives a sandbox another name, here and in all its networks: in each, one transaction moves the name. The journal is last, and
// is the truth: an agent that dies before it gives the names back (publisher.correct), one that dies after it has nothing left to do.
func (a *Agent) RenameSandbox(ctx context.Context, ref, name string) (*record.Sandbox, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	s, err := a.boxes.find(ref)
	if err != nil {
		return nil, err
	}
	if name == "" {
		return nil, api.Refuse(api.Invalid, "Neither old nor new names may be empty")
	}
	if err := registry.CheckName("sandbox", name); err != nil {
		return nil, kindOf(err)
	}
	done, err := a.boxes.lock(ctx, s.ID)
	if err != nil {
		return nil, err
	}
	defer done()
	s, ok := a.boxes.get(s.ID)
	switch {
	case !ok:
		return nil, api.Refuse(api.NotFound, "No such sandbox: %s", ref)
	case s.Name == name:
		return nil, api.Refuse(api.Invalid, "Renaming a sandbox with the same name as its current name")
	}
	if err := a.boxes.reserve(name, s.ID); err != nil {
		return nil, err
	}
	next := edited(s)
	next.Name = name
	if err := a.moveNames(ctx, s, next); err != nil {
		a.boxes.unreserve(name, s.ID)
		return nil, err
	}
	if err := a.boxes.put(ctx, next); err != nil {
		a.boxes.unreserve(name, s.ID)
		return nil, errors.Join(err, a.moveBack(ctx, next, s, len(s.Attachments)))
	}
	a.kick(next) // a publisher that looked meanwhile has given an old name back
	return next, a.serveNames(ctx, next)
}

// moveNames makes each network call a sandbox's endpoint by the new name. After an error all call it by the old one.
func (a *Agent) moveNames(ctx context.Context, from, to *record.Sandbox) error {
	for i, at := range from.Attachments {
		if at.Endpoint == "" {
			continue
		}
		if err := a.moveName(ctx, from, to, at); err != nil {
			return errors.Join(err, a.moveBack(ctx, to, from, i))
		}
	}
	return nil
}

// moveBack undoes it for the first n networks. What cannot be undone now, the publisher undoes: the journal has the old name.
func (a *Agent) moveBack(ctx context.Context, from, to *record.Sandbox, n int) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	defer a.kick(from)
	var errs []error
	for _, at := range from.Attachments[:n] {
		if at.Endpoint != "" {
			errs = append(errs, a.moveName(ctx, from, to, at))
		}
	}
	return errors.Join(errs...)
}

func (a *Agent) moveName(ctx context.Context, from, to *record.Sandbox, at record.Attachment) error {
	sc := a.scopeOf(at.Network)
	as, err := sc.claim(ctx)
	if err != nil {
		return err
	}
	rev, err := sc.registry.UpdateEndpoint(ctx, as, at.Network, at.Endpoint, func(ep *record.Endpoint) { ep.Name = to.Name })
	if err != nil {
		return kindOf(sc.explain(fmt.Errorf("rename sandbox %s to %s: %w", from.Name, to.Name, err)))
	}
	if err := a.WaitApplied(ctx, record.NetPartition(at.Network), rev); err != nil {
		a.log.Debug("own rename not seen yet", "sandbox", to.Name, "error", err)
	}
	return nil
}
