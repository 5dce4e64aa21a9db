//go:build !race

package agent

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"

	"weft/agent/sandbox"
	"weft/store/record"
)

// aHost is a simulated host with its agent, which ends with the test's bubble.
func aHost(t *testing.T) *simHost {
	w := newSimWorld(1, t.TempDir(), slog.New(slog.DiscardHandler), mutation{})
	h := w.hosts[0]
	w.hosts = w.hosts[:1]
	t.Cleanup(w.end)
	<-h.start().up
	return h
}

// afterRestart are the names of a host's sandboxes, with what they are at, once its agent has begun anew.
func (h *simHost) afterRestart() map[string]record.SandboxStatus {
	h.alive().kill()
	<-h.start().up
	out := map[string]record.SandboxStatus{}
	for _, s := range h.alive().agent.boxes.snapshot() {
		out[s.Name] = s.Status
	}
	return out
}

// What a user has made to start it later outlives its agent; what weft run has made, and not started any more, does not.
func TestASandboxThatWasNeverStartedOutlivesItsAgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := aHost(t)
		a := h.alive().agent
		for _, s := range []*record.Sandbox{{Name: "kept"}, {Name: "run", Once: true}, {Name: "ran"}} {
			s.Command, s.NetworkMode = []string{"sleep"}, "none"
			if _, err := a.CreateSandbox(t.Context(), s, nil); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := a.StartSandbox(t.Context(), "ran"); err != nil {
			t.Fatal(err)
		}
		got := h.afterRestart()
		if len(got) != 2 || got["kept"] != record.SandboxCreated || got["ran"] != record.SandboxRunning {
			t.Errorf("the next agent has %v", got)
		}
		if _, err := h.alive().agent.StartSandbox(t.Context(), "kept"); err != nil {
			t.Errorf("start it later: %v", err)
		}
		if got := h.afterRestart(); got["kept"] != record.SandboxRunning {
			t.Errorf("once it has run: %v", got)
		}
	})
}

// A process that the last agent has started, and died before it had noted that, runs as any other.
func TestAProcessWhoseStartWasCutShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := aHost(t)
		l := h.alive()
		l.agent.runner = dyingRunner{l.agent.runner, l}
		s, err := l.agent.CreateSandbox(t.Context(), &record.Sandbox{Name: "a", Once: true, Command: []string{"sleep"}, NetworkMode: "none"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.agent.StartSandbox(t.Context(), "a"); !errors.Is(err, errDead) {
			t.Fatalf("it was to die: %v", err)
		}
		h.afterRestart()
		if now, _ := h.alive().agent.boxes.get(s.ID); now == nil || now.Status != record.SandboxRunning || !now.Up || now.Started.IsZero() {
			t.Errorf("the next agent has it as %+v", now)
		}
	})
}

// dyingRunner is of an agent that dies right after it has started a process.
type dyingRunner struct {
	runner
	life *simLife
}

func (r dyingRunner) Start(ctx context.Context, id string, spec sandbox.Spec) error {
	err := r.runner.Start(ctx, id, spec)
	r.life.gate.Lock()
	defer r.life.gate.Unlock()
	r.life.dead = true
	return errors.Join(err, errDead)
}

// A first start that fails leaves nothing of what weft run has made, and of what a user has made what it was.
func TestAFirstStartThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := aHost(t)
		a := h.alive().agent
		a.runner = refusingRunner{a.runner}
		for _, once := range []bool{true, false} {
			s, err := a.CreateSandbox(t.Context(), &record.Sandbox{Name: "a", Once: once, Command: []string{"sleep"}, NetworkMode: "none"}, nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := a.StartSandbox(t.Context(), "a"); err == nil || !strings.Contains(err.Error(), "not simulated") {
				t.Errorf("once %v: it starts: %v", once, err)
			}
			now, there := a.boxes.get(s.ID)
			if there == once || there && (now.Status != record.SandboxCreated || now.Up) {
				t.Errorf("once %v: left is %+v", once, now)
			}
		}
	})
}

// refusingRunner starts nothing.
type refusingRunner struct{ runner }

func (refusingRunner) Start(context.Context, string, sandbox.Spec) error { return errNotSimulated }
