package probe

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"
)

// Clock is the time that probes are timed by.
type Clock interface {
	Now() time.Time
	After(d time.Duration) <-chan time.Time
}

// Pair is another host, and the network that it is probed in: both ends choose the same one.
type Pair struct {
	Host string // its ID
	MAC  string // of its end of the tunnel
	Way  Way
}

// Config of a Prober.
type Config struct {
	Self    string
	Clock   Clock
	Log     *slog.Logger
	Pairs   func() []Pair                         // whom to probe now; asked when the prober is woken
	Changed func(host string, before, after Path) // a path's state has become another one; may be nil

	open func(Way, func([]byte), func()) (socket, error) // nil: openPacket
}

// Prober probes all hosts that share a network with this one, now and then, and answers theirs. It has one socket for each network that any host is
// probed in.
type Prober struct {
	Config
	wake chan struct{} // size 1: whom to probe may have changed
	soon chan struct{} // size 1: something is due now

	mu      sync.Mutex // guards what follows; never held across I/O
	ears    map[Way]*ear
	pairs   map[string]Pair
	paths   map[string]*path
	waiting map[nonce]waiter
}

// waiter is a question whose asker waits.
type waiter struct {
	host id
	got  chan message // size 1
}

// New returns a Prober that does nothing before Run.
func New(cfg Config) *Prober {
	if cfg.open == nil {
		cfg.open = openPacket
	}
	if cfg.Changed == nil {
		cfg.Changed = func(string, Path, Path) {}
	}
	return &Prober{Config: cfg, wake: make(chan struct{}, 1), soon: make(chan struct{}, 1), ears: map[Way]*ear{}, pairs: map[string]Pair{}, paths: map[string]*path{}, waiting: map[nonce]waiter{}}
}

// Look makes the prober ask again whom to probe. It does not wait.
func (p *Prober) Look() { signal(p.wake) }

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// calm is how often whom to probe is asked for at most: where records come in by hundreds, once for all of them.
const calm = 500 * time.Millisecond

// Run probes until ctx ends, and closes all sockets.
func (p *Prober) Run(ctx context.Context) {
	defer p.closeAll()
	look, looked := true, time.Time{}
	for {
		now := p.Clock.Now()
		wait := p.step(now)
		if look {
			if looked.IsZero() || now.Sub(looked) >= calm {
				p.follow(now)
				look, looked = false, now
				continue
			}
			wait = min(wait, calm-now.Sub(looked))
		}
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
			look = true
		case <-p.soon:
		case <-p.Clock.After(wait):
		}
	}
}

// restAtMost is how long the prober sleeps where nothing is due.
const restAtMost = time.Minute

// step sends what is due, counts what is lost, and returns how long nothing is to be done.
func (p *Prober) step(now time.Time) time.Duration {
	type job struct {
		host string
		size int
		n    nonce
	}
	type change struct {
		host          string
		before, after Path
	}
	var jobs []job
	var changes []change
	wait := restAtMost
	p.mu.Lock()
	for host, s := range p.paths {
		before := s.Path
		s.expire(now)
		if s.deadline.IsZero() && !now.Before(s.due) {
			n := newNonce()
			jobs = append(jobs, job{host, s.begin(now, n), n})
		}
		wait = min(wait, s.next().Sub(now))
		if s.State != before.State {
			changes = append(changes, change{host, before, s.Path})
		}
	}
	p.mu.Unlock()
	for _, c := range changes {
		p.Changed(c.host, c.before, c.after)
	}
	for _, j := range jobs {
		if err := p.send(j.host, message{kind: echo, nonce: j.n, size: j.size}); err != nil {
			p.unsent(j.host, j.n, err)
		}
	}
	return max(wait, time.Millisecond)
}

// unsent takes a probe back that could not be sent for reasons of this host, such as a network that is just being made: it says nothing of the path.
// What the kernel refuses to send for its size, or has no way for, is lost.
func (p *Prober) unsent(host string, n nonce, err error) {
	if !errors.Is(err, ErrNoWay) {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.paths[host]; s != nil && s.nonce == n {
		s.deadline, s.due = time.Time{}, p.Clock.Now().Add(calm)
		p.Look()
	}
}

// ErrNoWay says that there is no tunnel here to send by.
var ErrNoWay = errors.New("this host has no tunnel to it now")

// send sends a message to a host. Its sender, receiver and VNI are filled in; 0 is the smallest size.
func (p *Prober) send(host string, m message) error {
	p.mu.Lock()
	pair, ok := p.pairs[host]
	e := p.ears[pair.Way]
	p.mu.Unlock()
	if !ok || e == nil {
		return ErrNoWay
	}
	m.from, m.to, m.vni, m.size = idOf(p.Self), idOf(host), pair.Way.VNI, max(m.size, headSize)
	to, err := net.ParseMAC(pair.MAC)
	if err != nil {
		return fmt.Errorf("the tunnel's end at the other host: %w", err)
	}
	return e.send(m, to)
}

func newNonce() (n nonce) {
	_, _ = rand.Read(n[:]) // never fails
	return n
}

// receive takes what an ear has heard.
func (p *Prober) receive(e *ear, m message, from net.HardwareAddr) {
	if m.to != idOf(p.Self) || m.vni != e.way.VNI {
		return
	}
	now := p.Clock.Now()
	switch m.kind {
	case echo:
		p.heard(m.from, now)
		a := message{kind: answer, vni: m.vni, nonce: m.nonce, from: m.to, to: m.from, size: headSize}
		if m.full {
			a.size = m.size
		}
		e.answer(a, from)
	case listen:
		e.answer(message{kind: ready, vni: m.vni, nonce: m.nonce, from: m.to, to: m.from, size: headSize, result: e.listen(p)}, from)
	case answer, ready, checked:
		p.answered(m, now)
	}
}

// heard notes that a host's probes come here.
func (p *Prober) heard(from id, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for host, s := range p.paths {
		if idOf(host) == from {
			s.Heard = now
		}
	}
}

// answered gives an answer to who waits for it.
func (p *Prober) answered(m message, now time.Time) {
	p.mu.Lock()
	if w, ok := p.waiting[m.nonce]; ok && w.host == m.from {
		select {
		case w.got <- m:
		default:
		}
	}
	var host string
	var before, after Path
	for h, s := range p.paths {
		if m.kind == answer && s.nonce == m.nonce && !s.deadline.IsZero() && idOf(h) == m.from {
			host, before = h, s.Path
			s.answered(now)
			after = s.Path
		}
	}
	p.mu.Unlock()
	if host == "" {
		return
	}
	if before.State != after.State {
		p.Changed(host, before, after)
	}
	signal(p.soon)
}

// Path returns what is known of the path to a host.
func (p *Prober) Path(host string) Path {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.paths[host]; s != nil {
		return s.Path
	}
	return Path{State: Unknown}
}

// Hosts returns the hosts that are probed.
func (p *Prober) Hosts() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]string, 0, len(p.pairs))
	for h := range p.pairs {
		out = append(out, h)
	}
	return out
}
