//go:build !race

package agent

import (
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

var (
	simSeed      = flag.Uint64("sim.seed", 0, "the history to simulate; 0: -sim.histories, from -sim.first")
	simFirst     = flag.Uint64("sim.first", 1, "the seed of the first history")
	simHistories = flag.Int("sim.histories", 300, "how many histories to simulate")
	simFailures  = flag.Int("sim.failures", 3, "end after so many histories that went wrong")
	simLog       = flag.Bool("sim.log", false, "print what the agents log")
)

// simLength is how many steps a history has: most are short, a few are long.
func simLength(seed uint64) int {
	if seed%50 == 0 {
		return 120
	}
	return 8 + int(seed%9)
}

// Whatever happens to a cluster, its invariants hold at every moment, and once nothing happens any more, everything is as it should be.
func TestSimulation(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	if *simLog {
		log = slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	if *simSeed != 0 {
		report(t, *simSeed, log, mutation{}, true)
		return
	}
	simulateAll(t, *simFirst, *simHistories, func(t *testing.T, seed uint64) bool { return report(t, seed, log, mutation{}, false) })
}

// report simulates a history and prints it if it went wrong.
func report(t *testing.T, seed uint64, log *slog.Logger, m mutation, always bool) bool {
	wrong, story := simulate(t, seed, simLength(seed), filepath.Join(t.TempDir(), fmt.Sprint(seed)), log, m)
	if len(wrong) > 0 {
		t.Errorf("seed %d (again: go test ./agent -run TestSimulation -sim.seed=%d):\n%s", seed, seed, strings.Join(story, "\n"))
	} else if always {
		t.Log(strings.Join(story, "\n"))
	}
	return len(wrong) == 0
}

// simulateAll runs histories on all processors, until a few have gone wrong.
func simulateAll(t *testing.T, first uint64, n int, one func(*testing.T, uint64) bool) {
	defer debug.SetGCPercent(debug.SetGCPercent(400)) // a history is small, and leaves nothing
	var next, bad atomic.Int64
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(n) && bad.Load() < int64(*simFailures); i = next.Add(1) - 1 {
				seed := first + uint64(i)
				t.Run(fmt.Sprint(seed), func(t *testing.T) {
					if !one(t, seed) {
						bad.Add(1)
					}
				})
			}
		})
	}
	wg.Wait()
}
