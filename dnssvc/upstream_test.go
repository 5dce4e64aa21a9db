package dnssvc

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// servers is a network of servers that exists in memory: each answers as its behaviour says, at the time of the bubble.
type servers struct {
	mu     sync.Mutex
	does   map[netip.AddrPort]behaviour
	asked  []string // "SERVER NAME" in order
	probes int
}

type behaviour func(ctx context.Context, m *dns.Msg) (*dns.Msg, error)

func at(n int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(n)}), 53)
}

func (s *servers) exchange(ctx context.Context, server netip.AddrPort, m *dns.Msg) (*dns.Msg, error) {
	s.mu.Lock()
	do := s.does[server]
	if m.Question[0].Name == "." {
		s.probes++
	} else {
		s.asked = append(s.asked, server.Addr().String())
	}
	s.mu.Unlock()
	return do(ctx, m)
}

func (s *servers) set(n int, b behaviour) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.does[at(n)] = b
}

func silent(ctx context.Context, _ *dns.Msg) (*dns.Msg, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func closed(context.Context, *dns.Msg) (*dns.Msg, error) {
	return nil, &netError{syscall.ECONNREFUSED}
}

type netError struct{ error }

func (e *netError) Unwrap() error { return e.error }

func says(rcode int) behaviour {
	return func(_ context.Context, m *dns.Msg) (*dns.Msg, error) {
		a := new(dns.Msg)
		a.SetRcode(m, rcode)
		return a, nil
	}
}

// slow answers probes at once, and questions after a while.
func slow(d time.Duration) behaviour {
	return func(ctx context.Context, m *dns.Msg) (*dns.Msg, error) {
		if m.Question[0].Name != "." {
			select {
			case <-time.After(d):
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		return says(dns.RcodeSuccess)(ctx, m)
	}
}

func TestFailover(t *testing.T) {
	ok, fails := says(dns.RcodeSuccess), says(dns.RcodeServerFailure)
	for _, c := range []struct {
		what   string
		does   []behaviour
		single bool
		want   string // the answer's code, or "none"
		within time.Duration
		asked  []string
	}{
		{"the first one answers", []behaviour{ok, ok}, false, "NOERROR", 0, []string{"192.0.2.0"}},
		{"a name that does not exist is an answer", []behaviour{says(dns.RcodeNameError), ok}, false, "NXDOMAIN", 0, []string{"192.0.2.0"}},
		{"the first one fails", []behaviour{fails, ok}, false, "NOERROR", 0, []string{"192.0.2.0", "192.0.2.1"}},
		{"the first one refuses", []behaviour{says(dns.RcodeRefused), ok}, false, "NOERROR", 0, []string{"192.0.2.0", "192.0.2.1"}},
		{"nobody is at the first one", []behaviour{closed, ok}, false, "NOERROR", 0, []string{"192.0.2.0", "192.0.2.1"}},
		{"the first one is silent", []behaviour{silent, ok}, false, "NOERROR", nextAfter, []string{"192.0.2.0", "192.0.2.1"}},
		{"all fail", []behaviour{fails, fails}, false, "SERVFAIL", 0, []string{"192.0.2.0", "192.0.2.1"}},
		{"one fails and one is silent", []behaviour{fails, silent}, false, "SERVFAIL", time.Second, nil},
		{"nobody is anywhere", []behaviour{closed, closed}, false, "none", 0, []string{"192.0.2.0", "192.0.2.1"}},
		{"all are silent", []behaviour{silent, silent}, false, "none", 1200 * time.Millisecond, nil},
		{"all are silent, and the name has one label", []behaviour{silent, silent}, true, "none", singleBudget, nil},
		{"the only one is silent", []behaviour{silent}, true, "none", singleBudget, []string{"192.0.2.0", "192.0.2.0"}},
		{"a slow one is waited for", []behaviour{slow(3 * time.Second)}, false, "NOERROR", 3 * time.Second, []string{"192.0.2.0", "192.0.2.0"}},
		{"but not for ever", []behaviour{slow(time.Hour)}, false, "none", budget, nil},
		{"and not for a name of one label", []behaviour{slow(3 * time.Second)}, true, "none", singleBudget, nil},
		{"there is none", nil, false, "none", 0, nil},
	} {
		t.Run(c.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				s := &servers{does: map[netip.AddrPort]behaviour{}}
				p := newPool(ctx, slog.New(slog.DiscardHandler), s.exchange)
				var list []netip.AddrPort
				for i, b := range c.does {
					s.set(i, b)
					list = append(list, at(i))
				}
				begun := time.Now()
				m, err := p.race(ctx, query("example.com", dns.TypeA), list, c.single)
				took := time.Since(begun)
				got := "none"
				if m != nil {
					got = dns.RcodeToString[m.Rcode]
				}
				cancel()
				p.wg.Wait()
				if got != c.want || (err == nil) != (m != nil) || took > c.within {
					t.Errorf("got %s, %v after %v; want %s within %v", got, err, took, c.want, c.within)
				}
				if c.asked != nil && !slices.Equal(s.asked, c.asked) {
					t.Errorf("asked %v, want %v", s.asked, c.asked)
				}
			})
		})
	}
}

// A server that went silent costs the first asker time, and nobody after that; it is asked again soon after it is back.
func TestHealth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		s := &servers{does: map[netip.AddrPort]behaviour{}}
		p := newPool(ctx, slog.New(slog.DiscardHandler), s.exchange)
		ask := func() (time.Duration, error) {
			begun := time.Now()
			_, err := p.race(ctx, query("example.com", dns.TypeA), []netip.AddrPort{at(1)}, true)
			return time.Since(begun), err
		}

		s.set(1, silent)
		if took, err := ask(); !errors.Is(err, errDead) || took > time.Second {
			t.Fatalf("first: %v after %v", err, took)
		}
		if took, err := ask(); !errors.Is(err, errDead) || took != 0 {
			t.Fatalf("known dead: %v after %v", err, took)
		}

		s.set(1, says(dns.RcodeSuccess))
		time.Sleep(probeEvery + probeTimeout)
		if took, err := ask(); err != nil || took != 0 {
			t.Fatalf("back again: %v after %v", err, took)
		}

		s.set(1, closed)
		if took, err := ask(); !errors.Is(err, errDead) || took != 0 {
			t.Fatalf("closed: %v after %v", err, took)
		}
		time.Sleep(unusedFor + 2*probeEvery) // nobody asks
		s.mu.Lock()
		probes := s.probes
		s.mu.Unlock()
		time.Sleep(time.Hour)
		s.mu.Lock()
		if s.probes != probes {
			t.Errorf("%d probes of a server that nobody wants", s.probes-probes)
		}
		s.mu.Unlock()
		s.set(1, says(dns.RcodeSuccess))
		if took, err := ask(); err != nil || took != 0 {
			t.Fatalf("asked again after a long time: %v after %v", err, took)
		}
		cancel()
		p.wg.Wait()
	})
}

// One name that a server is slow with takes the server from nobody, and brings no storm of probes.
func TestSlowNamesMakeNoServerDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		s := &servers{does: map[netip.AddrPort]behaviour{}}
		s.set(1, slow(3*time.Second))
		p := newPool(ctx, slog.New(slog.DiscardHandler), s.exchange)
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				if _, err := p.race(ctx, query("example.com", dns.TypeA), []netip.AddrPort{at(1)}, false); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		cancel()
		p.wg.Wait()
		if limit := int(3 * time.Second / nextAfter); s.probes > limit {
			t.Errorf("%d probes within 3 s, want at most %d", s.probes, limit)
		}
	})
}

func TestPoolDoesNotGrowForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		s := &servers{does: map[netip.AddrPort]behaviour{at(1): silent}}
		p := newPool(ctx, slog.New(slog.DiscardHandler), s.exchange)
		p.doubt(p.want(at(1)), true)
		for i := range 5 * maxKnown {
			p.want(netip.AddrPortFrom(at(2).Addr(), uint16(i)))
		}
		if len(p.known) > maxKnown+1 {
			t.Errorf("%d servers are remembered", len(p.known))
		}
		if !p.isDead(p.want(at(1))) {
			t.Error("a dead server was forgotten while it is probed")
		}
		cancel()
		p.wg.Wait()
	})
}
