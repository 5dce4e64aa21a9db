// Package dnssvc answers names in sandboxes: from the agent's picture of the cluster, and what is not there from other servers.
//
// It stands at the end of the flow: store → picture → answer. Nothing is told to it but which sandboxes there are (Set, Remove); each
// question reads the newest picture, so an endpoint's name and its forwarding entries follow from the same records. The questions come in
// through sockets at 127.0.0.11:53 inside the sandbox's network namespace, which the agent's process holds; what is forwarded leaves from
// the agent's own namespace, so that a sandbox needs no way to the servers of its host.
package dnssvc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"weft/store/record"
)

// Config is what a Service depends on.
type Config struct {
	Log       *slog.Logger
	Picture   func() *record.Snapshot     // the newest picture; called for every batch of questions, so it must be cheap
	Upstreams func() []netip.AddrPort     // who is asked for a sandbox without servers of its own
	Usable    func(*record.Endpoint) bool // tells whether an endpoint may be answered with now; nil: each one that runs
	Keeper    Keeper                      // nil: the sockets end with this process
	Ready     <-chan struct{}             // questions wait until it is closed; nil: it is known at once what there is
}

// Sandbox is what the resolver of one sandbox knows.
type Sandbox struct {
	ID       string
	Netns    string       // the file of its network namespace
	Servers  []netip.Addr // asked instead of Config.Upstreams
	Internal bool         // nothing is forwarded
	Networks []Network
}

// Network is a network that a sandbox is in, and its links there.
type Network struct {
	ID    record.NetworkID
	Links []record.Link
}

// Service answers in all sandboxes of a host.
type Service struct {
	cfg     Config
	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	forward *forwarder
	hosts   hostServers

	mu     sync.Mutex // guards slots and closed; never held while a slot's turn is awaited
	slots  map[string]*slot
	closed bool
}

// slot is the place of one sandbox. Who has its turn may change it: calls for one sandbox go one after the other.
type slot struct {
	turn     chan struct{}
	resolver *resolver
}

var errClosed = errors.New("the DNS service is closed")

// New returns a Service without sandboxes.
func New(cfg Config) *Service {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Usable == nil {
		cfg.Usable = func(*record.Endpoint) bool { return true }
	}
	s := &Service{cfg: cfg, slots: map[string]*slot{}}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.forward = newForwarder(s.ctx, cfg.Log, exchangeNet)
	s.hosts.read = cfg.Upstreams
	return s
}

// Set opens the resolver of a sandbox, or changes what it knows: a question that is being answered meanwhile gets the old answer or the
// new one. A sandbox whose namespace was replaced gets new sockets.
func (s *Service) Set(ctx context.Context, sb Sandbox) error {
	sb.Networks, sb.Servers = slices.Clone(sb.Networks), slices.Clone(sb.Servers)
	sl, err := s.take(ctx, sb.ID, true)
	if err != nil {
		return fmt.Errorf("answer names in sandbox %s: %w", record.ShortID(sb.ID), err)
	}
	defer sl.release()
	if sl.resolver != nil {
		if sl.resolver.standsIn(sb.Netns) {
			sl.resolver.known.Store(newKnowledge(sb))
			return nil
		}
		sl.resolver.close()
		sl.resolver = nil
		s.drop(sb.ID)
	}
	r, err := openResolver(s, sb)
	if err != nil {
		return fmt.Errorf("answer names in sandbox %s: %w", record.ShortID(sb.ID), err)
	}
	sl.resolver = r
	return nil
}

// Remove closes the sockets of a sandbox for good, and waits until nothing of its resolver is left. One that is not there is no error.
func (s *Service) Remove(id string) {
	if s.leave(id) {
		s.drop(id)
	}
}

// leave closes the resolver of a sandbox; the sockets may go on with the Keeper. It returns false where there is none.
func (s *Service) leave(id string) bool {
	sl, err := s.take(context.Background(), id, false)
	if err != nil || sl == nil {
		return false
	}
	defer sl.release()
	if sl.resolver != nil {
		sl.resolver.close()
		sl.resolver = nil
	}
	s.mu.Lock()
	delete(s.slots, id)
	s.mu.Unlock()
	return true
}

func (s *Service) drop(id string) {
	if s.cfg.Keeper != nil {
		s.cfg.Keeper.Drop(id)
	}
}

// Close ends all resolvers and waits for everything that the Service started. Sockets that the Keeper has go on: what is asked meanwhile waits
// in them for the next Service.
func (s *Service) Close() {
	s.mu.Lock()
	s.closed = true
	var ids []string
	for id := range s.slots {
		ids = append(ids, id)
	}
	s.mu.Unlock()
	s.cancel()
	for _, id := range ids {
		s.leave(id)
	}
	s.forward.wait()
}

// take waits for the turn at a sandbox's slot; nil if there is none and it must not be made.
func (s *Service) take(ctx context.Context, id string, add bool) (*slot, error) {
	for {
		s.mu.Lock()
		sl := s.slots[id]
		if add && s.closed {
			s.mu.Unlock()
			return nil, errClosed
		}
		if sl == nil && add {
			sl = &slot{turn: make(chan struct{}, 1)}
			s.slots[id] = sl
		}
		s.mu.Unlock()
		if sl == nil {
			return nil, nil
		}
		select {
		case sl.turn <- struct{}{}:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		s.mu.Lock()
		current := s.slots[id] == sl && (!add || !s.closed)
		s.mu.Unlock()
		if current {
			return sl, nil
		}
		sl.release() // it was removed while this call waited
	}
}

func (sl *slot) release() { <-sl.turn }

// servers returns who is asked for a sandbox.
func (s *Service) servers(k *knowledge) []netip.AddrPort {
	if len(k.servers) > 0 {
		return k.servers
	}
	return s.hosts.get()
}

// hostServers keeps what Config.Upstreams said for a moment, so that a burst of questions does not read a file each.
type hostServers struct {
	read func() []netip.AddrPort
	mu   sync.Mutex // guards list and at
	list []netip.AddrPort
	at   time.Time
}

const hostServersFor = time.Second

func (h *hostServers) get() []netip.AddrPort {
	if h.read == nil {
		return nil
	}
	h.mu.Lock()
	list, fresh := h.list, !h.at.IsZero() && time.Since(h.at) < hostServersFor
	h.mu.Unlock()
	if fresh {
		return list
	}
	list = h.read()
	h.mu.Lock()
	h.list, h.at = list, time.Now()
	h.mu.Unlock()
	return list
}
