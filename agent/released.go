package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"weft/agent/registry"
	"weft/store"
	"weft/store/record"
)

// releasesAtOnce is how many releases are under way to the store: one after the other, those of fifty sandboxes that end together would wait for
// each other.
const releasesAtOnce = 16

// release replays the journal's releases.
func (p *publisher) release(ctx context.Context, as registry.Actor) error {
	rs, err := p.journal.Releases(ctx)
	if err != nil {
		return err
	}
	var mu sync.Mutex // guards done, missing and errs
	var done, missing []record.EndpointID
	var errs []error
	var wg sync.WaitGroup
	turns := make(chan struct{}, releasesAtOnce)
	for _, r := range rs {
		if !p.mine(r.Network) {
			continue
		}
		turns <- struct{}{}
		wg.Go(func() {
			defer func() { <-turns }()
			var rev store.Rev
			var err error
			again := p.wanted(r.Endpoint) // it may have been taken up again meanwhile
			if !again {
				rev, err = p.registry.DeleteEndpoint(ctx, as, r.Network, r.Endpoint)
			}
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
				errs = append(errs, err)
			case again || rev > 0:
				done = append(done, r.Endpoint)
			default:
				missing = append(missing, r.Endpoint)
			}
		})
	}
	wg.Wait()
	gone, err := p.surelyGone(ctx, missing)
	done = append(done, gone...)
	if err != nil {
		errs = append(errs, err)
	}
	if len(errs) > 3 {
		errs = append(errs[:3], fmt.Errorf("and %d more", len(errs)-3))
	}
	return errors.Join(append(errs, p.journal.Released(ctx, done...))...)
}

// surelyGone returns those of some endpoints that the store does not have, which have been released: one that was emptied has none, and may get its
// records back.
func (p *publisher) surelyGone(ctx context.Context, missing []record.EndpointID) ([]record.EndpointID, error) {
	if len(missing) == 0 || p.holds == nil {
		return missing, nil
	}
	if err := p.holds(ctx); err != nil {
		return nil, fmt.Errorf("release %d endpoints that the store does not have: %w", len(missing), err)
	}
	return missing, nil
}

// awaitReleases lets the picture hear of what this host itself has just released and an attachment wants now: a store's watch may be a
// moment behind its writes. What is still there after that has another owner, or could not be released yet.
func (a *Agent) awaitReleases(ctx context.Context, sc *scope, id record.SandboxID, n record.NetworkID, want record.Attachment) {
	s, ok := a.boxes.get(id)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, flushTimeout)
	defer cancel()
	for {
		changed := a.appliedSignal.wait()
		net, ok := sc.follower.Picture().Net(n)
		if !ok || !releasing(a.member.identity().Host, a.boxes.snapshot(), net, s.Name, want) {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// releasing tells whether the name or an address that is wanted belongs, in the picture, to an endpoint that this host has let go of. It is pure.
func releasing(self record.HostID, all map[record.SandboxID]*record.Sandbox, net *record.Net, name string, want record.Attachment) bool {
	released := func(ep *record.Endpoint, taken bool) bool {
		if !taken || ep.ID == want.Endpoint || ep.Host != self {
			return false
		}
		s, ok := all[ep.Sandbox]
		return !ok || !hasEndpoint(s, ep.ID)
	}
	if released(net.ByName(name)) || released(net.ByMAC(want.MAC)) {
		return true
	}
	for f := range families {
		if addr := asked(want, f); addr.IsValid() && released(net.ByAddr(addr)) {
			return true
		}
	}
	return false
}
