package storetest

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"weft/store"
)

// follower takes a watch's batches in as they come, and knows the partition from them alone.
type follower struct {
	name string

	mu      sync.Mutex
	have    map[string]store.Entry
	last    store.Batch // the newest
	when    time.Time   // it came
	batches int
	heard   map[store.Rev]bool // of transactions that came by themselves
	told    []span             // what resyncs stand for
	older   bool               // one of them brought older entries than were known
	wrong   []string
}

// span are the revisions after from and up to to.
type span struct{ from, to store.Rev }

// newFollower follows meta through a client until the test ends.
func newFollower(t *testing.T, name string, s store.Store) *follower {
	t.Helper()
	f := &follower{name: name, have: map[string]store.Entry{}, heard: map[store.Rev]bool{}}
	ended := make(chan struct{})
	w := s.Watch(t.Context(), store.Meta)
	go func() {
		defer close(ended)
		for b := range w {
			f.take(b)
		}
	}()
	t.Cleanup(func() { <-ended }) // the test's context has ended by then, and with it the watch
	poll(t, patience, func() error {
		if f.count() == 0 {
			return errors.New("a watch does not begin")
		}
		return nil
	})
	return f
}

func (f *follower) blame(format string, args ...any) {
	f.wrong = append(f.wrong, fmt.Sprintf(format, args...))
}

func (f *follower) take(b store.Batch) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.older = f.older || b.Rev < f.last.Rev
	switch {
	case b.Resync != (f.batches == 0) && f.batches == 0:
		f.blame("the first batch is none that begins a watch")
	case b.Resync:
		f.told = append(f.told, span{f.last.Rev, b.Rev})
	case b.Rev <= f.last.Rev:
		f.blame("batch of revision %d after %d", b.Rev, f.last.Rev)
	default:
		f.heard[b.Rev] = true
		f.whole(b)
	}
	for _, k := range b.Dels {
		if _, ok := f.have[k.Name]; !ok {
			f.blame("%s was deleted twice, or never told", k)
		}
		delete(f.have, k.Name)
	}
	for _, e := range b.Puts {
		old, known := f.have[e.Key.Name]
		if known && old.Rev >= e.Rev && !b.Resync {
			f.blame("%s came twice: at revision %d after %d", e.Key, e.Rev, old.Rev)
		}
		f.older = f.older || known && old.Rev > e.Rev
		f.have[e.Key.Name] = e
	}
	f.last, f.when = b, time.Now()
	f.batches++
}

// whole blames a batch that is not one transaction of a load's.
func (f *follower) whole(b store.Batch) {
	pairs := map[string]int{}
	count := func(name string, n int) {
		for _, prefix := range []string{loadPrefix, pairPrefix} {
			if rest, ok := strings.CutPrefix(name, prefix); ok {
				pairs[rest] += n
			}
		}
	}
	for _, e := range b.Puts {
		count(e.Key.Name, 1)
		if e.Rev != b.Rev {
			f.blame("%s at revision %d in a batch of %d", e.Key, e.Rev, b.Rev)
		}
	}
	for _, k := range b.Dels {
		count(k.Name, -1)
	}
	made, gone := 0, 0
	for name, n := range pairs {
		switch n {
		case 2:
			made++
		case -2:
			gone++
		default:
			f.blame("half of %s in a batch of revision %d", name, b.Rev)
		}
	}
	if made > 1 || gone > 1 {
		f.blame("%d transactions in one batch of revision %d", max(made, gone), b.Rev)
	}
}

func (f *follower) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.batches
}

func (f *follower) rev() store.Rev {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.last.Rev
}

// resyncs is how often it was told a difference, but for the one it began with.
func (f *follower) resyncs() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.told) - 1
}

// reaches waits until the follower has heard of a transaction, or of a later one, and returns how long ago that began.
func (f *follower) reaches(t *testing.T, rev store.Rev, begin time.Time, within time.Duration) time.Duration {
	t.Helper()
	poll(t, within, func() error {
		if at := f.rev(); at < rev {
			return fmt.Errorf("the %s watch is at revision %d, the store at %d", f.name, at, rev)
		}
		return nil
	})
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.when.Sub(begin)
}

// difference compares what the follower knows with a list.
func (f *follower) difference(s store.Snapshot) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	there := map[string]bool{}
	for _, e := range s.Entries {
		there[e.Key.Name] = true
		if got, ok := f.have[e.Key.Name]; !ok || got.Rev != e.Rev || string(got.Value) != string(e.Value) {
			return fmt.Errorf("the %s watch has %+v, the list %+v", f.name, got, e)
		}
	}
	for name, e := range f.have {
		if !there[name] {
			return fmt.Errorf("the %s watch has %s at %d, the list at %d has none; the watch is at %d", f.name, name, e.Rev, s.Rev, f.last.Rev)
		}
	}
	return nil
}

// agree waits until what the watches' batches add up to is what the store has, and returns that. What is of unknown outcome may come late.
func agree(t *testing.T, s store.Store, watches ...*follower) (l store.Snapshot) {
	t.Helper()
	poll(t, heal, func() (err error) {
		if l, err = s.List(t.Context(), store.Meta); err != nil {
			return err
		}
		for _, f := range watches {
			if err := f.difference(l); err != nil {
				return err
			}
		}
		return nil
	})
	return l
}

// exact checks that all came once, in order, and each transaction whole; and that nothing that a load's writers had acknowledged is missing.
func (f *follower) exact(t *testing.T, l *load) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, what := range f.wrong {
		if t.Errorf("the %s watch: %s", f.name, what); i == 10 {
			break
		}
	}
	for _, d := range l.deeds {
		if d.err == nil && !f.heard[d.rev] && !f.toldOf(d.rev) {
			t.Errorf("the %s watch never heard of %s, acknowledged at %d", f.name, d.name, d.rev)
		}
	}
}

func (f *follower) toldOf(rev store.Rev) bool {
	for _, s := range f.told {
		if s.from < rev && rev <= s.to {
			return true
		}
	}
	return false
}
