package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"weft/agent/journal"
	"weft/store"
	"weft/store/memory"
	"weft/store/record"
)

// refusing is a store that does not like this host's credentials, and counts how often it is asked.
type refusing struct {
	store.Store
	asked int // guarded by the bubble: one goroutine asks
}

func (r *refusing) Status(context.Context) (store.Status, error) {
	r.asked++
	return store.Status{}, fmt.Errorf("etcd: ask for status: %w: wrong password", store.ErrRefused)
}

// A host's very first start ends with what is wrong; whoever has something to lose goes on, says so, and asks again without haste.
func TestAStoreThatRefusesThisHost(t *testing.T) {
	for name, tc := range map[string]struct {
		cluster string
		sandbox bool
		ends    bool
	}{
		"first start":               {ends: true},
		"a member before":           {cluster: "c1"},
		"sandboxes, and no cluster": {sandbox: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				world, disk := memory.New().Client(), memory.New().Client()
				jr := journal.New(disk, filepath.Join(t.TempDir(), "state"))
				if tc.sandbox {
					if err := jr.PutSandbox(t.Context(), &record.Sandbox{ID: "b1", Name: "b"}); err != nil {
						t.Fatal(err)
					}
				}
				s := &refusing{Store: world}
				fatal := make(chan error, 1)
				m := newMember(memberConfig{
					log: slog.New(slog.DiscardHandler), clock: machineClock{}, store: s, journal: jr, name: func() string { return "etcd://h:2379/weft" }, ttl: 15 * time.Second,
					fatal: func(err error) { fatal <- err }, follow: func(context.Context) error { return nil },
				}, journal.Identity{Host: "h", Incarnation: 1, Cluster: tc.cluster})
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				var wg sync.WaitGroup
				wg.Go(func() { m.run(ctx) })
				wait(t, fatal, tc.ends)
				_, err := m.claim(t.Context())
				for _, text := range []string{fmt.Sprint(err), strings.Join(m.say(), " ")} {
					if !strings.Contains(text, "cluster store etcd://h:2379/weft refuses this host: etcd: ask for status: refused by the store: wrong password; check what --cluster-store-opt names") {
						t.Errorf("it says %q", text)
					}
				}
				if tc.ends != (s.asked == 1) || s.asked > 20 {
					t.Errorf("asked %d times", s.asked)
				}
				cancel()
				wg.Wait()
				if err := errors.Join(world.Close(), disk.Close()); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// wait waits for the end of an agent within five seconds, or that it goes on for a minute.
func wait(t *testing.T, fatal <-chan error, ends bool) {
	t.Helper()
	limit := time.Minute
	if ends {
		limit = 5 * time.Second
	}
	select {
	case err := <-fatal:
		if !ends || !strings.Contains(err.Error(), "refuses this host") {
			t.Errorf("it ends: %v", err)
		}
	case <-time.After(limit):
		if ends {
			t.Error("it goes on")
		}
	}
}
