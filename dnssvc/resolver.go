package dnssvc

import (
	"context"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Bounds of one sandbox: what it asks must not take the agent from the others.
const (
	maxForwards = 128
	maxConns    = 32
	maxQuestion = 4096 // over TCP
	connIdle    = 10 * time.Second
	connWrite   = 5 * time.Second
)

// resolver is the open sockets of one sandbox and the goroutines behind them: one for UDP, one that accepts TCP, one or two for each
// connection, one for each question that is being forwarded.
type resolver struct {
	service  *Service
	sockets  *sockets
	known    atomic.Pointer[knowledge]
	ctx      context.Context
	cancel   context.CancelFunc
	stop     chan struct{}  // closed when nothing more is to be taken from the sockets
	takers   sync.WaitGroup // take from the sockets
	wg       sync.WaitGroup // answer what was taken
	forwards chan struct{}  // one for each question that is being forwarded
	conns    chan struct{}  // one for each connection
}

func openResolver(s *Service, sb Sandbox) (*resolver, error) {
	r := &resolver{service: s, stop: make(chan struct{}), forwards: make(chan struct{}, maxForwards), conns: make(chan struct{}, maxConns)}
	r.ctx, r.cancel = context.WithCancel(s.ctx)
	r.known.Store(newKnowledge(sb))
	var err error
	if r.sockets, err = listen(r.ctx, sb.ID, sb.Netns, s.cfg.Keeper); err != nil {
		r.cancel()
		return nil, err
	}
	raw, err := r.sockets.udp.SyscallConn()
	if err != nil {
		r.cancel()
		r.sockets.close()
		return nil, err
	}
	r.takers.Go(func() {
		if r.ready() {
			r.serveUDP(newBatch(raw))
		}
	})
	r.takers.Go(func() {
		if r.ready() {
			r.serveTCP()
		}
	})
	return r, nil
}

// ready waits until questions may be answered; false if the resolver was closed before.
func (r *resolver) ready() bool {
	if r.service.cfg.Ready == nil {
		return true
	}
	select {
	case <-r.service.cfg.Ready:
		return true
	case <-r.stop:
		return false
	}
}

// standsIn tells whether the sockets are in the namespace that a file stands for now.
func (r *resolver) standsIn(path string) bool {
	in, err := namespaceOf(path)
	return err == nil && in == r.sockets.in
}

// close ends the resolver. What it has taken from the sockets already it answers, where it need not ask elsewhere: whoever has the sockets after it
// cannot.
func (r *resolver) close() {
	close(r.stop)
	r.sockets.wake()
	r.takers.Wait()
	r.cancel()
	r.sockets.close()
	r.wg.Wait()
}

// stopped tells whether close was called.
func (r *resolver) stopped() bool {
	select {
	case <-r.stop:
		return true
	default:
		return false
	}
}

func (r *resolver) locals() *locals {
	return &locals{picture: r.service.cfg.Picture, usable: r.service.cfg.Usable}
}

// serveUDP answers local names in batches and hands the others on, so that a slow server elsewhere delays nobody.
func (r *resolver) serveUDP(b *batch) {
	l := r.locals()
	for {
		n, err := b.read()
		if err != nil {
			if r.stopped() {
				return
			}
			r.service.cfg.Log.Warn("cannot read questions", "sandbox", r.known.Load().ID, "error", err)
			if !r.pause() {
				return
			}
			continue
		}
		l.begin(r.known.Load())
		for i := range n {
			r.packet(l, b, i)
		}
		l.done()
		_ = b.write() // lost like any packet
	}
}

// packet deals with one packet of a batch.
func (r *resolver) packet(l *locals, b *batch, i int) {
	p, whole := b.packet(i)
	if !whole {
		return // no question is that long
	}
	out, v := l.answer(p, false)
	switch v {
	case reply:
		b.reply(i, out)
	case pass:
		to := b.from(i)
		out, ok := r.pass(l, p, false, func(answer []byte) { r.sendTo(to, answer) })
		if !ok {
			b.reply(i, out)
		}
	}
}

func (r *resolver) sendTo(to netip.AddrPort, answer []byte) {
	if answer == nil {
		return
	}
	_, _ = r.sockets.udp.WriteToUDPAddrPort(answer, to) // lost like any packet
}

// pass forwards the question that l has just read, in a goroutine that ends with send; the answer is nil if the resolver was closed
// meanwhile. Where too many are on their way already, it returns false and the answer that says so.
func (r *resolver) pass(l *locals, packet []byte, tcp bool, send func([]byte)) ([]byte, bool) {
	select {
	case r.forwards <- struct{}{}:
	default:
		w := writer{q: &l.q, limit: l.q.limit(tcp)}
		return w.finish(w.begin(packet), rcodeServer), false
	}
	ask := newAsk(&l.q, packet, tcp, r.service.servers(l.known))
	r.wg.Go(func() {
		defer func() { <-r.forwards }()
		send(r.service.forward.answer(r.ctx, ask))
	})
	return nil, true
}

// pause waits a moment after an error that may last; false if the resolver was closed meanwhile.
func (r *resolver) pause() bool {
	t := time.NewTimer(100 * time.Millisecond)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-r.stop:
		return false
	}
}
