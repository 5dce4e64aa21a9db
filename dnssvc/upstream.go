package dnssvc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/miekg/dns"
)

// How long servers are waited for.
const (
	nextAfter    = 250 * time.Millisecond // another server, or the same once more, is asked as well
	singleBudget = 900 * time.Millisecond // for a name of one label; within 1 s the asker knows
	budget       = 4 * time.Second        // below the 5 s after which resolvers ask again
	triesEach    = 2
	probeTimeout = 400 * time.Millisecond
	probeEvery   = time.Second
	unusedFor    = 30 * time.Second // a dead server that nobody wants to ask is not probed any longer
	maxKnown     = 256              // servers that are remembered
)

// Errors of race, worded for the asker's own log.
var (
	errNoServer = errors.New("there is no DNS server to forward to")
	errDead     = errors.New("no DNS server answers")
)

// exchange asks one server and returns the answer that belongs to the question.
type exchange func(ctx context.Context, server netip.AddrPort, m *dns.Msg) (*dns.Msg, error)

// pool is the servers that were asked lately and their health. A server that is silent for nextAfter is probed at once; one that does not
// answer that either, or refuses packets, is dead: it is left out until a probe is answered. So one slow name makes no server dead, and
// one dead server costs nobody but the first askers time.
type pool struct {
	ctx      context.Context
	log      *slog.Logger
	exchange exchange
	patience time.Duration // nextAfter; set before the first question
	wg       sync.WaitGroup

	mu    sync.Mutex // guards known and what is in the upstreams
	known map[netip.AddrPort]*upstream
}

type upstream struct {
	addr    netip.AddrPort
	dead    bool
	probing bool
	heard   time.Time // when the last answer came
	wanted  time.Time // when somebody last wanted to ask it
}

func newPool(ctx context.Context, log *slog.Logger, ex exchange) *pool {
	return &pool{ctx: ctx, log: log, exchange: ex, patience: nextAfter, known: map[netip.AddrPort]*upstream{}}
}

// want returns a server's upstream.
func (p *pool) want(addr netip.AddrPort) *upstream {
	p.mu.Lock()
	defer p.mu.Unlock()
	u := p.known[addr]
	if u == nil {
		if len(p.known) >= maxKnown {
			p.forget()
		}
		u = &upstream{addr: addr}
		p.known[addr] = u
	}
	u.wanted = time.Now()
	return u
}

// forget drops the servers whose health nobody watches; with the lock held.
func (p *pool) forget() {
	for a, u := range p.known {
		if !u.probing {
			delete(p.known, a)
		}
	}
}

func (p *pool) isDead(u *upstream) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return u.dead
}

// hear notes that a server answered.
func (p *pool) hear(u *upstream) {
	p.mu.Lock()
	back := u.dead
	u.dead, u.heard = false, time.Now()
	p.mu.Unlock()
	if back {
		p.log.Info("DNS server answers again", "server", u.addr.String())
	}
}

// doubt begins to probe a server, unless that is being done or it has just answered somebody else. What refuses packets is dead already.
func (p *pool) doubt(u *upstream, refused bool) {
	p.mu.Lock()
	begin := !u.probing && p.ctx.Err() == nil && (refused || time.Since(u.heard) >= p.patience)
	u.probing = u.probing || begin
	p.mu.Unlock()
	if refused {
		p.bury(u)
	}
	if begin {
		p.wg.Go(func() { p.probe(u) })
	}
}

func (p *pool) bury(u *upstream) {
	p.mu.Lock()
	news := !u.dead
	u.dead = true
	p.mu.Unlock()
	if news {
		p.log.Warn("DNS server does not answer; it is left out until it does", "server", u.addr.String())
	}
}

// probe asks a server until it answers, or nobody has wanted it for a while: who wants it then finds out anew.
func (p *pool) probe(u *upstream) {
	defer func() {
		p.mu.Lock()
		u.probing = false
		p.mu.Unlock()
	}()
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-p.ctx.Done():
			return
		}
		begun := time.Now()
		m := new(dns.Msg)
		m.SetQuestion(".", dns.TypeNS)
		ctx, cancel := context.WithTimeout(p.ctx, probeTimeout)
		_, err := p.exchange(ctx, u.addr, m)
		cancel()
		p.mu.Lock()
		heard, unwanted := u.heard.After(begun), time.Since(u.wanted) > unusedFor
		if unwanted {
			u.dead = false
		}
		p.mu.Unlock()
		switch {
		case err == nil:
			p.hear(u)
			return
		case heard || unwanted || p.ctx.Err() != nil:
			return
		}
		p.bury(u)
		t.Reset(probeEvery)
	}
}

// race is one question on its way to several servers.
type race struct {
	pool    *pool
	m       *dns.Msg
	runners []*runner
	results chan outcome
	running int
	last    *dns.Msg // an answer that another server may better
	err     error
}

// runner is a server in a race.
type runner struct {
	*upstream
	tries int
	out   bool // it has answered that it cannot
}

type outcome struct {
	from *runner
	m    *dns.Msg
	err  error
}

// race asks servers in their order, the next one as soon as one fails or is silent for a while, and returns the first good answer; else
// the last bad one; else an error. It waits for all that it started.
func (p *pool) race(ctx context.Context, m *dns.Msg, servers []netip.AddrPort, single bool) (*dns.Msg, error) {
	if len(servers) == 0 {
		return nil, errNoServer
	}
	limit := budget
	if single {
		limit = singleBudget
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	r := &race{pool: p, m: m, results: make(chan outcome, triesEach*len(servers))}
	for _, s := range servers {
		r.runners = append(r.runners, &runner{upstream: p.want(s)})
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	return r.run(ctx, &wg)
}

func (r *race) run(ctx context.Context, wg *sync.WaitGroup) (*dns.Msg, error) {
	if !r.start(ctx, wg) {
		return nil, r.lost()
	}
	tick := time.NewTicker(r.pool.patience)
	defer tick.Stop()
	for {
		select {
		case o := <-r.results:
			r.running--
			if r.judge(o) {
				return o.m, nil
			}
			if !r.start(ctx, wg) && r.running == 0 {
				return r.last, r.lost()
			}
		case <-tick.C:
			if !r.silence() {
				return r.last, r.lost()
			}
			r.start(ctx, wg)
		case <-ctx.Done():
			return r.last, r.lost()
		}
	}
}

// start asks the server that is next: of the living ones that was asked least.
func (r *race) start(ctx context.Context, wg *sync.WaitGroup) bool {
	var next *runner
	for _, c := range r.runners {
		if !c.out && c.tries < triesEach && (next == nil || c.tries < next.tries) && !r.pool.isDead(c.upstream) {
			next = c
		}
	}
	if next == nil {
		return false
	}
	next.tries++
	r.running++
	m := r.m.Copy()
	m.Id = dns.Id()
	wg.Go(func() {
		answer, err := r.pool.exchange(ctx, next.addr, m)
		r.results <- outcome{next, answer, err}
	})
	return true
}

// judge tells whether an outcome ends the race.
func (r *race) judge(o outcome) bool {
	if o.err != nil {
		r.err = o.err
		if refused(o.err) {
			o.from.out = true
			r.pool.doubt(o.from.upstream, true)
		}
		return false
	}
	r.pool.hear(o.from.upstream)
	switch o.m.Rcode {
	case dns.RcodeSuccess, dns.RcodeNameError:
		return true
	}
	o.from.out, r.last = true, o.m
	return false
}

// silence puts the servers in doubt that have not answered for nextAfter; false if there is none left to wait for.
func (r *race) silence() bool {
	living := false
	for _, c := range r.runners {
		if c.tries > 0 && !c.out {
			r.pool.doubt(c.upstream, false)
		}
		living = living || !c.out && !r.pool.isDead(c.upstream)
	}
	return living
}

// lost is the error of a race without a winner; nil if there is a bad answer to pass on.
func (r *race) lost() error {
	if r.last != nil {
		return nil
	}
	if r.err != nil && !errors.Is(r.err, context.DeadlineExceeded) && !errors.Is(r.err, context.Canceled) {
		return fmt.Errorf("%w: %w", errDead, r.err)
	}
	return fmt.Errorf("%w: tried %s", errDead, r.names())
}

func (r *race) names() string {
	var s string
	for i, c := range r.runners {
		if i > 0 {
			s += ", "
		}
		s += c.addr.String()
	}
	return s
}

// refused tells whether an error is the network's word that nobody is there.
func refused(err error) bool {
	for _, e := range []error{syscall.ECONNREFUSED, syscall.ENETUNREACH, syscall.EHOSTUNREACH, syscall.EPERM, syscall.EACCES} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
