package agent

import (
	"context"
	"fmt"
	"sync"
	"time"

	"weft/agent/doctor"
)

// examination looks at one subject. They run beside each other, and what they find is told in their order.
type examination struct {
	words string // what is being looked at
	look  func(ctx context.Context) []doctor.Check
}

// examinationTime is how long one may take; what is not known by then is told so.
const examinationTime = 20 * time.Second

// Doctor examines this host and its paths to others: tell hears what is being looked at, emit each check. With quick, what reads the whole store
// or waits for probes is left out.
func (a *Agent) Doctor(ctx context.Context, quick bool, tell func(string), emit func(doctor.Check) error) error {
	a.awaitPicture(ctx)
	ctx, cancel := context.WithTimeout(ctx, examinationTime)
	defer cancel()
	all := a.examinations(quick)
	found := make([]chan []doctor.Check, len(all))
	var wg sync.WaitGroup
	defer wg.Wait()
	for i, e := range all {
		found[i] = make(chan []doctor.Check, 1)
		wg.Go(func() { found[i] <- e.look(ctx) })
	}
	for i, e := range all {
		tell(e.words)
		for _, c := range <-found[i] {
			if err := emit(c); err != nil {
				cancel()
				return fmt.Errorf("tell what was found: %w", err)
			}
		}
	}
	return nil
}

// examinations are in the order in which one who looks for a fault would go: what others rely on comes first.
func (a *Agent) examinations(quick bool) []examination {
	return []examination{
		{"the store", a.examineStore},
		{"the tunnels to other hosts", func(ctx context.Context) []doctor.Check { return a.examineTunnels(ctx, quick) }},
		{"this host", a.examineHost},
		{"routes and tunnels of others", a.examineNeighbours},
		{"the firewalls of this host", func(context.Context) []doctor.Check { return doctor.Firewalls(a.obstacles()) }},
		{"the records", func(ctx context.Context) []doctor.Check { return a.examineRecords(ctx, quick) }},
		{"the kernel", a.examineKernel},
		{"the names", a.examineNames},
	}
}

// looks are the waits between several looks at what may just be changing: a difference is one that all of them have.
var looks = []time.Duration{200 * time.Millisecond, 500 * time.Millisecond, time.Second, 2 * time.Second}

// staying looks again and again until nothing is left that every look has found, or the last look has been. An error ends it.
func staying[T any](ctx context.Context, clock Clock, look func(context.Context) ([]T, error), name func(T) string) ([]T, error) {
	found, err := look(ctx)
	for _, wait := range looks {
		if err != nil || len(found) == 0 {
			break
		}
		select {
		case <-clock.After(wait):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		var now []T
		if now, err = look(ctx); err == nil {
			found = doctor.Staying(found, now, name)
		}
	}
	return found, err
}

func (a *Agent) examineStore(ctx context.Context) []doctor.Check {
	s := a.member.standing()
	out := doctor.Store{Name: a.storeName(), Moved: a.configured(), Joined: s.joined, Why: s.why, Bound: s.bound}
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	st, err := askStore(ctx, a.store, statusAsks)
	if out.Latency, out.Away = st.Latency, awayReason(err); out.Away == nil {
		out.Doubt = a.follower.Doubt()
	}
	return []doctor.Check{out.Check()}
}
