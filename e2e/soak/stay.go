package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
)

// stayer is a sandbox that stays, and answers packets.
type stayer struct {
	name  string
	host  int
	netns string
	addr  netip.Addr
	quiet func() // ends the answers
}

// kind tells what goes along a way.
type kind uint8

const (
	packets kind = iota
	questions
)

// way is a probe between two sandboxes that stay.
type way struct {
	*probe
	kind     kind
	from, to *stayer
}

func across(w *way) bool { return w.from.host != w.to.host && w.kind == packets }

// startStayers makes the network and the sandboxes that stay: two on the first host, one on each other, and what goes between them.
func (s *soak) startStayers(ctx context.Context) error {
	if err := s.weft(ctx, 0, "network", "create", "-d", "overlay", steadyNet); err != nil {
		return err
	}
	for i := range len(s.hosts) + 1 {
		st := &stayer{name: fmt.Sprintf("stays%d", i), host: max(0, i-1), quiet: func() {}}
		if err := s.weft(ctx, st.host, "run", "-d", "--restart", "always", "--name", st.name, "--network", steadyNet, "--", "sleep", "1000000"); err != nil {
			return err
		}
		s.stays = append(s.stays, st)
	}
	first, last := s.stays[0], s.stays[len(s.stays)-1]
	for _, to := range s.stays[1:] {
		s.way(packets, first, to)
	}
	s.way(packets, s.stays[2], first)
	s.way(packets, s.stays[2], last)
	s.way(questions, first, s.stays[2])
	s.way(questions, s.stays[2], first)
	for _, st := range s.stays {
		if err := s.find(ctx, st); err != nil {
			return err
		}
	}
	return s.beginWays(ctx, s.probes)
}

// beginWays waits until something gets through along each way, which is not counted: the other hosts hear of a sandbox a moment after it is up. From
// then on everything is.
func (s *soak) beginWays(ctx context.Context, ways []*way) error {
	for _, w := range ways {
		if err := s.until(ctx, w.works); err != nil {
			return fmt.Errorf("nothing gets through along %s: %w", w.name, err)
		}
	}
	for _, w := range ways {
		if err := w.begin(); err != nil {
			return err
		}
	}
	return nil
}

func (s *soak) way(k kind, from, to *stayer) {
	name := fmt.Sprintf("packets %s → %s", from.name, to.name)
	if k == questions {
		name = fmt.Sprintf("names   %s asks %s", from.name, to.name)
	}
	s.probes = append(s.probes, &way{newProbe(name), k, from, to})
}

// works tries a way once.
func (w *way) works() error {
	if w.kind == questions {
		return asked(w.from.netns, w.to.name, w.to.addr)
	}
	return echoed(w.from.netns, w.to.addr)
}

// begin sends along a way.
func (w *way) begin() error {
	if w.kind == questions {
		return w.names(w.from.netns, w.to.name, w.to.addr)
	}
	return w.packets(w.from.netns, w.to.addr)
}

// find looks a sandbox's namespace and address up, and lets it answer.
func (s *soak) find(ctx context.Context, st *stayer) error {
	text, err := s.ask(ctx, st.host, "inspect", st.name)
	if err != nil {
		return err
	}
	var views []struct {
		NetworkSettings struct {
			SandboxKey string
			Networks   map[string]struct{ IPAddress string }
		}
	}
	if err := json.Unmarshal([]byte(text), &views); err != nil || len(views) != 1 {
		return fmt.Errorf("inspect %s: %w: %s", st.name, err, strings.TrimSpace(text))
	}
	set := views[0].NetworkSettings
	addr, err := netip.ParseAddr(set.Networks[steadyNet].IPAddress)
	if err != nil {
		return fmt.Errorf("%s has no address: %w", st.name, err)
	}
	if st.addr.IsValid() && st.addr != addr {
		return fmt.Errorf("%s has come back with %s; it had %s", st.name, addr, st.addr)
	}
	st.netns, st.addr = set.SandboxKey, addr
	st.quiet, err = echoes(st.netns)
	return err
}

// touching are the ways that have to do with a host.
func (s *soak) touching(host int, is func(*way) bool) []*way {
	var out []*way
	for _, w := range s.probes {
		if is(w) && (w.from.host == host || w.to.host == host) {
			out = append(out, w)
		}
	}
	return out
}

// asking are the questions that a host's agent answers.
func (s *soak) asking(host int) []*way {
	return s.touching(host, func(w *way) bool { return w.kind == questions && w.from.host == host })
}

// silence ends all that a host's sandboxes send and answer, before it loses its power; speak begins it again.
func (s *soak) silence(host int) {
	for _, w := range s.touching(host, func(*way) bool { return true }) {
		w.end()
	}
	for _, st := range s.stays {
		if st.host == host {
			st.quiet()
		}
	}
}

func (s *soak) speak(ctx context.Context, host int) error {
	for _, st := range s.stays {
		if st.host != host {
			continue
		}
		if err := s.until(ctx, func() error { return s.find(ctx, st) }); err != nil {
			return err
		}
	}
	return s.beginWays(ctx, s.touching(host, func(*way) bool { return true }))
}
