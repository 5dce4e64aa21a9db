package agent

import (
	"context"
	"errors"
	"slices"
	"time"

	"weft/agent/api"
	"weft/agent/registry"
	"weft/store"
)

// How a store is asked how it is: a median says more than one answer.
const (
	statusAsks    = 5
	statusTimeout = 3 * time.Second
)

// StoreStatus returns how the store is. One that does not answer is shown with what is known of it.
func (a *Agent) StoreStatus(ctx context.Context) api.StoreStatus {
	s := a.member.standing()
	out := api.StoreStatus{
		URL: a.storeName(), Embedded: a.where().embedded, Cluster: a.member.identity().Cluster,
		TTL: s.ttl, Bound: boundOf(s.bound), State: api.StoreConnected, Since: s.since,
		Configured: a.configured(),
	}
	asking, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	out.Status, out.Err = askStore(asking, a.store, statusAsks)
	switch {
	case out.Err != nil:
		out.State = api.StoreAway
		if s.joined { // its session may last longer than the store
			out.Since = a.clock.Now()
		}
		if errors.Is(out.Err, context.DeadlineExceeded) {
			out.Err = errors.New("it does not answer")
		}
	case !s.joined:
		out.State, out.Err = api.StoreJoining, s.why
	default:
		out.Err = a.follower.Doubt()
	}
	p := a.follower.Picture()
	for h := range p.Hosts() {
		out.Hosts++
		if _, alive := p.Alive(h.ID); alive && out.State == api.StoreConnected {
			out.Alive++
		}
	}
	return out
}

// askStore asks several times and returns the last answer with the median of the latencies.
func askStore(ctx context.Context, s store.Store, times int) (store.Status, error) {
	var st store.Status
	var took []time.Duration
	for range times {
		var err error
		if st, err = s.Status(ctx); err != nil {
			return st, err
		}
		took = append(took, st.Latency)
	}
	slices.Sort(took)
	st.Latency = took[len(took)/2]
	return st, nil
}

// CheckStore checks every rule over the whole store.
func (a *Agent) CheckStore(ctx context.Context) (registry.Survey, error) {
	first, cancel := context.WithTimeout(ctx, callTimeout) // one that is away says so at once
	_, err := a.store.Status(first)
	cancel()
	if err != nil {
		return registry.Survey{}, a.member.explain(err)
	}
	s, err := a.registry.Inspect(ctx)
	if err != nil {
		return s, a.member.explain(err)
	}
	return s, nil
}
