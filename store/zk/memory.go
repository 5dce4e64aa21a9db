package zk

import (
	"sync"

	"weft/store"
)

// memory is what transactions on one connection have found and left, so that the next need not read it. It may be out of date by now: the
// multi checks what it is built on, and what failed is read. It does not outlive the connection: a server that was set back by a restore, whose
// versions mean something else, ends that.
type memory struct {
	mu    sync.Mutex // guards what follows
	facts map[store.Key]dated
	there map[store.Key]bool // keys that were put
}

// dated is a fact with the epoch of its partition, read before it: as long as that is the same, nothing was deleted there since.
type dated struct {
	fact
	epoch int32
}

// remembers is how many keys a memory holds before it begins anew.
const remembers = 4096

// holds returns what is known of the keys of conditions on revisions in one partition: all of it, of one epoch, or nothing.
func (m *memory) holds(conds []store.Cond) (facts map[store.Key]fact, epoch int32, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	facts = map[store.Key]fact{}
	for i, c := range conds {
		d, known := m.facts[c.Key]
		if !known || d.rev != c.Rev || i > 0 && d.epoch != epoch {
			return nil, 0, false
		}
		facts[c.Key], epoch = d.fact, d.epoch
	}
	return facts, epoch, true
}

func (m *memory) has(k store.Key) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.there[k]
}

// learn keeps what was read for conditions on revisions.
func (m *memory) learn(f facts) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for k, x := range f.nodes {
		if epoch, dates := f.epochs[k.Partition]; dates && x.exists && x.rev != 0 {
			m.room()
			m.facts[k] = dated{x, epoch}
		}
	}
}

// applied keeps what a transaction has left.
func (m *memory) applied(ops []store.Op) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, o := range ops {
		m.room()
		delete(m.facts, o.Key) // its version is another now
		if o.Delete {
			delete(m.there, o.Key)
		} else {
			m.there[o.Key] = true
		}
	}
}

func (m *memory) room() {
	if m.facts == nil || len(m.facts)+len(m.there) >= remembers {
		m.facts, m.there = map[store.Key]dated{}, map[store.Key]bool{}
	}
}
