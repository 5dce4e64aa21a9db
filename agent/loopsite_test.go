package agent

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"weft/bridge"
	"weft/kernel"
	"weft/kernel/fake"
	"weft/overlay"
	"weft/store"
	"weft/store/follow"
	"weft/store/memory"
	"weft/store/record"
)

const testDir = "/run/weft/netns"

// site is a loop between a store in memory and a kernel in memory, with sandboxes that the test says.
type site struct {
	t        testing.TB
	kernel   *fake.Kernel
	client   *memory.Client
	disk     *memory.Client
	follower *follow.Follower
	own      *follow.Follower // of this host's own networks
	*loop
	changes chan []kernel.Change // what others do in the host

	mu     sync.Mutex // guards what follows
	boxes  map[record.SandboxID]*record.Sandbox
	failed map[string]error
	silent map[record.HostID]bool // hosts that do not answer
	begin  bool                   // the loop may write
	stop   func()
}

func newSite(t testing.TB, w *memory.World, k *fake.Kernel, bs ...*record.Sandbox) *site {
	t.Helper()
	return newSiteOn(t, w, k, func(e kernel.Executor) kernel.Executor { return e }, bs...)
}

// newSiteOn is newSite with something between the loop and its kernel.
func newSiteOn(t testing.TB, w *memory.World, k *fake.Kernel, through func(kernel.Executor) kernel.Executor, bs ...*record.Sandbox) *site {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	s := &site{t: t, kernel: k, client: w.Client(), boxes: boxMap(bs...), begin: true, changes: make(chan []kernel.Change)}
	s.follower = follow.New(follow.Config{Store: s.client, Log: log})
	s.disk = memory.New().Client()
	s.own = follow.New(follow.Config{Store: s.disk, Log: log})
	for _, b := range bs {
		k.AddNamespace("/ns/" + string(b.ID))
		for _, at := range b.Attachments {
			s.follower.Follow(at.Network)
		}
	}
	s.loop = newLoop(loopConfig{
		log: log, clock: machineClock{}, exec: through(k), sight: newSight(s.follower, s.own),
		settings: func() overlay.Settings {
			return overlay.Settings{Self: self, VTEP: ip("192.0.2.1"), VXLANPort: 4789, NetnsDir: testDir}
		},
		answers: func(*record.Snapshot) func(record.HostID) bool {
			return func(id record.HostID) bool {
				s.mu.Lock()
				defer s.mu.Unlock()
				return !s.silent[id]
			}
		},
		locals: func() map[record.NetworkID]presence {
			s.mu.Lock()
			defer s.mu.Unlock()
			return presences(self, 1, s.boxes, func(id record.SandboxID) string { return "/ns/" + string(id) })
		},
		watch: func(ctx context.Context, out chan<- []kernel.Change) error {
			for {
				select {
				case c := <-s.changes:
					out <- c
				case <-ctx.Done():
					return nil
				}
			}
		},
		published: func(p *record.Snapshot) []bridge.Published {
			s.mu.Lock()
			defer s.mu.Unlock()
			return published(s.boxes, p.Network)
		},
		ready: func() bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.begin && s.follower.Picture().Rev(store.Meta) > 0
		},
		applied: func(_ *record.Snapshot, failed map[string]error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.failed = failed
		},
	})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { s.follower.Run(ctx) })
	wg.Go(func() { s.own.Run(ctx) })
	wg.Go(func() { s.loop.run(ctx) })
	s.stop = sync.OnceFunc(func() {
		cancel()
		wg.Wait()
		if err := errors.Join(s.client.Close(), s.disk.Close()); err != nil {
			t.Error(err)
		}
	})
	return s
}

// set replaces the host's sandboxes without a word to the loop.
func (s *site) set(bs ...*record.Sandbox) {
	for _, b := range bs {
		s.kernel.AddNamespace("/ns/" + string(b.ID))
		for _, at := range b.Attachments {
			s.follower.Follow(at.Network)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.boxes = boxMap(bs...)
}

func (s *site) failures() map[string]error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.failed)
}

// write puts records into the store.
func (s *site) write(rs ...any) {
	s.t.Helper()
	for _, r := range rs {
		b, err := record.Encode(r)
		if err != nil {
			s.t.Fatal(err)
		}
		var ops []store.Op
		switch r := r.(type) {
		case *record.Network:
			ops = []store.Op{store.Put(record.NetworkKey(r.ID), b), store.Put(record.NetworkNameKey(r.Name), []byte(r.ID))}
		case *record.Host:
			ops = []store.Op{store.Put(record.HostKey(r.ID), b)}
		case *record.VIP:
			ops = []store.Op{store.Put(record.VIPKey(r.Network, r.Alias), b)}
		case *record.Endpoint:
			ops = []store.Op{store.Put(record.EndpointKey(r.Network, r.ID), b), store.Put(record.EndpointNameKey(r.Network, r.Name), []byte(r.ID))}
			for _, a := range r.Addrs {
				ops = append(ops, store.Put(record.AddrKey(r.Network, a), []byte(r.ID)))
			}
		}
		if _, err := s.client.Txn(s.t.Context(), store.Txn{Then: ops}); err != nil {
			s.t.Fatal(err)
		}
	}
}

// pass lets virtual time go by, and all goroutines settle.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// holds compares the kernel with what the picture and the sandboxes ask for.
func (s *site) holds(what string) {
	s.t.Helper()
	v := newView(s.settings(), s.sight.Picture(), s.locals())
	v.answers = s.answers(s.sight.Picture())
	v.published = func() []bridge.Published { return s.loop.published(s.sight.Picture()) }
	want := v.want(hostPart)
	maps.Copy(want, v.want(portsPart))
	for id := range v.locals {
		maps.Copy(want, v.want(id))
	}
	spaces := []string{kernel.HostNS}
	own, err := s.kernel.Namespaces(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	spaces = append(spaces, own...)
	for _, l := range v.locals {
		for _, p := range l.ports {
			spaces = append(spaces, p.Netns)
		}
	}
	have, err := s.kernel.Read(s.t.Context(), spaces)
	if err != nil {
		s.t.Fatal(err)
	}
	if d := kernel.Diff(want, have); len(d) > 0 {
		s.t.Errorf("%s: still to do: %v", what, d[:min(len(d), 5)])
	}
}

func hosts() []any {
	return []any{
		&record.Host{ID: self, Name: "self", VTEP: ip("192.0.2.1"), MTU: 1500},
		&record.Host{ID: other, Name: "other", VTEP: ip("192.0.2.2"), MTU: 1500},
	}
}

func remote(n record.NetworkID, id record.EndpointID, addr string) *record.Endpoint {
	b := box(string(id), in(n, id, addr))
	return endpointOf(other, 1, b, b.Attachments[0])
}
