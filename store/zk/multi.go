package zk

import (
	"github.com/go-zookeeper/zk"

	"weft/store"
)

// multi is a transaction as ZooKeeper gets it.
type multi struct {
	s       *Store
	l       *link
	ops     []any
	rev     int            // the operation whose answer has the zxid
	entries map[string]int // the operation that makes the journal entry, of each partition
	changes map[string][]store.Op
	epochs  map[string]int32
	deletes map[string]bool // partitions in which something is deleted
}

// build lays a transaction out: checks, writes, epochs, journals. What must be absent is created, and deleted again where it is not
// written: ZooKeeper has no check for it.
func (s *Store) build(l *link, t store.Txn, f facts) *multi {
	m := &multi{s: s, l: l, entries: map[string]int{}, changes: map[string][]store.Op{}, epochs: f.epochs, deletes: map[string]bool{}}
	conds := map[store.Key]store.Rev{}
	for _, c := range t.If {
		conds[c.Key] = c.Rev
	}
	writes := map[store.Key]bool{}
	for _, o := range t.Then {
		writes[o.Key] = true
	}
	for _, c := range t.If {
		if !writes[c.Key] {
			m.check(c, f.nodes[c.Key])
		}
	}
	for _, o := range t.Then {
		want, conditional := conds[o.Key]
		x := f.nodes[o.Key]
		switch {
		case !conditional:
			x.version = -1
		case want == store.Absent:
			x = fact{}
		case want == store.Exists:
			x.exists, x.version = true, -1
		}
		m.write(o, x)
	}
	m.finish()
	return m
}

func (m *multi) add(op any) { m.ops = append(m.ops, op) }

func (m *multi) create(path string, data []byte, flags int32) {
	m.add(&zk.CreateRequest{Path: path, Data: data, Acl: m.l.acl, Flags: flags})
}
func (m *multi) set(path string, data []byte, version int32) {
	m.add(&zk.SetDataRequest{Path: path, Data: data, Version: version})
}
func (m *multi) del(path string, version int32) {
	m.add(&zk.DeleteRequest{Path: path, Version: version})
}
func (m *multi) checkVersion(path string, version int32) {
	m.add(&zk.CheckVersionRequest{Path: path, Version: version})
}

// absent checks that there is no such node.
func (m *multi) absent(path string) {
	m.create(path, nil, 0)
	m.del(path, -1)
}

func (m *multi) check(c store.Cond, x fact) {
	switch {
	case c.Rev == store.Absent:
		m.absent(m.s.path(c.Key))
	case c.Rev == store.Exists:
		m.checkVersion(m.s.path(c.Key), -1)
	case c.Key.Partition == store.Alive:
		m.checkVersion(x.sign, -1)
	default:
		m.checkVersion(m.s.path(c.Key), x.version)
	}
}

// write adds one write to a key that is as x says, and if it is no longer, the multi fails.
func (m *multi) write(o store.Op, x fact) {
	p, part := m.s.path(o.Key), o.Key.Partition
	switch {
	case !x.exists && o.Delete:
		m.absent(p)
		return
	case !x.exists:
		m.create(p, o.Value, 0)
	case !o.Delete:
		m.set(p, o.Value, x.version)
	case part == store.Alive:
		m.del(p, -1)
		m.del(x.sign, -1)
		return
	default:
		m.del(p, x.version)
		m.deletes[part] = true
	}
	m.changes[part] = append(m.changes[part], o)
}

// finish adds what every transaction has.
func (m *multi) finish() {
	for p, v := range m.epochs {
		if !m.deletes[p] {
			m.checkVersion(m.s.epoch(p), v)
		}
	}
	for p := range m.deletes {
		v, ok := m.epochs[p]
		if !ok {
			v = -1
		}
		m.set(m.s.epoch(p), nil, v)
	}
	mark := newMark()
	for p, ops := range m.changes {
		data := encode(mark, ops)
		m.entries[p] = len(m.ops)
		m.create(m.s.dir(p)+logDir+entryName, data, zk.FlagSequence)
		m.rev = len(m.ops)
		m.set(m.s.head(p), headData(mark, data), -1)
	}
	if len(m.changes) == 0 {
		m.rev = len(m.ops)
		m.set(m.s.revNode(), nil, -1)
	}
}
