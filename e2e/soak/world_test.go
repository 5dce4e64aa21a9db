package main

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// course is what a seed chooses, with faults in between.
func course(t *testing.T, seed uint64, steps int) []string {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 0))
	w := newWorld(3)
	var out []string
	for i := range steps {
		if i%20 == 10 {
			f := w.chooseFault(r)
			w.begin(f)
			out = append(out, f.String())
		}
		if i%20 == 15 {
			w.end(fault{})
		}
		a, ok := w.choose(r)
		if !ok {
			continue
		}
		impossible(t, w, a)
		w.done(a)
		out = append(out, a.String())
	}
	for _, a := range w.clearing() {
		impossible(t, w, a)
		w.done(a)
	}
	if len(w.boxes)+len(w.nets) > 0 {
		t.Errorf("seed %d: %d sandboxes and %d networks are left after the clearing", seed, len(w.boxes), len(w.nets))
	}
	return out
}

// impossible fails where a cluster would have to refuse what was chosen.
func impossible(t *testing.T, w *world, a action) {
	t.Helper()
	b := w.boxes[a.box]
	bad := ""
	switch {
	case w.away[a.host]:
		bad = "its agent does not answer"
	case a.claims() && (w.storeOut || w.cut[a.host]):
		bad = "there is no store to claim from"
	case a.verb == doRun && b != nil, a.verb == doCreate && w.nets[a.nets[0]]:
		bad = "it is there already"
	case a.box != "" && a.verb != doRun && b == nil:
		bad = "there is no such sandbox"
	case b != nil && b.host != a.host:
		bad = "the sandbox is of another host"
	case a.verb == doStart && b.running, slices.Contains([]verb{doStop, doConnect, doDisconnect, doRestart}, a.verb) && !b.running:
		bad = "the sandbox is not as it must be"
	case a.verb == doConnect && b.nets[a.nets[0]], a.verb == doDisconnect && !b.nets[a.nets[0]]:
		bad = "it is connected, or is not"
	case a.verb == doDrop && (!w.nets[a.nets[0]] || w.used(a.nets[0])):
		bad = "the network is used, or not there"
	}
	if bad != "" {
		t.Errorf("chosen: %s, though %s", a, bad)
	}
}

// Given any seed, then only what is possible is chosen; given the same seed, then the same.
func TestASeedChoosesWhatIsPossibleAndAlwaysTheSame(t *testing.T) {
	t.Parallel()
	for seed := range uint64(50) {
		first := course(t, seed, 400)
		if again := course(t, seed, 400); !slices.Equal(first, again) {
			t.Errorf("seed %d chooses differently the second time", seed)
		}
		if len(first) < 300 {
			t.Errorf("seed %d finds only %d things to do", seed, len(first))
		}
	}
	if slices.Equal(course(t, 1, 50), course(t, 2, 50)) {
		t.Error("two seeds choose the same")
	}
}

// In a long course all kinds of actions and faults come.
func TestAllActionsAndFaultsCome(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(7, 0))
	w := newWorld(3)
	verbs, faults := map[verb]int{}, map[faultKind]int{}
	for range 2000 {
		if a, ok := w.choose(r); ok {
			verbs[a.verb]++
			w.done(a)
		}
		f := w.chooseFault(r)
		faults[f.kind]++
		if f.kind == powerLost && f.host != 2 {
			t.Errorf("host %d loses its power", f.host)
		}
	}
	for _, v := range []verb{doRun, doStop, doStart, doRestart, doRemove, doConnect, doDisconnect, doCreate, doDrop} {
		if verbs[v] < 20 {
			t.Errorf("%s comes %d times in 2,000 choices", v, verbs[v])
		}
	}
	for _, k := range faultKinds {
		if faults[k] < 200 {
			t.Errorf("%s comes %d times in 2,000 choices", k, faults[k])
		}
	}
}
