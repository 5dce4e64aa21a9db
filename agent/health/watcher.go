package health

import (
	"context"
	"errors"
	"sync"
	"time"

	"weft/agent/peer"
	"weft/store/record"
)

// Clock is the time that the observer judges by.
type Clock interface {
	Now() time.Time
	After(d time.Duration) <-chan time.Time
}

// Times of one round of questions. Together they are within a second of a session's end.
const (
	headStart  = 100 * time.Millisecond // of the host itself, before others are asked
	askTimeout = 800 * time.Millisecond // for each answer
	ownTimeout = 600 * time.Millisecond // of what is asked for another: its answer is to be back in time
	fresh      = 250 * time.Millisecond // how old an answer may be that several ask for at once
	lookEvery  = 500 * time.Millisecond // whether the store answers tells nobody when it changes
)

// Asking is the longest that a round takes: what is added to a session's bound until a dead host's names are not answered any more.
const Asking = time.Second

// Config is what a Watcher needs.
type Config struct {
	Clock   Clock
	Peers   func() peer.Peers // whom this host can ask now
	Sight   func() Sight
	Changed func() <-chan struct{}                   // closed when what Sight shows may have changed
	Host    func(record.HostID) (*record.Host, bool) // its record
	Probe   func(context.Context, *record.Host) bool // whether a host answers through the tunnel, with or without its agent; nil: nobody can tell
	Turned  func(Turn)                               // after each change of a verdict; one at a time
	Grace   time.Duration                            // how long a host must have been lost before it is cleared
	Clear   func([]record.HostID)                    // those whose grace is over; it must not block. nil: nobody clears
}

// Watcher looks at the store's sessions, asks where they have ended, and keeps the verdicts. Its methods may be called from any goroutine.
type Watcher struct {
	Config
	found chan found

	mu    sync.Mutex // guards judge, and asked
	judge *Judge
	asked map[record.HostID]*asked
}

// found is the end of a round.
type found struct {
	host     record.HostID
	evidence Evidence
}

// asked is a question to one host that several may wait for.
type asked struct {
	done   chan struct{}
	answer Answer
	tunnel bool
	at     time.Time
}

// NewWatcher returns a Watcher; Run makes it work.
func NewWatcher(cfg Config) *Watcher {
	return &Watcher{Config: cfg, found: make(chan found), judge: NewJudge(), asked: map[record.HostID]*asked{}}
}

// Run keeps the verdicts until ctx ends. All that it has begun has ended when it returns.
func (w *Watcher) Run(ctx context.Context) {
	var rounds sync.WaitGroup
	defer rounds.Wait()
	for {
		changed := w.Changed()
		w.tell(w.look())
		for _, q := range w.questions() {
			rounds.Go(func() {
				f := found{q.Host, w.round(ctx, q)}
				select {
				case w.found <- f:
				case <-ctx.Done():
				}
			})
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case f := <-w.found:
			w.tell(w.take(f))
		case <-w.Clock.After(w.wait()):
		}
	}
}

func (w *Watcher) look() []Turn {
	s := w.Sight()
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.judge.Look(w.Clock.Now(), s)
}

func (w *Watcher) take(f found) []Turn {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.judge.Take(w.Clock.Now(), f.host, f.evidence)
}

func (w *Watcher) questions() []Question {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.judge.Questions(w.Clock.Now())
}

func (w *Watcher) wait() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	next, any := w.judge.Next()
	if !any {
		return lookEvery
	}
	return min(max(next.Sub(w.Clock.Now()), time.Millisecond), lookEvery)
}

func (w *Watcher) tell(turns []Turn) {
	for _, t := range turns {
		w.Turned(t)
	}
}

// Verdict returns what is known of a host.
func (w *Watcher) Verdict(id record.HostID) Verdict {
	w.mu.Lock()
	defer w.mu.Unlock()
	v, _ := w.judge.Verdict(id)
	return v
}

// Answers tells whether a host's endpoints are to be had, as far as is known at this moment; it does not wait. One whose session the picture still
// shows is alive, one whose session has just ended stays until it has been asked, and while the store tells nothing, what was true stays so.
func (w *Watcher) Answers(p *record.Snapshot, id record.HostID) bool {
	if _, alive := p.Alive(id); alive {
		return true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	v, _ := w.judge.Verdict(id)
	return v.State == Alive || v.State == Detached || v.State == Unknown && !w.judge.clear
}

// Graced returns for how long a lost host's grace has run. False: none runs.
func (w *Watcher) Graced(id record.HostID) (time.Duration, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.judge.Graced(w.Clock.Now(), id)
}

// Due returns the hosts that have been lost for a grace time.
func (w *Watcher) Due(grace time.Duration) []record.HostID {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.judge.Due(w.Clock.Now(), grace)
}

// round asks after one host: the host itself and, where it does not answer at once, all live peers.
func (w *Watcher) round(ctx context.Context, q Question) Evidence {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	own := make(chan Answer, 1)
	var asking sync.WaitGroup
	defer asking.Wait()
	asking.Go(func() { own <- w.ask(ctx, q.Host).either() })
	e := Evidence{Round: q.Round}
	select {
	case e.Own = <-own:
		if e.Own == Yes || e.Own == Anew {
			return e
		}
		e.Others = w.askOthers(ctx, q)
	case <-w.Clock.After(headStart):
		e.Others = w.askOthers(ctx, q)
		e.Own = <-own
	}
	return e
}

// askOthers asks the live peers at once, and returns when all have answered or their time is over; one yes is enough.
func (w *Watcher) askOthers(ctx context.Context, q Question) map[record.HostID]Answer {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type said struct {
		by     record.HostID
		answer Answer
	}
	all := make(chan said, len(q.Peers))
	var asking sync.WaitGroup
	defer asking.Wait()
	for _, p := range q.Peers {
		asking.Go(func() { all <- said{p, w.askOne(ctx, p, q.Host)} })
	}
	out := map[record.HostID]Answer{}
	for range q.Peers {
		s := <-all
		if out[s.by] = s.answer; s.answer == Yes {
			break
		}
	}
	return out
}

// askOne asks one peer what it knows of a host.
func (w *Watcher) askOne(ctx context.Context, by, about record.HostID) Answer {
	h, ok := w.Host(by)
	if !ok {
		return Silence
	}
	opinions, err := w.Peers().Judge(ctx, h, []record.HostID{about})
	if errors.Is(err, peer.ErrNoIdentity) || errors.Is(err, peer.ErrOld) {
		return Unable
	}
	o, said := opinions[about]
	switch {
	case err != nil || !said || o.Unknown:
		return Silence
	case o.Agent || o.Tunnel:
		return Yes
	}
	return No
}

// Opinions is what this observer can say of others to one who asks: it asks them itself, within the context's time.
func (w *Watcher) Opinions(ctx context.Context, about []record.HostID) map[record.HostID]peer.Opinion {
	ctx, cancel := context.WithTimeout(ctx, ownTimeout)
	defer cancel()
	out := make(map[record.HostID]peer.Opinion, len(about))
	var mu sync.Mutex // guards out
	var asking sync.WaitGroup
	for _, id := range about {
		asking.Go(func() {
			a := w.ask(ctx, id)
			mu.Lock()
			defer mu.Unlock()
			out[id] = peer.Opinion{
				Agent: a.answer == Yes, Tunnel: a.tunnel, Unknown: a.answer == Unable && !a.tunnel, Age: w.Clock.Now().Sub(a.at),
			}
		})
	}
	asking.Wait()
	return out
}

// either is what agent and tunnel say together.
func (a *asked) either() Answer {
	if a.tunnel && a.answer != Anew {
		return Yes
	}
	return a.answer
}

// ask asks a host itself. Several who ask at the same time ask once.
func (w *Watcher) ask(ctx context.Context, id record.HostID) *asked {
	w.mu.Lock()
	a := w.asked[id]
	if a == nil || isDone(a.done) && w.Clock.Now().Sub(a.at) > fresh {
		a = &asked{done: make(chan struct{}), at: w.Clock.Now()}
		w.asked[id] = a
		w.mu.Unlock()
		w.askHost(ctx, id, a)
		a.at = w.Clock.Now()
		close(a.done)
		return a
	}
	w.mu.Unlock()
	select {
	case <-a.done:
		return a
	case <-ctx.Done():
		return &asked{answer: No, at: w.Clock.Now()} // it has not answered the one who asked, either
	}
}

func isDone(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// askHost asks a host's agent, and its tunnel.
func (w *Watcher) askHost(ctx context.Context, id record.HostID, a *asked) {
	h, ok := w.Host(id)
	if !ok {
		a.answer = Unable
		return
	}
	probe, cancel := context.WithCancel(ctx)
	defer cancel()
	var probing sync.WaitGroup
	if w.Probe != nil {
		probing.Go(func() { a.tunnel = w.Probe(probe, h) })
	}
	if a.answer = w.hello(ctx, h); a.answer == Yes || a.answer == Anew {
		cancel() // more need not be known
	}
	probing.Wait()
}

// hello asks a host's agent. Whatever it answers, also a refusal, says that it is there; an error of this side says nothing.
func (w *Watcher) hello(ctx context.Context, h *record.Host) Answer {
	g, err := w.Peers().Hello(ctx, h)
	switch {
	case err == nil && g.Incarnation > h.Incarnation:
		return Anew
	case err == nil:
		return Yes
	case errors.Is(err, peer.ErrNoIdentity):
		return Unable
	case peer.Answered(err):
		return Yes
	}
	return No
}
