package agent

import (
	"context"
	"errors"
	"slices"

	"weft/agent/journal"
	"weft/store/record"
)

// settle decides about the attachments that the last life had not finished, or not confirmed: those that the store knows were announced,
// and stay; the others are undone.
func (p *publisher) settle(ctx context.Context) error {
	var errs []error
	for ep, id := range p.inherited {
		done, free := p.boxes.tryLock(id)
		if !free {
			continue
		}
		settled, err := p.settleOne(ctx, id, ep)
		done()
		if settled {
			delete(p.inherited, ep)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (p *publisher) settleOne(ctx context.Context, id record.SandboxID, ep record.EndpointID) (bool, error) {
	s, ok := p.boxes.get(id)
	if !ok {
		return true, nil
	}
	i := slices.IndexFunc(s.Attachments, func(a record.Attachment) bool { return a.Endpoint == ep })
	if i < 0 || !s.Attachments[i].Intent {
		return true, nil
	}
	at := s.Attachments[i]
	if !p.follower.Synced(record.NetPartition(at.Network)) {
		return false, nil
	}
	net, known := p.follower.Picture().Net(at.Network)
	if !known {
		return false, nil
	}
	if _, announced := net.Endpoint(ep); !announced {
		p.log.Info("undoing an attachment that was not finished", "sandbox", s.Name, "network", record.ShortID(at.Network))
		return true, p.undo(ctx, s, at)
	}
	next := edited(s)
	next.Attachments[i].Intent = false
	return true, p.boxes.put(ctx, next)
}

// undoIntent takes back an attachment that a former life of this agent had begun.
func (a *Agent) undoIntent(ctx context.Context, s *record.Sandbox, at record.Attachment) error {
	next := edited(s)
	dropAttachment(next, at.Network)
	if err := a.boxes.put(ctx, next, journal.Release{Network: at.Network, Endpoint: at.Endpoint}); err != nil {
		return err
	}
	defer a.uses.hold(at.Network)()
	defer a.leases.kick()
	return errors.Join(a.letGo(ctx, at.Network), a.moveDefault(ctx, s, next, at.Network), a.serveNames(ctx, next))
}
