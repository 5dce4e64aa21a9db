package agent

import (
	"context"
	"sync"
)

// passes counts the passes of a goroutine that does all there is to do in each, and lets others ask for one and wait for its end.
type passes struct {
	wake chan struct{} // size 1

	mu       sync.Mutex // guards what follows
	asked    uint64     // the pass that serves what was asked last
	finished uint64
	ends     broadcast
}

func newPasses() *passes { return &passes{wake: make(chan struct{}, 1)} }

// kick asks for a pass, and returns the one that serves the asker.
func (p *passes) kick() uint64 {
	p.mu.Lock()
	p.asked++
	n := p.asked
	p.mu.Unlock()
	signal(p.wake)
	return n
}

// await waits for the end of a pass, at most flushTimeout, and as long as goOn says so.
func (p *passes) await(ctx context.Context, n uint64, goOn func() bool) {
	ctx, cancel := context.WithTimeout(ctx, flushTimeout)
	defer cancel()
	for goOn() {
		ended := p.ends.wait()
		p.mu.Lock()
		done := p.finished >= n
		p.mu.Unlock()
		if done {
			return
		}
		select {
		case <-ended:
		case <-ctx.Done():
			return
		}
	}
}

// do runs a pass, which serves all who have asked before it begins.
func (p *passes) do(pass func()) {
	p.mu.Lock()
	serves := p.asked
	p.mu.Unlock()
	pass()
	p.mu.Lock()
	p.finished = serves
	p.mu.Unlock()
	p.ends.signal()
}
