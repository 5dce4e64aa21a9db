package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"weft/agent/peer"
	"weft/agent/registry"
	"weft/identity"
	"weft/store/record"
)

// Times of the rotation.
const (
	rotationLook  = time.Hour // at the latest: a timer may have slept, or the files have changed
	rotationRetry = 50        // tries within a certificate's lifetime
)

// keepIdentity keeps this host's certificate good: it joins where --join has found nobody yet, renews in time, and says what is wrong, until ctx
// ends. After each joining of the store it brings this host's authority and the cluster's record of it together.
func (a *Agent) keepIdentity(ctx context.Context) {
	if a.pki.keeper == nil {
		return
	}
	r := rotation{log: a.log, now: a.clock.Now, keeper: a.pki.keeper, renew: a.renew}
	joinWait, next := joinRetry, a.clock.After(0)
	changed := a.pki.keeper.Changed() // asked for again only when it was heard: what changes is done below
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.pki.kick:
			a.settleAfterJoining(ctx)
		case <-changed:
			changed = a.pki.keeper.Changed()
			a.member.lookAgain() // the record tells the key
		case <-next:
		}
		wait := rotationLook
		switch {
		case a.pki.pending:
			a.pki.pending = a.joinLater(ctx)
			wait, joinWait = joinWait, min(2*joinWait, joinRetryMax)
		default:
			wait = r.step(ctx)
		}
		next = a.clock.After(wait)
	}
}

// joinLater is one more try of --join; true: another one is due.
func (a *Agent) joinLater(ctx context.Context) bool {
	_, err := a.join(ctx, a.member.identity().Host)
	var away notThere
	if err == nil || errors.As(err, &away) || ctx.Err() != nil {
		return err != nil
	}
	a.log.Error("cannot join: this host goes on without a certificate; start weftd with another --token", "error", err)
	return false
}

func (a *Agent) settleAfterJoining(ctx context.Context) {
	if a.pki.keeper.Given() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	as, err := a.member.claim(ctx)
	if err == nil {
		err = a.settleAuthority(ctx, as, a.pki.created.Load() && a.cfg.Join == "")
	}
	if err != nil && ctx.Err() == nil && registry.KindOf(err) == 0 {
		a.log.Warn("cannot tell the cluster's authority yet", "error", err)
	}
	if !a.pki.told && !a.pki.pending && errors.Is(a.pki.keeper.Valid(), identity.ErrNone) {
		a.pki.told = true
		a.log.Info("this host has no certificate: others cannot ask it, nor it them; `weft cluster token` on the authority's host, and weftd --join here, give it one")
	}
}

// renew gets the next certificate: by this host's own authority, or from the host that has it.
func (a *Agent) renew(ctx context.Context) error {
	id := a.member.identity().Host
	release, err := a.pki.take(ctx)
	if err != nil {
		return err
	}
	defer release()
	k := a.pki.keeper
	csr, err := k.Request(string(id))
	if err != nil {
		return err
	}
	if a.pki.authority != nil {
		cert, trusted, err := a.sign(id, csr)
		if err != nil {
			return err
		}
		return k.Store(string(id), cert, trusted)
	}
	h, err := a.authorityHost()
	if err != nil {
		return err
	}
	asker, ok := a.peers.(renewer)
	if !ok {
		return peer.ErrNoIdentity
	}
	cert, trusted, err := asker.Renew(ctx, h, csr)
	if err != nil {
		return err
	}
	return k.Store(string(id), cert, trusted)
}

// renewer is peers that can be asked for certificates: the real ones.
type renewer interface {
	Renew(ctx context.Context, h *record.Host, csr []byte) (certificate, authority []byte, err error)
}

// authorityHost is where the cluster's authority is.
func (a *Agent) authorityHost() (*record.Host, error) {
	p := a.follower.Picture()
	r := p.Authority()
	if r == nil {
		return nil, errors.New("the cluster has no authority")
	}
	h, ok := p.Host(r.Host)
	if !ok {
		return nil, fmt.Errorf("the host of the cluster's authority, %s, is not in the cluster any more", record.ShortID(r.Host))
	}
	return h, nil
}

// rotation renews a certificate from two thirds of its lifetime on, and warns from five sixths on.
type rotation struct {
	log    warner
	now    func() time.Time
	keeper *identity.Keeper
	renew  func(context.Context) error
	warned time.Time // when it warned last
}

type warner interface{ Warn(msg string, args ...any) }

// step does what is due, and returns when it is to be called next.
func (r *rotation) step(ctx context.Context) time.Duration {
	life, err := r.keeper.Life()
	if err != nil {
		return rotationLook // there is none
	}
	now := r.now()
	whole := life.End.Sub(life.Begin)
	renewAt, warnAt := life.Begin.Add(whole*2/3), life.Begin.Add(whole*5/6)
	if now.Before(renewAt) {
		return min(renewAt.Sub(now), rotationLook)
	}
	retry := max(min(whole/rotationRetry, rotationLook), 10*time.Millisecond)
	err = errors.New("it comes from files: replace them")
	if !r.keeper.Given() {
		if err = r.renew(ctx); err == nil {
			return 0
		}
	}
	if !now.Before(warnAt) && now.Sub(r.warned) >= min(whole/20, 24*time.Hour) {
		r.warned = now
		said := "this host's certificate ends, and cannot be renewed yet; after that it has to join again"
		if !now.Before(life.End) {
			said = "this host's certificate has expired, and others refuse it: let it join again (weft cluster token, weftd --join)"
		}
		r.log.Warn(said, "end", life.End.UTC().Format(time.RFC3339), "error", err)
	}
	return retry
}
