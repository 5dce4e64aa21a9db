package storetest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"weft/store"
	"weft/store/storetest/server"
)

// threeNodes breaks one or two of three servers, or what is between them.
func threeNodes(t *testing.T, w FaultWorld) {
	s := w.siteWith(t, 3, server.Options{Dir: t.TempDir(), Consul: map[string]any{"autopilot": map[string]any{"server_stabilization_time": "1s"}}})
	for _, c := range []struct {
		name string
		test func(*testing.T, *site)
	}{
		{"the leader killed", leaderKilled},
		{"the leader paused", leaderPaused},
		{"the leader cut off from the others", minorityCutOff},
		{"each cut off from each", majorityCutOff},
	} {
		t.Run(c.name, func(t *testing.T) {
			s.allVote(t)
			c.test(t, s)
		})
	}
}

// allVote waits until every server counts: one fault must not meet what the last one has left. Consul takes a server that was away off its
// list, and for a time after its return only as one that listens.
func (s *site) allVote(t *testing.T) {
	t.Helper()
	if s.Kind != server.Consul {
		return
	}
	poll(t, 2*patience, func() error {
		cli, err := s.cluster.ConsulClient(0)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(t.Context(), callWait)
		defer cancel()
		conf, err := cli.Operator().RaftGetConfiguration((&api.QueryOptions{}).WithContext(ctx))
		if err != nil {
			return err
		}
		voters := 0
		for _, m := range conf.Servers {
			if m.Voter {
				voters++
			}
		}
		if voters < len(s.cluster.Members) {
			return fmt.Errorf("%d of %d servers vote", voters, len(s.cluster.Members))
		}
		return nil
	})
}

func (s *site) leader(t *testing.T) (m *server.Member) {
	t.Helper()
	poll(t, patience, func() (err error) {
		m, err = s.cluster.Leader(t.Context())
		return err
	})
	return m
}

func leaderKilled(t *testing.T, s *site) {
	x := s.scene(t, "killed")
	m := s.leader(t)
	start := kill(t, m)
	since := time.Now()
	x.load.grown(t, 20) // the other two go on
	t.Logf("measured: %s: twenty more writes after %v", t.Name(), time.Since(since).Round(time.Millisecond))
	x.healed(t, time.Now())
	start()
	x.healed(t, time.Now())
	x.settle(t, true)
	x.sessionLives(t)
}

func leaderPaused(t *testing.T, s *site) {
	x := s.scene(t, "paused")
	m := s.leader(t)
	resume := pause(t, m)
	since := time.Now()
	x.load.grown(t, 20)
	t.Logf("measured: %s: twenty more writes after %v", t.Name(), time.Since(since).Round(time.Millisecond))
	x.healed(t, time.Now())
	resume()
	x.healed(t, time.Now())
	x.settle(t, true)
	x.sessionLives(t)
}

// minorityCutOff takes the leader off the others, but not off its clients. Those that speak to it go to the others; each client chooses for
// itself whom to speak to, so some do.
func minorityCutOff(t *testing.T, s *site) {
	m := s.leader(t)
	x := s.scene(t, "minority")
	heals := cut(t, s.of(s.cluster, m), drop, s.others(s.cluster, m)...)
	since := time.Now()
	x.load.grown(t, 20)
	t.Logf("measured: %s: twenty more writes after %v", t.Name(), time.Since(since).Round(time.Millisecond))
	x.healed(t, time.Now())
	for range 4 { // new clients find a server that is well, too
		late := s.client(t, "minority", s.near)
		poll(t, patience, func() error {
			ctx, cancel := context.WithTimeout(t.Context(), callWait)
			defer cancel()
			_, err := late.Txn(ctx, put("through a new client", ""))
			return err
		})
	}
	x.healed(t, time.Now())
	heals()
	x.healed(t, time.Now())
	x.settle(t, true)
	x.sessionLives(t)
}

// majorityCutOff leaves no majority anywhere: nothing is acknowledged, nothing is read that may be old, nothing hangs.
func majorityCutOff(t *testing.T, s *site) {
	x := s.scene(t, "majority")
	var heals []func()
	for _, m := range s.cluster.Members[1:] {
		heals = append(heals, cut(t, s.of(s.cluster, m), drop, s.others(s.cluster, m)...))
	}
	since := time.Now()
	callsEnd(t, x.s, store.ErrUnknown)
	time.Sleep(time.Until(since.Add(4 * time.Second)))
	callsEnd(t, x.s, store.ErrUnknown)
	if n := x.load.ackedSince(since); n > 0 {
		t.Errorf("%d transactions acknowledged without a majority", n)
	}
	for _, h := range heals {
		h()
	}
	s.waited(t)
	x.healed(t, time.Now())
	x.settle(t, true)
	if _, err := x.s.Get(t.Context(), key("mark")); err != nil {
		t.Error(errors.Join(errors.New("after the cut"), err))
	}
	x.sessionLives(t)
}
