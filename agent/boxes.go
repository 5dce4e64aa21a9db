package agent

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"weft/agent/api"
	"weft/agent/journal"
	"weft/agent/registry"
	"weft/store/record"
)

// boxes is what this host knows of its own sandboxes: an immutable map that each change replaces, after the journal has it.
type boxes struct {
	journal *journal.Journal

	mu    sync.Mutex // guards all and names; never held across I/O
	all   map[record.SandboxID]*record.Sandbox
	count uint64                      // of the changes of all
	names map[string]record.SandboxID // folded; also of sandboxes being made
	locks map[record.SandboxID]*boxLock

	changed broadcast // when all is another one

	// tell hears of each change of a sandbox, in order: nil before its first, and after its last. It must not wait.
	tell     func(before, after *record.Sandbox)
	lastLife []*record.Sandbox // as the agent before this one left them, until tell has heard of that
}

// boxLock makes the changes of one sandbox follow each other. It is held across I/O: it is the sandbox's own turn-taking, and no one
// who waits for it holds anything else.
type boxLock struct {
	turn  chan struct{}
	users int
}

func newBoxes(j *journal.Journal) *boxes {
	return &boxes{journal: j, all: map[record.SandboxID]*record.Sandbox{}, names: map[string]record.SandboxID{}, locks: map[record.SandboxID]*boxLock{}, tell: func(_, _ *record.Sandbox) {}}
}

// load fills an empty boxes from the journal.
func (b *boxes) load(all []*record.Sandbox) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range all {
		b.all[s.ID] = s
		b.names[record.Fold(s.Name)] = s.ID
	}
	b.count++
}

// snapshot returns all sandboxes; the map and the records are shared and must not be changed.
func (b *boxes) snapshot() map[record.SandboxID]*record.Sandbox {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.all
}

// at is snapshot, with a number that is another one after each change.
func (b *boxes) at() (all map[record.SandboxID]*record.Sandbox, version uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.all, b.count
}

// reserve takes a name for a sandbox that is being made.
func (b *boxes) reserve(name string, id record.SandboxID) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if other, taken := b.names[record.Fold(name)]; taken && other != id {
		return api.Refuse(api.Exists, "Conflict. The sandbox name %q is already in use by sandbox %s. You have to remove (or rename) that sandbox to be able to reuse that name", name, record.ShortID(other))
	}
	b.names[record.Fold(name)] = id
	return nil
}

// unreserve lets a name go again that came to nothing; one that the sandbox has anyway, but for its case, stays.
func (b *boxes) unreserve(name string, id record.SandboxID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s, there := b.all[id]; there && record.Fold(s.Name) == record.Fold(name) {
		return
	}
	if b.names[record.Fold(name)] == id {
		delete(b.names, record.Fold(name))
	}
}

// lock waits for the sandbox's turn; the returned function ends it.
func (b *boxes) lock(ctx context.Context, id record.SandboxID) (func(), error) {
	b.mu.Lock()
	l := b.locks[id]
	if l == nil {
		l = &boxLock{turn: make(chan struct{}, 1)}
		b.locks[id] = l
	}
	l.users++
	b.mu.Unlock()
	select {
	case l.turn <- struct{}{}:
		return func() { b.leave(id, l, true) }, nil
	case <-ctx.Done():
		b.leave(id, l, false)
		return nil, fmt.Errorf("wait for sandbox %s, which another command is changing: %w", record.ShortID(id), ctx.Err())
	}
}

// tryLock takes the sandbox's turn if nobody has it.
func (b *boxes) tryLock(id record.SandboxID) (done func(), ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.locks[id] != nil {
		return nil, false
	}
	l := &boxLock{turn: make(chan struct{}, 1), users: 1}
	l.turn <- struct{}{}
	b.locks[id] = l
	return func() { b.leave(id, l, true) }, true
}

// leave gives up a sandbox's turn, or the wait for it.
func (b *boxes) leave(id record.SandboxID, l *boxLock, had bool) {
	if had {
		<-l.turn
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if l.users--; l.users == 0 {
		delete(b.locks, id)
	}
}

// put writes a sandbox to the journal and then shows it.
func (b *boxes) put(ctx context.Context, s *record.Sandbox, releases ...journal.Release) error {
	if err := b.journal.PutSandbox(ctx, s, releases...); err != nil {
		return err
	}
	b.show(s)
	return nil
}

// show replaces a sandbox in memory alone.
func (b *boxes) show(s *record.Sandbox) {
	b.tell(b.shown(s), s)
}

func (b *boxes) shown(s *record.Sandbox) (before *record.Sandbox) {
	b.mu.Lock()
	defer b.mu.Unlock()
	before = b.all[s.ID]
	if old, had := b.all[s.ID]; had && record.Fold(old.Name) != record.Fold(s.Name) {
		delete(b.names, record.Fold(old.Name)) // it was renamed
	}
	b.all = maps.Clone(b.all)
	b.all[s.ID] = s
	b.count++
	b.names[record.Fold(s.Name)] = s.ID
	b.changed.signal()
	return before
}

func (b *boxes) remove(ctx context.Context, s *record.Sandbox, releases ...journal.Release) error {
	if err := b.journal.DeleteSandbox(ctx, s.ID, releases...); err != nil {
		return err
	}
	b.tell(b.hidden(s), nil)
	return nil
}

func (b *boxes) hidden(s *record.Sandbox) (before *record.Sandbox) {
	b.mu.Lock()
	defer b.mu.Unlock()
	before = b.all[s.ID]
	b.all = maps.Clone(b.all)
	delete(b.all, s.ID)
	b.count++
	b.changed.signal()
	if b.names[record.Fold(s.Name)] == s.ID {
		delete(b.names, record.Fold(s.Name))
	}
	return before
}

// get returns a sandbox as it is now.
func (b *boxes) get(id record.SandboxID) (*record.Sandbox, bool) {
	s, ok := b.snapshot()[id]
	return s, ok
}

// find returns the sandbox that ref names: a name, a full ID, or the only ID that begins with ref.
func (b *boxes) find(ref string) (*record.Sandbox, error) {
	b.mu.Lock()
	all, byName := b.all, b.names[record.Fold(ref)]
	b.mu.Unlock()
	if s, ok := all[byName]; ok {
		return s, nil
	}
	if s, ok := all[record.SandboxID(ref)]; ok {
		return s, nil
	}
	var found *record.Sandbox
	for id, s := range all {
		if (ref == "" || !strings.HasPrefix(string(id), ref)) && !refersTo(ref, s) {
			continue
		}
		if found != nil {
			return nil, api.Refuse(api.Invalid, "multiple sandboxes found with the ID prefix %q", ref)
		}
		found = s
	}
	if found == nil {
		return nil, api.Refuse(api.NotFound, "No such sandbox: %s", ref)
	}
	return found, nil
}

// edited returns a copy of s to change, with attachments of its own.
func edited(s *record.Sandbox) *record.Sandbox {
	c := *s
	c.Attachments = slices.Clone(s.Attachments)
	return &c
}

// setAttachment replaces the attachment of the same network, or adds it.
func setAttachment(s *record.Sandbox, a record.Attachment) {
	for i := range s.Attachments {
		if s.Attachments[i].Network == a.Network {
			s.Attachments[i] = a
			return
		}
	}
	s.Attachments = append(s.Attachments, a)
}

func dropAttachment(s *record.Sandbox, id record.NetworkID) {
	s.Attachments = slices.DeleteFunc(s.Attachments, func(a record.Attachment) bool { return a.Network == id })
}

// freeIfName returns the name of an interface in a network that no attachment has: eth and the lowest number, or what the network has for eth.
// In a namespace of others eth<N> are the others'.
func freeIfName(s *record.Sandbox, of *record.Network) string {
	prefix := "eth"
	if s.External != "" {
		prefix = "weft"
	}
	prefix = cmp.Or(of.Options[registry.OptIfPrefix], prefix)
	for n := 0; ; n++ {
		name := fmt.Sprintf("%s%d", prefix, n)
		if !slices.ContainsFunc(s.Attachments, func(a record.Attachment) bool { return a.IfName == name }) {
			return name
		}
	}
}
