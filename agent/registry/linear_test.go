package registry_test

import (
	"context"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"weft/store"
	"weft/store/consul"
	"weft/store/etcd"
	"weft/store/memory"
	"weft/store/storetest/server"
	"weft/store/zk"
)

// Times of a history.
const (
	linearTime    = 20 * time.Second
	checkPatience = 30 * time.Second
	linearCall    = 4 * time.Second // as an agent's
	linearHosts   = 5
)

// Several agents claim the same names, addresses, pools and VNIs of a real store at once, while its servers are killed and frozen and their
// links cut: what they were told, and what they read, could have come from a single program that does one thing after the other.
func TestClaimsAreLinearizable(t *testing.T) {
	for _, kind := range server.Kinds {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			c, err := server.Start(t.Context(), server.Options{Kind: kind, Size: 3, Dir: t.TempDir()})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = c.Stop() })
			var hosts []*claimant
			for i := range linearHosts {
				l := &link{}
				s, err := openStore(kind, c.Endpoints(), l.dial)
				if err != nil {
					t.Fatal(err)
				}
				hosts = append(hosts, newClaimant(t, i, s, l))
			}
			ctx, cancel := context.WithTimeout(t.Context(), linearTime)
			defer cancel()
			var faults sync.WaitGroup
			faults.Go(func() { breakThings(ctx, t, c, hosts) })
			ops := contend(ctx, hosts)
			faults.Wait()
			sound(t, ops)
		})
	}
}

// A history that is wrong is found: here it comes from agents that leave out conditions.
func TestAMissingConditionIsNotLinearizable(t *testing.T) {
	for name, tc := range map[string]struct {
		without []string
		want    porcupine.CheckResult
	}{
		"nothing is missing":          {nil, porcupine.Ok},
		"names may be taken":          {[]string{"name/"}, porcupine.Illegal},
		"addresses may be taken":      {[]string{"addr/"}, porcupine.Illegal},
		"pools and VNIs may be taken": {[]string{"pools-gen", "vnis/"}, porcupine.Illegal},
		"networks may be gone":        {[]string{"networks/"}, porcupine.Illegal},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			res := porcupine.Ok
			for range 5 {
				w := memory.New()
				var hosts []*claimant
				for i := range linearHosts {
					hosts = append(hosts, newClaimant(t, i, careless{w.Client(), tc.without}, &link{}))
				}
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
				_, res = linearizable(contend(ctx, hosts))
				cancel()
				if res != porcupine.Ok || tc.want == porcupine.Ok {
					break
				}
			}
			if res != tc.want {
				t.Errorf("the history is %s, and should be %s", res, tc.want)
			}
		})
	}
}

// sound looks for an order of the operations that explains all answers.
func sound(t *testing.T, ops []porcupine.Operation) {
	t.Helper()
	count := map[how]int{}
	for _, o := range ops {
		count[o.Output.(answer).how]++
	}
	begun := time.Now()
	of, res := linearizable(ops)
	t.Logf("%d operations, checked in %s: %v", len(ops), time.Since(begun).Round(time.Millisecond), count)
	if count[done] < len(ops)/10 {
		t.Error("most was refused: this proves little")
	}
	if res == porcupine.Ok {
		return
	}
	t.Errorf("the history of %s is %s", of, res)
	for _, o := range ops {
		if q := o.Input.(ask); of == everyNetwork && q.ep == "" && q.verb != toReadNet || strings.HasSuffix(of, string(q.net)) && q.net != "" {
			t.Logf("host %d, %s–%s: %+v: %+v", o.ClientId, time.Duration(o.Call), time.Duration(o.Return), q, o.Output)
		}
	}
}

func openStore(kind server.Kind, endpoints []string, dial func(context.Context, string, string) (net.Conn, error)) (store.Store, error) {
	switch kind {
	case server.Consul:
		return consul.New(consul.Config{Endpoints: endpoints, Prefix: "p", Dial: dial})
	case server.ZooKeeper:
		return zk.New(zk.Config{Endpoints: endpoints, Prefix: "p", Dial: dial})
	}
	return etcd.New(etcd.Config{Endpoints: endpoints, Prefix: "p", Dial: dial})
}

// breakThings lets one fault follow the other until ctx ends, and heals the last.
func breakThings(ctx context.Context, t *testing.T, c *server.Cluster, hosts []*claimant) {
	for ctx.Err() == nil {
		wait(ctx, 2500*time.Millisecond)
		m := c.Members[rand.IntN(len(c.Members))]
		if l, err := c.Leader(ctx); err == nil && rand.IntN(2) == 0 {
			m = l
		}
		h := hosts[rand.IntN(len(hosts))]
		switch rand.IntN(3) {
		case 0:
			if err := m.Kill(); err != nil {
				t.Error(err)
			}
			wait(ctx, time.Second)
			if err := m.Start(); err != nil {
				t.Error(err)
			}
		case 1:
			if err := m.Pause(); err != nil {
				t.Error(err)
			}
			wait(ctx, 1500*time.Millisecond)
			if err := m.Resume(); err != nil {
				t.Error(err)
			}
		case 2:
			h.link.set(true)
			wait(ctx, time.Second)
			h.link.set(false)
		}
	}
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}
