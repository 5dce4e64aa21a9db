//go:build !race

package agent

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"weft/agent/api"
	"weft/agent/registry"
	"weft/store/record"
)

// A backup is older than what its cluster has done since. When it is restored, each host puts its own endpoints back, also those that it had released
// in networks that it does not use any more: nothing that is not there is left in a record, or answered.
func TestABackupThatIsOlderThanAReleaseIsRestored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newSimWorld(1, t.TempDir(), slog.New(slog.DiscardHandler), mutation{})
		w.hosts = w.hosts[:2]
		defer w.end()
		for _, h := range w.hosts {
			<-h.start().up
		}
		time.Sleep(time.Second)
		ctx, a, b := t.Context(), w.hosts[0].alive().agent, w.hosts[1].alive().agent
		if _, _, err := a.CreateNetwork(ctx, api.NetworkRequest{Spec: registry.NetworkSpec{Name: "web", Driver: "overlay"}}); err != nil {
			t.Fatal(err)
		}
		begin(t, a, "x")
		begin(t, b, "y")
		var file bytes.Buffer
		if err := a.BackupStore(ctx, &file); err != nil {
			t.Fatal(err)
		}
		if _, err := b.RemoveSandbox(ctx, "y", true); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute) // the host does not use the network any more
		w.restoring(true)
		if _, err := a.RestoreStore(ctx, api.RestoreRequest{}, &file); err != nil {
			t.Fatal(err)
		}
		w.restoring(false)
		w.converge()
		if bad := w.failed(); len(bad) > 0 {
			t.Error(strings.Join(bad, "\n"))
		}
	})
}

// Whatever has happened to a cluster before its store loses all records, a reseed puts back what is: what lives keeps its addresses, and no other gets one.
func TestSimulationOfAReseed(t *testing.T) {
	lost := mutation{reseed: true, last: (*simWorld).loseRecords}
	simulateAll(t, *simFirst, *simHistories/20, func(t *testing.T, seed uint64) bool {
		return report(t, seed, slog.New(slog.DiscardHandler), lost, false)
	})
}

// restoring says that the records are not whole now, or are again.
func (w *simWorld) restoring(yes bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lost = yes
}

// begin runs a sandbox in network web.
func begin(t *testing.T, a *Agent, name string) {
	t.Helper()
	s := &record.Sandbox{Name: name, Command: []string{"sleep"}, Once: true}
	s, err := a.CreateSandbox(context.Background(), s, []api.AttachmentRequest{{Network: "web"}})
	if err == nil {
		_, err = a.StartSandbox(context.Background(), string(s.ID))
	}
	if err != nil {
		t.Fatal(err)
	}
}
