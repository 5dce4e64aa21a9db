package probe

import (
	"context"
	"errors"
	"time"
)

// ErrSilent says that no answer came in time.
var ErrSilent = errors.New("no answer through the tunnel")

// Ask probes a host now with a packet of a size, as the sandboxes' packets count it (0: the smallest); with full, the answer is to be as large. It
// returns how long the answer took, or ErrSilent after wait.
func (p *Prober) Ask(ctx context.Context, host string, size int, full bool, wait time.Duration) (time.Duration, error) {
	began := p.Clock.Now()
	_, err := p.exchange(ctx, host, message{kind: echo, size: size, full: full}, wait)
	return p.Clock.Now().Sub(began), err
}

// exchange sends a message and waits for its answer.
func (p *Prober) exchange(ctx context.Context, host string, m message, wait time.Duration) (message, error) {
	m.nonce = newNonce()
	got, done := p.await(host, m.nonce, 1)
	defer done()
	if err := p.send(host, m); err != nil {
		if errors.Is(err, ErrNoWay) {
			return message{}, err
		}
		return message{}, errors.Join(ErrSilent, err)
	}
	select {
	case a := <-got:
		return a, nil
	case <-p.Clock.After(wait):
		return message{}, ErrSilent
	case <-ctx.Done():
		return message{}, ctx.Err()
	}
}

// await gives the next answers to a nonce from a host, until done is called.
func (p *Prober) await(host string, n nonce, answers int) (got <-chan message, done func()) {
	c := make(chan message, answers)
	p.mu.Lock()
	p.waiting[n] = waiter{idOf(host), c}
	p.mu.Unlock()
	return c, func() {
		p.mu.Lock()
		delete(p.waiting, n)
		p.mu.Unlock()
	}
}

// Sizes is what packets pass between two hosts, as the sandboxes' packets count it.
type Sizes struct {
	MTU  int // of the network: what should pass
	Out  int // the largest that passes to the other host; MTU where all do
	Back bool
}

// What a search for the largest packet takes.
const (
	sizeWait  = 250 * time.Millisecond
	sizeTries = 2
	sizeStep  = 4
)

// Sizes finds out how large packets may be to a host that answers small ones, and whether the largest also pass on the way back.
func (p *Prober) Sizes(ctx context.Context, host string) (Sizes, error) {
	p.mu.Lock()
	mtu := p.pairs[host].Way.MTU
	p.mu.Unlock()
	out := Sizes{MTU: mtu, Out: mtu}
	if p.passes(ctx, host, mtu, true) {
		out.Back = true
		return out, nil
	}
	if p.passes(ctx, host, mtu, false) {
		return out, ctx.Err()
	}
	if !p.passes(ctx, host, 0, false) {
		return Sizes{}, errors.Join(ErrSilent, ctx.Err())
	}
	low, high := headSize, mtu // low passes, high does not
	for high-low > sizeStep && ctx.Err() == nil {
		if mid := (low + high) / 2; p.passes(ctx, host, mid, false) {
			low = mid
		} else {
			high = mid
		}
	}
	out.Out = low
	return out, ctx.Err()
}

// passes tries a size more than once: one packet is lost easily.
func (p *Prober) passes(ctx context.Context, host string, size int, full bool) bool {
	for range sizeTries {
		if _, err := p.Ask(ctx, host, size, full, sizeWait); err == nil {
			return true
		}
	}
	return false
}
