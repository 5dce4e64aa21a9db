package agent

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"weft/agent/journal"
	"weft/agent/registry"
	"weft/store/record"
)

// publisher makes one scope's store follow this host's sandboxes: releases that the store has not heard of, endpoints whose records say something
// else than the sandbox, removals of networks that a dead host left half done. It runs after each change, after each joining, and now
// and then. Where the store is away it does nothing, and nothing is lost: what it has to do follows from the journal.
type publisher struct {
	publisherConfig
	*passes

	mu        sync.Mutex                // guards what follows
	confirmed map[record.SandboxID]bool // attachments that the journal still calls intents
	busy      map[record.NetworkID]bool // being removed by a call of this agent

	inherited map[record.EndpointID]record.SandboxID // intents of the last life; pass's own
	strays    strays                                 // pass's own
}

type publisherConfig struct {
	log     *slog.Logger
	clock   Clock
	journal *journal.Journal
	boxes   *boxes
	*scope                                                                  // whose records it writes
	mine    func(record.NetworkID) bool                                     // a network is of this scope
	undo    func(context.Context, *record.Sandbox, record.Attachment) error // of an intent that was never announced
	obey    func(context.Context, registry.Actor) error                     // what other hosts have cleared of this one; nil where none can
	taken   func(context.Context, record.NetworkID) error                   // others have what an endpoint of this host had; nil where none can
	holds   func(context.Context) error                                     // the store still has this host's cluster; nil where it cannot lose it
	read    func(context.Context, record.NetworkID) (*record.Net, error)    // a network that is not followed; nil where all are
}

const (
	publishEvery = 30 * time.Second
	tidyEvery    = time.Second
	settleEvery  = 200 * time.Millisecond
	flushTimeout = time.Second
)

func newPublisher(cfg publisherConfig) *publisher {
	p := &publisher{
		publisherConfig: cfg, passes: newPasses(), confirmed: map[record.SandboxID]bool{},
		busy: map[record.NetworkID]bool{}, inherited: map[record.EndpointID]record.SandboxID{},
	}
	p.strays.history = historyOf(cfg.follower.Picture())
	for _, s := range cfg.boxes.snapshot() {
		for _, at := range s.Attachments {
			if at.Intent && cfg.mine(at.Network) {
				p.inherited[at.Endpoint] = s.ID
			}
		}
	}
	return p
}

// flush asks for a pass and waits for its end where the store can be reached, at most flushTimeout: what follows on another host then
// finds the release done.
func (p *publisher) flush(ctx context.Context) {
	p.await(ctx, p.kick(), p.joined)
}

// confirm notes that an attachment of a sandbox is no intent any more; the journal hears of it with the next pass.
func (p *publisher) confirm(id record.SandboxID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.confirmed[id] = true
}

func (p *publisher) run(ctx context.Context) {
	every, tidy := p.clock.After(publishEvery), p.clock.After(tidyEvery)
	for {
		select {
		case <-ctx.Done():
			return
		case <-tidy:
			p.confirmAll(ctx)
			tidy = p.clock.After(tidyEvery)
			continue
		case <-every:
			every = p.clock.After(publishEvery)
		case <-p.wake:
		}
		p.do(func() {
			if err := p.pass(ctx); err != nil && ctx.Err() == nil {
				p.log.Warn("the store has not heard all of this host's changes; trying again", "error", err)
				every = p.clock.After(tidyEvery)
			}
			if p.unsettled() {
				every = p.clock.After(settleEvery)
			}
		})
	}
}

func (p *publisher) confirmAll(ctx context.Context) {
	p.mu.Lock()
	ids := p.confirmed
	p.confirmed = map[record.SandboxID]bool{}
	p.mu.Unlock()
	for id := range ids {
		if err := p.confirmOne(ctx, id); err != nil && ctx.Err() == nil {
			p.log.Warn("cannot confirm an attachment in the journal", "error", err)
			p.confirm(id)
		}
	}
}

// confirmOne has the sandbox's turn, so that it does not write over what another is writing; that one's record confirms as well.
func (p *publisher) confirmOne(ctx context.Context, id record.SandboxID) error {
	done, free := p.boxes.tryLock(id)
	if !free {
		p.confirm(id)
		return nil
	}
	defer done()
	s, ok := p.boxes.get(id)
	if !ok {
		return nil
	}
	return p.journal.PutSandbox(ctx, s)
}

// unsettled tells that a pass could not look at everything yet: the store has not told of all networks that this host uses.
func (p *publisher) unsettled() bool {
	unread := func(id record.NetworkID) bool { return !p.follower.Synced(record.NetPartition(id)) }
	return p.joined() && p.follower.Doubt() == nil && (len(p.inherited) > 0 || len(p.strays.left) > 0 || slices.ContainsFunc(p.follower.Following(), unread))
}

// pass does everything that is to be done, as far as the store lets it.
func (p *publisher) pass(ctx context.Context) error {
	if !p.joined() || p.follower.Doubt() != nil {
		return nil
	}
	as, err := p.claim(ctx)
	if err != nil {
		return nil // it has just gone; the next joining wakes us
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var obeyed error
	if p.obey != nil {
		obeyed = p.obey(ctx, as)
	}
	return errors.Join(p.settle(ctx), obeyed, p.release(ctx, as), p.correct(ctx, as), p.sweep(ctx, as), p.finishRemovals(ctx, as))
}

func (p *publisher) wanted(id record.EndpointID) bool {
	for _, s := range p.boxes.snapshot() {
		if slices.ContainsFunc(s.Attachments, func(a record.Attachment) bool { return a.Endpoint == id }) {
			return true
		}
	}
	return false
}

// correct writes what the records of this host's endpoints should say and do not. Attachments under way are left to their attach.
func (p *publisher) correct(ctx context.Context, as registry.Actor) error {
	var errs []error
	for _, f := range corrections(as, p.boxes.snapshot(), p.follower.Picture(), p.follower.Synced) {
		if p.outdated(as, f) {
			p.kick()
			continue
		}
		var err error
		switch {
		case f.want == nil:
			_, err = p.registry.DeleteEndpoint(ctx, as, f.network, f.id)
		case f.have == nil:
			p.log.Warn("the store had lost an endpoint of this host; putting it back", "name", f.want.Name)
			if _, err = p.registry.CreateEndpoint(ctx, as, f.want); registry.KindOf(err) == registry.Exists && p.taken != nil {
				err = errors.Join(p.taken(ctx, f.network), p.stillWanted(f, err))
			}
		default:
			_, err = p.registry.UpdateEndpoint(ctx, as, f.network, f.id, func(r *record.Endpoint) { become(r, f.want) })
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// fix is one endpoint whose record is not what this host wants: have is nil where it is missing, want where it is to go.
type fix struct {
	network    record.NetworkID
	id         record.EndpointID
	have, want *record.Endpoint
}

// outdated tells a fix that was found before its sandbox changed: those that go before it take their time.
func (p *publisher) outdated(as registry.Actor, f fix) bool {
	if f.want == nil {
		return p.wanted(f.id)
	}
	s, ok := p.boxes.get(f.want.Sandbox)
	if !ok {
		return true
	}
	at, ok := s.Attachment(f.network)
	return !ok || at.Endpoint != f.id || at.Intent || !sameRecord(endpointOf(as.Host, as.Incarnation, s, at), f.want)
}

// stillWanted is an error of putting an endpoint back, nil where its attachment was given up for it.
func (p *publisher) stillWanted(f fix, err error) error {
	if p.wanted(f.id) {
		return err
	}
	return nil
}

// corrections compares the host's sandboxes with the picture, in networks that the store itself has told of. It is pure.
func corrections(as registry.Actor, all map[record.SandboxID]*record.Sandbox, picture *record.Snapshot, synced func(string) bool) []fix {
	var out []fix
	mine := map[record.EndpointID]bool{}
	for _, s := range all {
		for _, a := range s.Attachments {
			mine[a.Endpoint] = true
			net, known := picture.Net(a.Network)
			_, exists := picture.Network(a.Network)
			if a.Endpoint == "" || a.Intent || !known || !exists || !synced(record.NetPartition(a.Network)) {
				continue
			}
			want := endpointOf(as.Host, as.Incarnation, s, a)
			have, ok := net.Endpoint(a.Endpoint)
			if !ok {
				have = nil
			}
			if have == nil || !sameRecord(have, want) {
				out = append(out, fix{a.Network, a.Endpoint, have, want})
			}
		}
	}
	for n := range picture.Networks() {
		net, known := picture.Net(n.ID)
		if !known || !synced(record.NetPartition(n.ID)) {
			continue
		}
		for ep := range net.Endpoints() {
			if ep.Host == as.Host && !mine[ep.ID] {
				out = append(out, fix{network: n.ID, id: ep.ID, have: ep})
			}
		}
	}
	return out
}

// finishRemovals ends removals whose host is not alive, or has begun a new life since.
func (p *publisher) finishRemovals(ctx context.Context, as registry.Actor) error {
	picture := p.follower.Picture()
	var errs []error
	for n := range picture.Networks() {
		if n.State != record.Deleting || n.Deleter == nil || p.isBusy(n.ID) {
			continue
		}
		if l, alive := picture.Alive(n.Deleter.Host); alive && l.Incarnation == n.Deleter.Incarnation && n.Deleter.Host != as.Host {
			continue
		}
		errs = append(errs, p.registry.FinishRemoval(ctx, as, n.ID))
	}
	return errors.Join(errs...)
}

// removing notes that a call of this agent is removing a network, or has ended.
func (p *publisher) removing(id record.NetworkID, yes bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if yes {
		p.busy[id] = true
	} else {
		delete(p.busy, id)
	}
}

func (p *publisher) isBusy(id record.NetworkID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.busy[id]
}
