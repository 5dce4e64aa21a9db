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
	there := map[string]store.Rev{}
	for _, e := range s.Entries {
		there[e.Key.Name] = e.Rev
	}
	killer := map[string]deed{}
	for _, d := range l.deeds {
		if d.old != "" {
			killer[d.old] = d
		}
	}
	counts := map[string]int{}
	for _, d := range l.deeds {
		rev, made := there[loadPrefix+d.name]
		pairRev, paired := there[pairPrefix+d.name]
		delete(there, loadPrefix+d.name)
		delete(there, pairPrefix+d.name)
		if rev != pairRev || made != paired {
			t.Errorf("half of %s is there: revisions %d and %d", d.name, rev, pairRev)
		}
		switch {
		case d.err == nil:
			counts["applied"]++
			k, dies := killer[d.name]
			_, killed := there[loadPrefix+k.name]
			switch {
			case made && rev != d.rev:
				t.Errorf("%s was acknowledged at %d, and is at %d", d.name, d.rev, rev)
			case !made && (!dies || never(k.err) || k.err != nil && !killed):
				t.Errorf("%s was acknowledged at %d, and is not there", d.name, d.rev)
			case made && dies && (k.err == nil || killed):
				t.Errorf("%s is there, and was deleted together with the making of %s: %v", d.name, k.name, k.err)
			}
		case errors.Is(d.err, store.ErrUnknown):
			counts["of unknown outcome"]++
		case never(d.err):
			counts["surely not applied"]++
			if made {
				t.Errorf("%s is there, and was said to be surely not applied: %v", d.name, d.err)
			}
		default:
			t.Errorf("%s: %v", d.name, d.err)
		}
	}
	for name := range there {
		if strings.HasPrefix(name, loadPrefix) || strings.HasPrefix(name, pairPrefix) {
			t.Errorf("%s is there, and nobody made it", name)
		}
	}
	t.Logf("load: %v", counts)
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
