package storetest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"weft/store"
)

// Of a load: how long a writer rests between its transactions, how long it waits for one, and how many of its keys it keeps.
const (
	pace     = 20 * time.Millisecond
	callWait = 2 * time.Second
	kept     = 10
)

// deed is one transaction of a writer: it makes a key and its pair, and takes an older key and its pair away.
type deed struct {
	name, old string // old is "" in a writer's first ones
	began     time.Time
	rev       store.Rev
	err       error
}

// load is what writers did and heard.
type load struct {
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu    sync.Mutex
	deeds []deed
	acked int
}

// newLoad lets a writer write through each client until the load is stopped.
func newLoad(t *testing.T, clients ...store.Store) *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{cancel: cancel}
	for i, s := range clients {
		l.wg.Go(func() { l.write(ctx, s, i) })
	}
	t.Cleanup(l.stop)
	return l
}

func (l *load) stop() {
	l.cancel()
	l.wg.Wait()
}

const (
	loadPrefix = "load/"
	pairPrefix = "pair/"
)

func (l *load) write(ctx context.Context, s store.Store, writer int) {
	var mine []string // names that were acknowledged, oldest first
	for i := 0; ctx.Err() == nil; i++ {
		d := deed{name: fmt.Sprintf("%d-%d", writer, i), began: time.Now()}
		if len(mine) > kept {
			d.old, mine = mine[0], mine[1:]
		}
		call, done := context.WithTimeout(context.Background(), callWait)
		d.rev, d.err = s.Txn(call, d.txn())
		done()
		if d.err == nil {
			mine = append(mine, d.name)
		}
		l.note(d)
		select {
		case <-time.After(pace):
		case <-ctx.Done():
		}
	}
}

func (d deed) txn() store.Txn {
	k, pair := key(loadPrefix+d.name), key(pairPrefix+d.name)
	t := store.Txn{If: []store.Cond{{Key: k, Rev: store.Absent}}, Then: []store.Op{store.Put(k, []byte(d.name)), store.Put(pair, []byte(d.name))}}
	if d.old != "" {
		t.Then = append(t.Then, store.Del(key(loadPrefix+d.old)), store.Del(key(pairPrefix+d.old)))
	}
	return t
}

func (l *load) note(d deed) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.deeds = append(l.deeds, d)
	if d.err == nil {
		l.acked++
	}
}

func (l *load) acknowledged() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.acked
}

// grown waits until so many more transactions were acknowledged.
func (l *load) grown(t *testing.T, n int) {
	t.Helper()
	goal := l.acknowledged() + n
	poll(t, 2*patience, func() error {
		if now := l.acknowledged(); now < goal {
			return fmt.Errorf("%d transactions acknowledged, want %d", now, goal)
		}
		return nil
	})
}

// ackedSince counts the acknowledged transactions that began after a time.
func (l *load) ackedSince(since time.Time) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, d := range l.deeds {
		if d.err == nil && d.began.After(since) {
			n++
		}
	}
	return n
}

// check compares what the writers, who are done, heard with what is there: what was acknowledged is there whole, what was surely not applied
// never was, and what is of unknown outcome is there whole or not at all.
func (l *load) check(t *testing.T, s store.Snapshot) {
	t.Helper()
	there, known, killers, counts := map[string]store.Rev{}, map[string]bool{}, map[string]deed{}, map[string]int{}
	for _, e := range s.Entries {
		there[e.Key.Name] = e.Rev
	}
	for _, d := range l.deeds {
		known[loadPrefix+d.name], known[pairPrefix+d.name] = true, true
		if d.old != "" {
			killers[d.old] = d
		}
	}
	for _, d := range l.deeds {
		counts[d.outcome()]++
		if wrong := d.wrong(there, killers); wrong != "" {
			t.Errorf("%s: %s; its outcome: %v", d.name, wrong, d.err)
		}
	}
	for name := range there {
		if !known[name] && (strings.HasPrefix(name, loadPrefix) || strings.HasPrefix(name, pairPrefix)) {
			t.Errorf("%s is there, and nobody made it", name)
		}
	}
	t.Logf("load: %v", counts)
}

func (d deed) outcome() string {
	switch {
	case d.err == nil:
		return "applied"
	case never(d.err):
		return "surely not applied"
	case errors.Is(d.err, store.ErrUnknown):
		return "of unknown outcome"
	}
	return "of no outcome that there is"
}

// wrong is what does not fit between what a writer heard and what is there. Only what was acknowledged is ever taken away again.
func (d deed) wrong(there map[string]store.Rev, killers map[string]deed) string {
	rev, made := there[loadPrefix+d.name]
	pairRev, paired := there[pairPrefix+d.name]
	killer, dies := killers[d.name]
	if dies && killer.err != nil { // it was taken away if the killer's own key came
		_, dies = there[loadPrefix+killer.name]
	}
	switch {
	case rev != pairRev || made != paired:
		return fmt.Sprintf("half of it is there, at revisions %d and %d", rev, pairRev)
	case d.err == nil && made && rev != d.rev:
		return fmt.Sprintf("acknowledged at %d, and it is at %d", d.rev, rev)
	case d.err == nil && !made && !dies:
		return fmt.Sprintf("acknowledged at %d, and it is not there", d.rev)
	case d.err == nil && made && dies:
		return fmt.Sprintf("it is there, and was taken away in one transaction with the making of %s (%v)", killer.name, killer.err)
	case never(d.err) && made:
		return "it is there, and was said to be surely not applied"
	case d.err != nil && !never(d.err) && !errors.Is(d.err, store.ErrUnknown):
		return "no outcome that there is"
	}
	return ""
}

// never tells that a transaction was surely not applied.
func never(err error) bool {
	return errors.Is(err, store.ErrUnreachable) && !errors.Is(err, store.ErrUnknown)
}

// poll asks until there is no error.
func poll(t *testing.T, wait time.Duration, ask func() error) {
	t.Helper()
	for end := time.Now().Add(wait); ; time.Sleep(5 * time.Millisecond) {
		err := ask()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("after %v: %v", wait, err)
		}
	}
}
