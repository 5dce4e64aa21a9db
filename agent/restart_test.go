package agent

import (
	"context"
	"math"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"weft/store/record"
)

func TestAgain(t *testing.T) {
	t.Parallel()
	policy := func(name string, limit int) record.Sandbox {
		return record.Sandbox{Restart: record.RestartPolicy{Name: name, Max: limit}}
	}
	for name, tc := range map[string]struct {
		s           record.Sandbox
		code        int
		yes, policy bool
	}{
		"no policy":                        {policy("", 0), 1, false, false},
		"no":                               {policy("no", 0), 1, false, false},
		"always, after success":            {policy("always", 0), 0, true, true},
		"always, after a failure":          {policy("always", 0), 1, true, true},
		"unless-stopped":                   {policy("unless-stopped", 0), 0, true, true},
		"on-failure, after success":        {policy("on-failure", 0), 0, false, false},
		"on-failure, after a failure":      {policy("on-failure", 0), 1, true, true},
		"on-failure, without end":          {record.Sandbox{Restart: record.RestartPolicy{Name: "on-failure"}, Restarts: math.MaxInt32}, 1, true, true},
		"on-failure, before the last":      {record.Sandbox{Restart: record.RestartPolicy{Name: "on-failure", Max: 3}, Restarts: 2}, 1, true, true},
		"on-failure, after the last":       {record.Sandbox{Restart: record.RestartPolicy{Name: "on-failure", Max: 3}, Restarts: 3}, 1, false, false},
		"always, stopped by a user":        {record.Sandbox{Restart: record.RestartPolicy{Name: "always"}, Stopped: true}, 143, false, false},
		"a restart by a user":              {record.Sandbox{Again: true}, 143, true, false},
		"a restart by a user, with --rm":   {record.Sandbox{Again: true, AutoRemove: true}, 0, true, false},
		"a restart by a user, with policy": {record.Sandbox{Again: true, Restart: record.RestartPolicy{Name: "always"}}, 0, true, false},
	} {
		if yes, policy := again(&tc.s, tc.code); yes != tc.yes || policy != tc.policy {
			t.Errorf("%s: %v, %v, want %v, %v", name, yes, policy, tc.yes, tc.policy)
		}
	}
}

func TestCheckRestart(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		s    record.Sandbox
		want string
	}{
		{record.Sandbox{}, ""},
		{record.Sandbox{AutoRemove: true, Restart: record.RestartPolicy{Name: "no"}}, ""},
		{record.Sandbox{Restart: record.RestartPolicy{Name: "on-failure", Max: 3}}, ""},
		{record.Sandbox{Restart: record.RestartPolicy{Name: "on-failure", Max: -1}}, "maximum retry count cannot be negative"},
		{record.Sandbox{Restart: record.RestartPolicy{Name: "always", Max: 1}}, "maximum retry count cannot be used with restart policy 'always'"},
		{record.Sandbox{Restart: record.RestartPolicy{Name: "often"}}, "invalid restart policy 'often': it is no, on-failure[:N], always or unless-stopped"},
		{record.Sandbox{AutoRemove: true, Restart: record.RestartPolicy{Name: "always"}}, "Conflicting options: --restart and --rm"},
	} {
		got := ""
		if err := checkRestart(&tc.s); err != nil {
			got = err.Error()
		}
		if got != tc.want {
			t.Errorf("%+v, --rm %v: %q, want %q", tc.s.Restart, tc.s.AutoRemove, got, tc.want)
		}
	}
}

// A process that ends at once is started again after 100 ms, and then after twice as long each time, up to a minute; once it has run for ten
// seconds, it begins anew.
func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		r := newRestarter(machineClock{})
		begin := time.Now()
		var at []time.Duration
		var wg sync.WaitGroup
		wg.Go(func() {
			r.run(ctx, func(_ context.Context, id record.SandboxID) {
				at = append(at, time.Since(begin))
				begin = time.Now()
				ran := time.Duration(0)
				if len(at) == 12 {
					ran = longEnough
				}
				if len(at) < 14 {
					r.later(id, ran)
				}
			})
		})
		r.later("a", 0)
		time.Sleep(time.Hour) // of the bubble
		cancel()
		wg.Wait()
		ms := time.Millisecond
		want := []time.Duration{100 * ms, 200 * ms, 400 * ms, 800 * ms, 1600 * ms, 3200 * ms, 6400 * ms, 12800 * ms, 25600 * ms, 51200 * ms, time.Minute, time.Minute, 100 * ms, 200 * ms}
		if !slices.Equal(at, want) {
			t.Errorf("started after %v, want %v", at, want)
		}
	})
}

// One that a user starts or stops meanwhile is not started, one that hurries is started at once, and one that waits for its turn keeps nobody.
func TestRestarterForgetsAndHurries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		r := newRestarter(machineClock{})
		var mu sync.Mutex // guards started
		started := map[record.SandboxID]time.Duration{}
		begin := time.Now()
		var wg sync.WaitGroup
		wg.Go(func() {
			r.run(ctx, func(ctx context.Context, id record.SandboxID) {
				mu.Lock()
				started[id] = time.Since(begin)
				mu.Unlock()
				if id == "slow" {
					<-ctx.Done()
				}
			})
		})
		for _, id := range []record.SandboxID{"slow", "stopped", "long"} {
			r.later(id, 0)
		}
		for range 5 {
			r.later("long", 0) // 3.2 s
		}
		r.forget("stopped")
		time.Sleep(time.Second)
		r.hurry()
		time.Sleep(time.Minute)
		cancel()
		wg.Wait()
		if len(started) != 2 || started["slow"] != firstBackoff || started["long"] != time.Second {
			t.Errorf("started %v", started)
		}
		if len(r.due) != 0 {
			t.Errorf("still due: %v", r.due)
		}
	})
}

// A sandbox that was down gave its dynamic addresses up. It remembers them, and others may have them by now: they are no reason to begin without the store.
func TestWhatWasGivenUpIsNotHeld(t *testing.T) {
	t.Parallel()
	at := in(front, "e1", "10.1.0.2")
	mine, down, theirs := box("a", at), box("a", at), box("b", in(front, "e2", "10.1.0.2"))
	down.Up, down.Status = false, record.SandboxExited
	nets := []*record.Network{network(front, "10.1.0.0/24")}
	know := func(eps ...*record.Endpoint) *record.Net {
		net, _ := picture(t, 5, nets, eps...).Net(front)
		return net
	}
	for name, tc := range map[string]struct {
		net  *record.Net
		want bool
	}{
		"nothing is known":            {nil, false},
		"it is its own":               {know(endpointOf(self, 1, mine, at)), false},
		"the store lost the endpoint": {know(), false},
		"it was released":             {know(endpointOf(self, 1, down, at)), true},
		"it is another's":             {know(endpointOf(self, 1, down, at), endpointOf(other, 1, theirs, theirs.Attachments[0])), true},
		"it is another's, and the store lost the endpoint": {know(endpointOf(other, 1, theirs, theirs.Attachments[0])), true},
	} {
		if got := gaveUp(tc.net, at); got != tc.want {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}
