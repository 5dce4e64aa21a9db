package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

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

func TestTheKernelFollows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, k := memory.New(), fake.New(testDir)
		s := newSite(t, w, k)
		defer s.stop()
		s.write(hosts()...)
		s.write(network(front, "10.1.0.0/24"), network(back, "10.2.0.0/24"))
		pass(time.Second)

		a, b := box("a", in(front, "e1", "10.1.0.2"), in(back, "e2", "10.2.0.2")), box("b", in(front, "e3", "10.1.0.3"))
		s.set(a)
		for _, at := range a.Attachments { // whoever asked for a port has it when the answer comes
			if err := s.do(t.Context(), at.Network, at.Endpoint); err != nil {
				t.Fatal(err)
			}
		}
		s.holds("a first sandbox")
		s.set(a, b)
		k.Log()
		if err := s.do(t.Context(), front, "e3"); err != nil {
			t.Fatal(err)
		}
		s.holds("a second one")
		for _, o := range k.Log() {
			if o.Obj.NS != "/ns/5bb" && !strings.Contains(o.String(), "10.1.0.3") && !strings.Contains(o.String(), "02:42:0a:01:00:03") {
				t.Errorf("a port of its own was asked for, and this was done: %s", o)
			}
		}

		s.write(remote(front, "e8", "10.1.0.8"), remote(front, "e9", "10.1.0.9"))
		pass(time.Millisecond)
		s.holds("endpoints of another host")
		moved := remote(front, "e8", "10.1.0.18")
		s.write(moved)
		pass(time.Millisecond)
		s.holds("an endpoint with another address")
		moved.Running, moved.Addrs = false, nil
		s.write(moved)
		pass(time.Millisecond)
		s.holds("one that stopped")

		s.set(b)
		if err := s.do(t.Context(), back, ""); err != nil {
			t.Fatal(err)
		}
		if err := s.do(t.Context(), front, ""); err != nil {
			t.Fatal(err)
		}
		pass(time.Second)
		s.holds("a sandbox that left, and a network with it")
		s.set()
		pass(2 * resyncEvery)
		s.holds("all gone")
	})
}

// A network that fails is tried again with a back-off, says so, and does not keep the others from being right.
func TestOneNetworksFailureIsItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, k := memory.New(), fake.New(testDir)
		s := newSite(t, w, k)
		defer s.stop()
		s.write(hosts()...)
		s.write(network(front, "10.1.0.0/24"), network(back, "10.2.0.0/24"))
		pass(time.Second)
		sick := overlay.NetnsPath(s.settings(), front)
		k.Fail(fake.Fault{Op: func(o kernel.Op) bool { return o.Obj.NS == sick && o.Obj.Kind == kernel.KindVXLAN }, Err: syscall.ENOBUFS})
		s.set(box("a", in(front, "e1", "10.1.0.2")), box("b", in(back, "e2", "10.2.0.2")))
		if err := s.do(t.Context(), front, "e1"); !errors.Is(err, syscall.ENOBUFS) {
			t.Errorf("the one who asked was told %v", err)
		}
		if err := s.do(t.Context(), back, "e2"); err != nil {
			t.Errorf("the other network: %v", err)
		}
		pass(time.Minute)
		if err := s.failures()[string(front)]; !errors.Is(err, syscall.ENOBUFS) || len(s.failures()) != 1 {
			t.Errorf("failures: %v", s.failures())
		}
		k.Heal()
		pass(lastRetry + time.Second)
		s.holds("after it was healed")
		if len(s.failures()) > 0 {
			t.Errorf("still said to fail: %v", s.failures())
		}
	})
}

// What is still being deleted keeps its names: a sandbox that comes back to a network under another endpoint waits for its old interface,
// and a network for the VNI of the one before.
func TestWhatLeavesIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, k := memory.New(), fake.New(testDir)
		s := newSite(t, w, k)
		defer s.stop()
		s.write(hosts()...)
		s.write(network(front, "10.1.0.0/24"), network(back, "10.1.8.0/24")) // of one VNI, as if the first were removed
		s.follower.Follow(front)
		s.follower.Follow(back)
		pass(time.Second) // until both are known: of what is not, nothing is deleted
		s.set(box("a", in(front, "e1", "10.1.0.2")))
		if err := s.do(t.Context(), front, "e1"); err != nil {
			t.Fatal(err)
		}
		k.Log()
		began := time.Now()
		keep := box("z", in(front, "e9", "10.1.0.9")) // so that the network stays
		s.set(box("a"), keep)
		if err := s.do(t.Context(), front, ""); err != nil {
			t.Fatal(err)
		}
		s.set(box("a", in(front, "e2", "10.1.0.3")), keep)
		if err := s.do(t.Context(), front, "e2"); err != nil {
			t.Fatal(err)
		}
		s.holds("back under another endpoint")
		s.set(box("a", in(back, "e3", "10.1.8.2")))
		if err := s.do(t.Context(), front, ""); err != nil {
			t.Fatal(err)
		}
		if err := s.do(t.Context(), back, "e3"); err != nil {
			t.Fatal(err)
		}
		s.holds("in a network of the same VNI")
		if took := time.Since(began); took > laneWait {
			t.Errorf("it took %s: the lane gathered though somebody waited", took)
		}
		gone, made := -1, -1
		for i, o := range k.Log() {
			if o.Obj.Kind == kernel.KindVXLAN && o.Verb == kernel.Del {
				gone = i
			} else if o.Obj.Kind == kernel.KindVXLAN {
				made = i
			}
		}
		if gone < 0 || made < gone {
			t.Errorf("the new tunnel was made at step %d, the old one deleted at %d", made, gone)
		}
	})
}

// A reading that fails, as one does while something else changes all the time, is tried again soon, and nothing is deleted meanwhile.
func TestAReadingThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, k := memory.New(), fake.New(testDir)
		a := box("a", in(front, "e1", "10.1.0.2"))
		s := newSite(t, w, k, a)
		defer s.stop()
		k.Fail(fake.Fault{Reading: true, Times: 3, Err: syscall.EINTR})
		s.write(hosts()...)
		s.write(network(front, "10.1.0.0/24"))
		pass(3 * time.Second)
		s.holds("after three readings that failed")
		for _, o := range k.Log() {
			if o.Verb == kernel.Del {
				t.Errorf("deleted in doubt: %s", o)
			}
		}
	})
}

func TestARestartedLoopTouchesNothingThatIsRight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, k := memory.New(), fake.New(testDir)
		a := box("a", in(front, "e1", "10.1.0.2"), in(back, "e2", "10.2.0.2"))
		first := newSite(t, w, k, a)
		first.write(hosts()...)
		first.write(network(front, "10.1.0.0/24"), network(back, "10.2.0.0/24"), remote(front, "e9", "10.1.0.9"))
		pass(2 * resyncEvery)
		first.holds("the first life")
		first.stop()
		k.Log()

		second := newSite(t, w, k, a)
		defer second.stop()
		pass(2 * resyncEvery)
		second.holds("the second life")
		if log := k.Log(); len(log) > 0 {
			t.Errorf("the second life did %v", log)
		}
		k.Lose(func(o kernel.Object) bool { return o.Kind == kernel.KindFDB || o.Kind == kernel.KindTable })
		pass(resyncEvery + time.Second)
		second.holds("what others took away is put back")

		second.stop()
		third := newSite(t, w, k) // its journal knows of no sandbox
		defer third.stop()
		pass(resyncEvery)
		third.holds("orphans of an older life")
	})
}

// Nothing is written, and nothing is deleted, before it is known what should be; whoever asks meanwhile is served as soon as it is.
func TestNothingIsWrittenBeforeThePictureIsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, k := memory.New(), fake.New(testDir)
		a := box("a", in(front, "e1", "10.1.0.2"))
		first := newSite(t, w, k, a)
		first.write(hosts()...)
		first.write(network(front, "10.1.0.0/24"))
		pass(time.Minute)
		first.stop()
		k.Log()

		s := newSite(t, w, k, a)
		defer s.stop()
		s.mu.Lock()
		s.begin = false
		s.mu.Unlock()
		s.set() // as if it had nothing: all that is there would go
		answer := make(chan error, 1)
		go func() { answer <- s.do(t.Context(), front, "e1") }()
		pass(time.Minute)
		if log := k.Log(); len(log) > 0 {
			t.Errorf("written too early: %v", log)
		}
		s.set(a)
		s.mu.Lock()
		s.begin = true
		s.mu.Unlock()
		if err := <-answer; err != nil {
			t.Error(err)
		}
		s.holds("when it is known")
	})
}

// Whatever comes and goes, and whatever fails meanwhile, the kernel ends up as the picture and the sandboxes say.
func TestTheLoopConverges(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		steps := rapid.SliceOfN(rapid.IntRange(0, 6), 1, 25).Draw(rt, "steps")
		seeds := rapid.SliceOfN(rapid.IntRange(0, 5), len(steps), len(steps)).Draw(rt, "seeds")
		synctest.Test(t, func(t *testing.T) {
			w, k := memory.New(), fake.New(testDir)
			s := newSite(t, w, k)
			defer s.stop()
			s.write(hosts()...)
			s.write(network(front, "10.1.0.0/24"), network(back, "10.2.0.0/24"))
			up := map[int]*record.Sandbox{}
			for i, step := range steps {
				n, net, subnet := seeds[i], front, 1
				if n%2 == 1 {
					net, subnet = back, 2
				}
				addr := fmt.Sprintf("10.%d.0.%d", subnet, 2+n)
				switch step {
				case 0, 1:
					up[n] = box(fmt.Sprint("b", n), in(net, record.EndpointID(fmt.Sprint("e", n)), addr))
				case 2:
					delete(up, n)
				case 3:
					s.write(remote(net, record.EndpointID(fmt.Sprint("r", n)), fmt.Sprintf("10.%d.0.%d", subnet, 100+n)))
				case 4:
					gone := remote(net, record.EndpointID(fmt.Sprint("r", n)), addr)
					gone.Running, gone.Addrs = false, nil
					s.write(gone)
				case 5:
					k.Fail(fake.Fault{Op: func(o kernel.Op) bool { return int(o.Obj.Kind) == n+2 }, After: n, Times: 2, Err: syscall.EBUSY, Done: n > 3})
				case 6:
					k.Lose(func(o kernel.Object) bool { return int(o.Kind) == n+3 })
				}
				var bs []*record.Sandbox
				for _, b := range up {
					bs = append(bs, b)
				}
				s.set(bs...)
				_ = s.do(t.Context(), net, "") // what fails is tried again
				pass(time.Duration(n) * 10 * time.Millisecond)
			}
			pass(2*resyncEvery + lastRetry)
			s.holds(fmt.Sprint(steps, seeds))
		})
	})
}

// A port of a bridge of the host is guarded for as long as it is there.
func TestAPortGoesBeforeItsGuard(t *testing.T) {
	const web = record.NetworkID("ccccccccccccaaaa")
	synctest.Test(t, func(t *testing.T) {
		w, k := memory.New(), fake.New(testDir)
		s := newSite(t, w, k)
		defer s.stop()
		s.keep(localNetwork(web, "172.18.0.0/16"), true)
		s.set(box("a", in(web, "e1", "172.18.0.2")))
		if err := s.do(t.Context(), web, "e1"); err != nil {
			t.Fatal(err)
		}
		pass(time.Second)
		k.Log()
		s.set(box("a"))
		_ = s.do(t.Context(), web, "")
		pass(time.Second)
		var gone []string
		for _, o := range k.Log() {
			if o.Verb == kernel.Del && (o.Obj.Kind == kernel.KindVeth || bridge.Guards(o.Obj.Key)) {
				gone = append(gone, o.Obj.Key.String())
			}
		}
		if len(gone) != 2 || !strings.HasPrefix(gone[0], "veth ") {
			t.Errorf("in this order went %q", gone)
		}
		s.holds("in the end")
	})
}

// Whoever waits for a network's end has the host's rules for it gone soon after, though nothing else has changed.
func TestTheHostsRulesGoWithTheirNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, k := memory.New(), fake.New(testDir)
		s := newSite(t, w, k)
		defer s.stop()
		s.write(hosts()...)
		s.write(network(front, "10.1.0.0/24"))
		s.set(box("a", in(front, "e1", "10.1.0.2")))
		if err := s.do(t.Context(), front, "e1"); err != nil {
			t.Fatal(err)
		}
		pass(time.Second)
		s.holds("at first")
		s.set(box("a"))
		if err := s.do(t.Context(), front, ""); err != nil {
			t.Fatal(err)
		}
		pass(time.Second)
		s.holds("a second after the last port has gone")
	})
}
