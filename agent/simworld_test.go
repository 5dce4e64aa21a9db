//go:build !race

package agent

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"weft/agent/api"
	"weft/kernel/fake"
	"weft/store"
	"weft/store/memory"
	"weft/store/record"
)

// The simulation: whole agents over one store, in virtual time. What is theirs is real (newAgent and live, as Run has them); their machines, the
// store and the links between them are in memory, and fail as a seed says.

// Times of the simulation.
const (
	simGrace   = 20 * time.Second
	simCall    = 20 * time.Second // of a command; what is claimed without a store fails long before
	simClaim   = 5 * time.Second  // and this is how long that may take
	simPatient = 4 * time.Minute  // until all is as it should be, once nothing fails any more
)

// simWorld is one cluster, with what has happened in it.
type simWorld struct {
	seed  uint64
	rng   *rand.Rand // the driver's alone
	dir   string
	log   *slog.Logger
	store *memory.World
	hosts []*simHost
	begun time.Time

	mutation mutation

	racing bool           // the driver waits for no command
	calls  sync.WaitGroup // commands that the driver does not wait for

	mu      sync.Mutex // guards what follows
	story   []string
	wrong   []string
	away    bool // the store, for everybody
	cuts    map[*simHost]bool
	taken   map[record.EndpointID]bool   // endpoints that others have cleared
	parts   map[[2]*simHost]bool         // hosts that cannot reach each other
	silent  map[record.HostID]absence    // the last of each host
	before  map[record.HostID]absence    // and the one before
	fences  map[record.HostID]uint64     // incarnations that were cleared
	touched map[string]int               // sandboxes' names, by how many commands that change them are under way
	sure    map[record.SandboxID]promise // what users were told, and nobody has undone
	changes int                          // of what can be reached
	kept    *memory.Backup
	lost    bool // the store has lost records, and agents may have seen it
}

// mutation is something broken on purpose, which the simulation has to find.
type mutation struct {
	txn     func(store.Txn) store.Txn
	machine func(*machine)
	life    func(*Agent)
	far     time.Duration             // how long a way to the store may take; 0: as the seed says
	reseed  bool                      // no mutation: lost records come back from what the hosts know
	last    func(*simWorld, *simHost) // what happens at the end of each history, for what is too rare to be waited for; nil: nothing
}

func newSimWorld(seed uint64, dir string, log *slog.Logger, m mutation) *simWorld {
	w := &simWorld{
		seed: seed, rng: rand.New(rand.NewPCG(seed, 6)), dir: dir, log: log, store: memory.New(), begun: time.Now(), mutation: m, cuts: map[*simHost]bool{},
		parts: map[[2]*simHost]bool{}, silent: map[record.HostID]absence{}, before: map[record.HostID]absence{},
		fences: map[record.HostID]uint64{}, taken: map[record.EndpointID]bool{}, touched: map[string]int{}, sure: map[record.SandboxID]promise{},
	}
	for i := range 2 + w.rng.IntN(3) {
		h := &simHost{
			world: w, name: fmt.Sprintf("h%d", i+1), addr: netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}), boxes: map[string]*simBox{},
			disks: map[string]*memory.World{}, files: map[string][]byte{},
		}
		h.kernel = fake.New(h.netnsDir())
		w.hosts = append(w.hosts, h)
	}
	return w
}

func (w *simWorld) altered(t store.Txn) store.Txn {
	if w.mutation.txn == nil {
		return t
	}
	return w.mutation.txn(t)
}

// far is how long a way to the store takes at most: near or far, by the seed. What was chosen on the way may be taken when it arrives.
func (w *simWorld) far() time.Duration {
	if w.mutation.far > 0 {
		return w.mutation.far
	}
	return []time.Duration{2 * time.Millisecond, 2 * time.Millisecond, 30 * time.Millisecond}[w.seed%3]
}

// tell adds a line to the history.
func (w *simWorld) tell(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.story = append(w.story, fmt.Sprintf("%9.3fs ", time.Since(w.begun).Seconds())+fmt.Sprintf(format, args...))
}

// violated notes that something that must never be has been.
func (w *simWorld) violated(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.wrong) < 10 {
		line := fmt.Sprintf("%9.3fs ", time.Since(w.begun).Seconds()) + "VIOLATED: " + fmt.Sprintf(format, args...)
		w.wrong, w.story = append(w.wrong, line), append(w.story, line)
	}
}

func (w *simWorld) failed() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.wrong
}

// isCut tells whether a host cannot reach the store.
func (w *simWorld) isCut(h *simHost) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.away || w.cuts[h]
}

// link says who reaches the store from now on.
func (w *simWorld) link(change func()) {
	w.mu.Lock()
	change()
	w.changes++
	w.mu.Unlock()
	for _, h := range w.hosts {
		if l := h.alive(); l != nil {
			l.client.Cut(w.isCut(h))
		}
	}
}

// unreached tells whether a host has been without the store since a moment, which is 0 at first.
func (w *simWorld) unreached(h *simHost, since int) (now int, yes bool) {
	cut := w.isCut(h) || h.hang.Load()
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.changes, cut && (since == 0 || since == w.changes)
}

// simulate lives one history, and returns what went wrong in it, and the history.
func simulate(t *testing.T, seed uint64, steps int, dir string, log *slog.Logger, m mutation) (wrong, story []string) {
	synctest.Test(t, func(*testing.T) {
		w := newSimWorld(seed, dir, log, m)
		ctx, cancel := context.WithCancel(context.Background())
		var sessions sync.WaitGroup
		sessions.Go(func() { w.watchSessions(ctx) })
		defer sessions.Wait()
		defer cancel()
		defer w.end()
		for _, h := range w.hosts {
			h.start()
		}
		w.createNetwork(w.hosts[0])
		for i := 0; i < steps && len(w.failed()) == 0; i++ {
			w.step()
			_ = sleep(context.Background(), w.pause())
			synctest.Wait()
			w.look()
		}
		w.calls.Wait()
		if m.last != nil {
			m.last(w, w.hosts[0])
			_ = sleep(context.Background(), simCall)
			synctest.Wait()
			w.look()
		}
		if len(w.failed()) == 0 {
			w.heal()
			w.converge()
		}
		wrong, story = w.failed(), w.story
	})
	return wrong, story
}

// pause is the time between two steps: mostly shorter than what a command takes, at times long.
func (w *simWorld) pause() time.Duration {
	switch n := w.rng.IntN(20); {
	case n < 12:
		return time.Duration(w.rng.IntN(int(30 * time.Millisecond)))
	case n < 18:
		return time.Duration(w.rng.IntN(int(3 * time.Second)))
	}
	return time.Duration(w.rng.IntN(int(30 * time.Second)))
}

// end leaves no goroutine.
func (w *simWorld) end() {
	for _, h := range w.hosts {
		if l := h.alive(); l != nil {
			l.kill()
		}
	}
	w.calls.Wait()
}

// heal ends all faults; what was broken stays for the agents to put right.
func (w *simWorld) heal() {
	w.tell("all faults end")
	w.link(func() { w.away = false; clear(w.cuts); clear(w.parts) })
	w.mu.Lock()
	kept := w.kept
	w.mu.Unlock()
	for _, h := range w.hosts {
		h.hang.Store(false)
		h.watchLag.Store(0)
		if l := h.alive(); l != nil {
			l.gate.Lock()
			l.fuse = 0
			l.gate.Unlock()
			if kept != nil && !w.reseeds() {
				l.kill()
			}
		}
	}
	if kept != nil && !w.reseeds() { // whoever runs the store puts back what it had
		w.store.Restore(*kept)
		w.found()
	}
	for _, h := range w.hosts {
		if l := h.alive(); l == nil || l.ctx.Err() != nil {
			if l != nil {
				<-l.done
			}
			h.start()
		}
	}
	if kept != nil && w.reseeds() {
		w.reseed()
	}
}

// reseeds tells that records which the store has lost come back from what the hosts know.
func (w *simWorld) reseeds() bool { return w.mutation.reseed }

// found is that the store has its records again.
func (w *simWorld) found() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lost, w.kept = false, nil
}

// reseed has the hosts, all of which are there, put back what they know.
func (w *simWorld) reseed() {
	for _, h := range w.hosts {
		<-h.alive().up
	}
	_ = sleep(context.Background(), simCall) // until all have noticed
	for try := 0; ; try++ {
		h := w.hosts[try%len(w.hosts)] // one that died soon after its first joining knows nothing
		out, err := h.alive().agent.ReseedStore(context.Background(), api.ReseedRequest{})
		w.tell("%s: reseed: %+v, %v", h.name, out, err)
		if err == nil {
			w.found()
			return
		}
		if try > 5 {
			w.violated("the store cannot be reseeded: %v", err)
			return
		}
		_ = sleep(context.Background(), simCall)
	}
}

// converge waits until everything is as it should be.
func (w *simWorld) converge() {
	var problems []string
	wait := time.Second
	for end := time.Now().Add(simPatient); time.Now().Before(end); _ = sleep(context.Background(), wait) {
		wait = min(2*wait, 20*time.Second)
		synctest.Wait()
		if w.look(); len(w.failed()) > 0 {
			return
		}
		if problems = w.unsettled(); len(problems) == 0 {
			return
		}
	}
	w.violated("%s after all faults have ended:\n\t%s", simPatient, strings.Join(problems[:min(len(problems), 12)], "\n\t"))
}
