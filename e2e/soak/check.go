package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"weft/e2e/lab"
)

// agree waits until everything is as it is to be: what was asked for, the records, the kernel, the names, and what is published.
func (s *soak) agree(ctx context.Context) error {
	s.report.Checks++
	for i, h := range s.hosts {
		err := s.until(ctx, func() error { return errors.Join(s.allAlive(ctx, i), s.sandboxes(ctx, i), s.endpoints(ctx, i)) })
		if err == nil {
			err = s.until(ctx, func() error { return s.weft(ctx, i, "doctor", "--quick") })
		}
		if err != nil {
			return fmt.Errorf("%s does not agree with what is to be: %w\nthe last lines of its log:\n%s", h.Name, err, h.Log(15))
		}
	}
	for _, check := range []func(context.Context) error{s.records, s.everyName, s.everyPort} {
		if err := s.until(ctx, func() error { return check(ctx) }); err != nil {
			return err
		}
	}
	return nil
}

// until asks again and again until there is no error, for as long as things may take to agree.
func (s *soak) until(ctx context.Context, f func() error) error {
	for end := time.Now().Add(agreeTime); ; {
		err := f()
		if err == nil || time.Now().After(end) {
			return err
		}
		if werr := wait(ctx, 100*time.Millisecond); werr != nil {
			return errors.Join(werr, err)
		}
	}
}

// allAlive: each host sees all others.
func (s *soak) allAlive(ctx context.Context, host int) error {
	got, err := s.ask(ctx, host, "host", "ls", "--format", "{{.Name}} {{.State}} {{.Notes}}")
	if err != nil {
		return err
	}
	var want []string
	for _, h := range s.hosts {
		want = append(want, h.Name+" alive")
	}
	return differ(fmt.Sprintf("hosts as host%d sees them", host+1), lines(got), want)
}

// sandboxes: each host has what was made on it.
func (s *soak) sandboxes(ctx context.Context, host int) error {
	got, err := s.ask(ctx, host, "ps", "-a", "--format", "{{.Names}} {{.State}}")
	if err != nil {
		return err
	}
	var want []string
	for _, st := range s.stays {
		if st.host == host {
			want = append(want, st.name+" running")
		}
	}
	for _, b := range s.world.boxes {
		switch {
		case b.host != host:
		case b.running:
			want = append(want, b.name+" running")
		default:
			want = append(want, b.name+" exited")
		}
	}
	return differ(fmt.Sprintf("sandboxes of host%d", host+1), lines(got), want)
}

// endpoints: each host knows all of them.
func (s *soak) endpoints(ctx context.Context, host int) error {
	got, err := s.ask(ctx, host, "endpoint", "ls", "--format", "{{.Name}} {{.Network}} {{.Host}} {{.State}}")
	if err != nil {
		return err
	}
	want := []string{}
	for _, st := range s.stays {
		want = append(want, fmt.Sprintf("%s %s host%d running", st.name, steadyNet, st.host+1))
	}
	for _, b := range s.world.boxes {
		for n := range b.nets {
			state := "running"
			if !b.running {
				state = "stopped"
			}
			want = append(want, fmt.Sprintf("%s %s host%d %s", b.name, n, b.host+1, state))
		}
	}
	return differ(fmt.Sprintf("endpoints as host%d sees them", host+1), lines(got), want)
}

// records: the store's rules hold.
func (s *soak) records(ctx context.Context) error { return s.weft(ctx, 0, "store", "check") }

// everyName: from a sandbox on each host, all others of its network are found, and those that are down are not.
func (s *soak) everyName(ctx context.Context) error {
	for _, st := range s.stays[1:] {
		for _, b := range s.world.boxes {
			if !b.nets[steadyNet] {
				continue
			}
			var want []netip.Addr
			if b.running {
				text, err := s.ask(ctx, b.host, "inspect", "-f", `{{(index .NetworkSettings.Networks "`+steadyNet+`").IPAddress}}`, b.name)
				if err != nil {
					return err
				}
				a, err := netip.ParseAddr(strings.TrimSpace(text))
				if err != nil {
					return fmt.Errorf("the address of %s: %w", b.name, err)
				}
				want = []netip.Addr{a}
			}
			got, err := lookup(st.netns, b.name)
			if err != nil || !slices.Equal(got, want) {
				return fmt.Errorf("%s asks for %s: %v (%w), want %v", st.name, b.name, got, err, want)
			}
		}
	}
	return nil
}

// everyPort: what is published can be reached from outside.
func (s *soak) everyPort(ctx context.Context) error {
	for _, b := range s.world.boxes {
		if b.port == 0 || !b.running {
			continue
		}
		if err := s.reach(ctx, b); err != nil {
			return fmt.Errorf("port %d of host%d, of %s: %w", b.port, b.host+1, b.name, err)
		}
	}
	return nil
}

// reach lets a sandbox listen for one moment, and connects to it from outside.
func (s *soak) reach(ctx context.Context, b *box) error {
	text, err := s.ask(ctx, b.host, "inspect", "-f", "{{.NetworkSettings.SandboxKey}}", b.name)
	if err != nil {
		return err
	}
	var l net.Listener
	err = lab.Within(strings.TrimSpace(text), func() (err error) {
		l, err = net.Listen("tcp4", ":80")
		return err
	})
	if err != nil {
		return err
	}
	defer func() { _ = l.Close() }()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	c, err := s.lab.Outside().Dial(ctx, "tcp4", netip.AddrPortFrom(s.hosts[b.host].Addr, uint16(b.port)).String())
	if err != nil {
		return err
	}
	return c.Close()
}

func lines(s string) []string {
	var out []string
	for l := range strings.Lines(s) {
		out = append(out, strings.TrimSpace(l))
	}
	return out
}

// differ is an error that says what one list has and the other has not.
func differ(what string, got, want []string) error {
	var diff []string
	for _, g := range got {
		if !slices.Contains(want, g) {
			diff = append(diff, "+ "+g)
		}
	}
	for _, w := range want {
		if !slices.Contains(got, w) {
			diff = append(diff, "- "+w)
		}
	}
	if len(diff) == 0 && len(got) == len(want) {
		return nil
	}
	slices.Sort(diff)
	return fmt.Errorf("%s are not what is to be (- missing, + too many): %s", what, strings.Join(diff, "; "))
}
