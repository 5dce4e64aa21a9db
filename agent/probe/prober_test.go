package probe

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// wire is a way between two probers in one process. What it does with a frame is the test's.
type wire struct {
	mu    sync.Mutex // guards what follows
	ears  [2]func([]byte)
	lets  func(from int, frame []byte) bool // nil: all
	sent  [2]int
	delay time.Duration
}

type wireEnd struct {
	w    *wire
	here int
}

func (e wireEnd) send(frame []byte) error {
	e.w.mu.Lock()
	e.w.sent[e.here]++
	far, lets, delay := e.w.ears[1-e.here], e.w.lets, e.w.delay
	e.w.mu.Unlock()
	if far != nil && (lets == nil || lets(e.here, frame)) {
		go func() {
			time.Sleep(delay)
			far(frame)
		}()
	}
	return nil
}

func (e wireEnd) close() {
	e.w.mu.Lock()
	defer e.w.mu.Unlock()
	e.w.ears[e.here] = nil
}

// set changes what the wire does.
func (w *wire) set(lets func(from int, frame []byte) bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lets = lets
}

func nothing(int, []byte) bool { return false }

func small(_ int, frame []byte) bool { return len(frame) < 1000 }

// onWire runs two probers on a wire in virtual time.
func onWire(t *testing.T, f func(w *wire, ps [2]*Prober)) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{delay: time.Millisecond}
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		var ps [2]*Prober
		for i := range ps {
			way := Way{Network: "n", Netns: "/", VNI: 7, MTU: 1450, MAC: fmt.Sprintf("06:00:00:00:00:%02d", i)}
			ps[i] = New(Config{
				Self: fmt.Sprint("h", i), Clock: clock{}, Log: slog.New(slog.DiscardHandler),
				Pairs: func() []Pair {
					return []Pair{{Host: fmt.Sprint("h", 1-i), MAC: fmt.Sprintf("06:00:00:00:00:%02d", 1-i), Way: way}}
				},
				open: func(_ Way, receive func([]byte), _ func()) (socket, error) {
					w.mu.Lock()
					defer w.mu.Unlock()
					w.ears[i] = receive
					return wireEnd{w, i}, nil
				},
			})
			wg.Go(func() { ps[i].Run(ctx) })
		}
		f(w, ps)
		cancel()
		wg.Wait()
		time.Sleep(time.Second) // frames under way
	})
}

// Whenever it happens, in whichever direction, both ends know of it within ten seconds.
func TestASilenceIsKnownWithinTenSeconds(t *testing.T) {
	t.Parallel()
	for i := range 200 {
		r := rand.New(rand.NewPCG(1, uint64(i)))
		onWire(t, func(w *wire, ps [2]*Prober) {
			time.Sleep(10*time.Second + time.Duration(r.Int64N(int64(2*time.Minute))))
			before := [2]State{ps[0].Path("h1").State, ps[1].Path("h0").State}
			deaf := r.IntN(2)
			w.set(func(from int, _ []byte) bool { return i%2 == 0 && from == deaf })
			time.Sleep(10 * time.Second)
			if got := [2]State{ps[0].Path("h1").State, ps[1].Path("h0").State}; before != [2]State{Answers, Answers} || got != [2]State{Silent, Silent} {
				t.Errorf("run %d: states %v, then %v", i, before, got)
			}
			w.set(nil)
			time.Sleep(every + spread + time.Second)
			if got := ps[0].Path("h1"); got.State != Answers || got.RTT != 2*time.Millisecond {
				t.Errorf("run %d: it answers again, and the path is %+v", i, got)
			}
		})
	}
}

// One packet in ten may be lost on a bad line: that is no silence.
func TestSomeLossIsNoSilence(t *testing.T) {
	t.Parallel()
	onWire(t, func(w *wire, ps [2]*Prober) {
		r := rand.New(rand.NewPCG(1, 2))
		var mu sync.Mutex
		w.set(func(int, []byte) bool {
			mu.Lock()
			defer mu.Unlock()
			return r.IntN(10) > 0
		})
		bad := 0
		for range 600 {
			time.Sleep(time.Second)
			if ps[0].Path("h1").State != Answers {
				bad++
			}
		}
		if bad > 15 {
			t.Errorf("not ok in %d of 600 seconds", bad)
		}
	})
}

func TestSizeAndSilenceAreToldApart(t *testing.T) {
	t.Parallel()
	onWire(t, func(w *wire, ps [2]*Prober) {
		time.Sleep(10 * time.Second)
		if p := ps[0].Path("h1"); p.MTU != 1450 {
			t.Errorf("all passes, and the path is %+v", p)
		}
		w.set(small)
		time.Sleep(80 * time.Second)
		if p := ps[0].Path("h1"); p.State != BlackHole || p.MTU != 0 {
			t.Errorf("small ones pass, and the path is %+v", p)
		}
		sizes, err := ps[0].Sizes(context.Background(), "h1")
		if want := 1000 - ethSize - 1; err != nil || sizes.Out > want || sizes.Out < want-sizeStep {
			t.Errorf("sizes %+v, %v; want %d", sizes, err, want)
		}
		w.set(nothing)
		time.Sleep(15 * time.Second)
		if p := ps[0].Path("h1"); p.State != Silent {
			t.Errorf("nothing passes, and the path is %+v", p)
		}
		if _, err := ps[0].Sizes(context.Background(), "h1"); !errors.Is(err, ErrSilent) {
			t.Errorf("sizes of a silent path: %v", err)
		}
		w.set(nil)
		time.Sleep(90 * time.Second)
		if p := ps[0].Path("h1"); p.State != Answers || p.MTU != 1450 {
			t.Errorf("all passes again, and the path is %+v", p)
		}
	})
}

// A host has little to say at rest: a packet in each direction every four or five seconds.
func TestProbingIsCheap(t *testing.T) {
	t.Parallel()
	onWire(t, func(w *wire, _ [2]*Prober) {
		time.Sleep(10 * time.Minute)
		w.mu.Lock()
		defer w.mu.Unlock()
		for i, n := range w.sent {
			if n > 2*600/4+60 {
				t.Errorf("h%d sent %d frames in ten minutes", i, n)
			}
		}
	})
}
