package etcd

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"
)

// Times of moving to another member: how long a call is out before the member is doubted, how long members may take to say how they are, and
// how long it is until the next survey.
const (
	doubtAfter  = time.Second
	surveyWait  = time.Second
	firstSurvey = 200 * time.Millisecond
	lastSurvey  = 2 * time.Second
)

// seat is the one member that a client speaks to, calls and watches alike. Spread over the members, as etcd's client does it by itself, one
// call of three would fail for as long as one member is frozen or cut off from the others, and a watch on that one would be silent; on one
// connection, a call that is answered proves that watches are served, too. Which member is drawn by lot at first.
//
// A call that is out for long, an error, or a connection that ends put the member in doubt: then all are asked how they are, and the client
// moves if the present one is not well and another is. What is under way at the old one is given up.
type seat struct {
	endpoints []string
	doubts    chan struct{} // cap 1

	mu    sync.Mutex // guards what follows
	at    string
	here  context.Context // ends with the next move
	leave context.CancelFunc
}

func newSeat(ctx context.Context, endpoints []string) *seat {
	s := &seat{endpoints: endpoints, at: endpoints[rand.N(len(endpoints))], doubts: make(chan struct{}, 1)}
	s.here, s.leave = context.WithCancel(ctx)
	return s
}

// alone tells that there is no other member to move to.
func (s *seat) alone() bool { return len(s.endpoints) == 1 }

// doubt wakes who looks after the seat.
func (s *seat) doubt() {
	select {
	case s.doubts <- struct{}{}:
	default:
	}
}

// now is the present member, and what ends when the client moves.
func (s *seat) now() (at string, here context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.at, s.here
}

// hold ties a call to the present member: it ends when the client moves, and raises a doubt if it is out for long.
func (s *seat) hold(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	if s.alone() {
		return ctx, cancel
	}
	_, here := s.now()
	late := time.AfterFunc(doubtAfter, s.doubt)
	forget := context.AfterFunc(here, cancel)
	return ctx, func() {
		late.Stop()
		forget()
		cancel()
	}
}

// keepSeat looks after the seat whenever it is in doubt. While nobody is well it asks less and less often.
func (s *Store) keepSeat(ctx context.Context) {
	wait := firstSurvey
	for {
		select {
		case <-s.seat.doubts:
		case <-ctx.Done():
			return
		}
		if to := s.survey(ctx); to == "" {
			wait = min(2*wait, lastSurvey)
		} else {
			wait = firstSurvey
			s.moveTo(to)
		}
		select {
		case <-time.After(wait/2 + rand.N(wait)):
		case <-ctx.Done():
			return
		}
	}
}

// moveTo takes another seat.
func (s *Store) moveTo(to string) {
	at, _ := s.seat.now()
	if at == to {
		return
	}
	s.log.Info("the client moves to another server of the store", slog.String("from", at), slog.String("to", to))
	s.cli.SetEndpoints(to)
	s.seat.mu.Lock()
	defer s.seat.mu.Unlock()
	s.seat.leave()
	s.seat.at = to
	s.seat.here, s.seat.leave = context.WithCancel(s.ctx)
}

// survey asks all members how they are. It returns the present one if that is well, however slow, else the first other that is, or "".
func (s *Store) survey(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, surveyWait)
	defer cancel()
	type answer struct {
		from string
		well bool
	}
	answers := make(chan answer, len(s.seat.endpoints))
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for _, ep := range s.seat.endpoints {
		wg.Go(func() {
			st, err := s.cli.Status(ctx, ep)
			answers <- answer{ep, err == nil && st.Leader != 0 && !st.IsLearner}
		})
	}
	at, _ := s.seat.now()
	other, ruled := "", false
	for range s.seat.endpoints {
		a := <-answers // all come in time
		switch {
		case a.from == at && a.well:
			return at
		case a.from == at:
			ruled = true
		case a.well && other == "":
			other = a.from
		}
		if ruled && other != "" {
			break
		}
	}
	return other
}
