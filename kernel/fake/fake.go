// Package fake is a kernel.Executor in memory, for tests of what stands before the kernel in the flow: it keeps the kernel's own rules
// (nothing without what it stands on, one holder of what is exclusive, what goes takes with it what stands on it), and fails on demand.
package fake

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"

	"weft/kernel"
)

// Kernel is the Executor. Every namespace but the host's and those made by a Put has to be announced with AddNamespace.
type Kernel struct {
	dir string // of weft's own namespaces

	mu     sync.Mutex // guards the rest
	state  kernel.State
	spaces map[string]bool // sandboxes
	faults []*Fault
	log    []kernel.Op
	closed bool
}

var _ kernel.Executor = (*Kernel)(nil)

// New makes an empty kernel whose own namespaces are in dir.
func New(dir string) *Kernel {
	return &Kernel{dir: dir, state: kernel.State{}, spaces: map[string]bool{}}
}

// Fault is all that can be made to go wrong: everything injected into a Kernel is one of these.
type Fault struct {
	// Op tells which steps fail; nil: all of them. Ignored where Reading is set.
	Op func(kernel.Op) bool
	// Reading makes Read and Namespaces fail instead of steps.
	Reading bool
	// After is how many matching steps (or readings) go well before.
	After int
	// Times is how many fail; 0: all from then on.
	Times int
	// Err is what they fail with.
	Err error
	// Done makes a step fail after it has been done: its outcome is not what its error says.
	Done bool
}

// Fail adds a fault. With several, the first that matches counts.
func (k *Kernel) Fail(f Fault) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.faults = append(k.faults, &f)
}

// Heal takes all faults away.
func (k *Kernel) Heal() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.faults = nil
}

// Lose takes objects away behind the agent's back, with what stands on them.
func (k *Kernel) Lose(which func(kernel.Object) bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, o := range maps.Clone(k.state) {
		if which(o) {
			k.remove(o.Key)
		}
	}
}

// AddNamespace makes a namespace that is not weft's own.
func (k *Kernel) AddNamespace(path string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.spaces[path] = true
}

// EndNamespace ends one, with the pairs that have an end in it.
func (k *Kernel) EndNamespace(path string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.spaces, path)
	for key, o := range maps.Clone(k.state) {
		if v, ok := o.Spec.(kernel.Veth); key.NS == path || ok && v.Peer.NS == path {
			k.remove(key)
		}
	}
}

// Log returns the steps that were done, in their order, and forgets them.
func (k *Kernel) Log() []kernel.Op {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := k.log
	k.log = nil
	return out
}

// Read returns what is in some namespaces.
func (k *Kernel) Read(ctx context.Context, namespaces []string) (kernel.State, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.readable(ctx); err != nil {
		return nil, err
	}
	out := kernel.State{}
	for _, o := range k.state {
		if slices.Contains(namespaces, o.NS) {
			out.Add(o)
		}
	}
	return out, nil
}

// Namespaces lists weft's own.
func (k *Kernel) Namespaces(ctx context.Context) ([]string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.readable(ctx); err != nil {
		return nil, err
	}
	var out []string
	for key := range k.state {
		if key.Kind == kernel.KindNetns {
			out = append(out, key.NS)
		}
	}
	slices.Sort(out)
	return out, nil
}

func (k *Kernel) readable(ctx context.Context) error {
	if k.closed {
		return os.ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if f := k.fault(func(f *Fault) bool { return f.Reading }); f != nil {
		return f.Err
	}
	return nil
}

// Apply does each step by itself.
func (k *Kernel) Apply(ctx context.Context, ops []kernel.Op) []error {
	errs := make([]error, len(ops))
	for i, o := range ops {
		errs[i] = k.step(ctx, o)
	}
	return errs
}

// Close makes every later call fail.
func (k *Kernel) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.closed = true
	return nil
}

func (k *Kernel) fault(match func(*Fault) bool) *Fault {
	for _, f := range k.faults {
		if !match(f) {
			continue
		}
		if f.After > 0 {
			f.After--
			return nil
		}
		if f.Times < 0 {
			continue
		}
		if f.Times > 0 {
			if f.Times--; f.Times == 0 {
				f.Times = -1 // spent
			}
		}
		return f
	}
	return nil
}

func (k *Kernel) step(ctx context.Context, o kernel.Op) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return os.ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	f := k.fault(func(f *Fault) bool { return !f.Reading && (f.Op == nil || f.Op(o)) })
	if f != nil && !f.Done {
		return f.Err
	}
	var err error
	if o.Verb == kernel.Put {
		err = k.put(o.Obj)
	} else {
		k.remove(o.Obj.Key)
	}
	if err == nil {
		k.log = append(k.log, o)
		if f != nil {
			err = f.Err
		}
	}
	return err
}

func (k *Kernel) put(o kernel.Object) error {
	if err := k.standing(o); err != nil {
		return fmt.Errorf("%s: %w", o.Key, err)
	}
	for key, h := range k.state {
		switch {
		case key == o.Key:
		case o.Holds != "" && h.Holds == o.Holds:
			return fmt.Errorf("%s: %s is taken: %w", o.Key, o.Holds, syscall.EEXIST)
		case isLink(o.Kind) && isLink(key.Kind) && key.NS == o.NS && key.Link == o.Link:
			k.remove(key) // another kind of link gives way
		}
	}
	if h, ok := k.state[o.Key]; ok && isLink(o.Kind) && !h.Spec.Equal(o.Spec) {
		k.remove(o.Key) // at its strictest: whatever of a link changes, what was on it is lost
	}
	k.state.Add(o)
	return nil
}

// standing tells whether what an object needs is there.
func (k *Kernel) standing(o kernel.Object) error {
	if o.Kind == kernel.KindNetns {
		if !strings.HasPrefix(o.NS, k.dir+"/weft-") {
			return syscall.EINVAL
		}
		return nil
	}
	if !k.exists(o.NS) {
		return os.ErrNotExist
	}
	switch o.Kind {
	case kernel.KindVXLAN:
		return k.master(o, o.Spec.(kernel.VXLAN).At)
	case kernel.KindVeth:
		v := o.Spec.(kernel.Veth)
		if !k.exists(v.Peer.NS) {
			return os.ErrNotExist
		}
		return k.master(o, v.At)
	case kernel.KindConf, kernel.KindAddr, kernel.KindRoute, kernel.KindNeigh, kernel.KindFDB:
		if !k.link(o.NS, o.Link) {
			return syscall.ENODEV
		}
	case kernel.KindElement:
		if _, ok := k.state[kernel.Key{Kind: kernel.KindTable, NS: o.NS, Link: tableOf(o.Link)}]; !ok {
			return syscall.ENOENT
		}
	}
	return nil
}

func (k *Kernel) master(o kernel.Object, at kernel.Port) error {
	if at.Master != "" && !k.link(o.NS, at.Master) {
		return syscall.ENODEV
	}
	return nil
}

func (k *Kernel) exists(ns string) bool {
	_, own := k.state[kernel.Key{Kind: kernel.KindNetns, NS: ns}]
	return own || ns == kernel.HostNS || k.spaces[ns]
}

// link tells whether a namespace has a link, which may be a pair's far end.
func (k *Kernel) link(ns, name string) bool {
	for key, o := range k.state {
		if isLink(key.Kind) && key.NS == ns && key.Link == name {
			return true
		}
		if v, ok := o.Spec.(kernel.Veth); ok && v.Peer.NS == ns && v.Peer.Name == name {
			return true
		}
	}
	return false
}

// remove takes an object away with what stands on it.
func (k *Kernel) remove(key kernel.Key) {
	o, ok := k.state[key]
	if !ok {
		return
	}
	delete(k.state, key)
	for other := range maps.Clone(k.state) {
		if on(other, o) {
			k.remove(other)
		}
	}
}

func on(key kernel.Key, o kernel.Object) bool {
	onLink := key.Kind > kernel.KindVeth && key.Kind < kernel.KindTable && key.Kind != kernel.KindRule
	switch {
	case o.Kind == kernel.KindNetns:
		return key.NS == o.NS
	case o.Kind == kernel.KindTable:
		return key.Kind == kernel.KindElement && key.NS == o.NS && tableOf(key.Link) == o.Link
	case !isLink(o.Kind) || !onLink:
		return false
	case key.NS == o.NS && key.Link == o.Link:
		return true
	}
	v, ok := o.Spec.(kernel.Veth)
	return ok && key.NS == v.Peer.NS && key.Link == v.Peer.Name
}

func isLink(kind kernel.Kind) bool {
	return kind == kernel.KindBridge || kind == kernel.KindVXLAN || kind == kernel.KindVeth
}

// tableOf cuts "family table set" to "family table".
func tableOf(link string) string { return link[:max(0, strings.LastIndexByte(link, ' '))] }
