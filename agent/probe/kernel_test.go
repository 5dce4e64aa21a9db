package probe

import (
	"errors"
	"fmt"
	"testing"
	"time"
)

func underlays(t *testing.T, f func(t *testing.T, six bool)) {
	for _, six := range []bool{false, true} {
		t.Run(map[bool]string{false: "IPv4", true: "IPv6"}[six], func(t *testing.T) {
			t.Parallel()
			f(t, six)
		})
	}
}

func TestHostsAnswerEachOtherThroughTheTunnel(t *testing.T) {
	t.Parallel()
	underlays(t, func(t *testing.T, six bool) {
		w := newWorld(t, six)
		w.probe()
		for _, h := range w.hosts {
			h.until(t, Answers, 5*time.Second)
			for range 200 { // until the large one has come back
				if h.prober.Path(string(h.far.id)).MTU == w.n.MTU {
					break
				}
				time.Sleep(10 * time.Millisecond)
			}
			if p := h.prober.Path(string(h.far.id)); p.MTU != w.n.MTU || p.RTT <= 0 || p.RTT > time.Second || p.Heard.IsZero() {
				t.Errorf("%s: %+v", h.id, p)
			}
			got, err := h.prober.Sizes(t.Context(), string(h.far.id))
			if want := (Sizes{MTU: w.n.MTU, Out: w.n.MTU, Back: true}); err != nil || got != want {
				t.Errorf("%s: sizes %+v, %v; want %+v", h.id, got, err, want)
			}
			sums, err := h.prober.Checksums(t.Context(), string(h.far.id))
			if want := (Checksums{Sent: 4, Good: 4}); err != nil || sums != want {
				t.Errorf("%s: checksums %+v, %v; want %+v", h.id, sums, err, want)
			}
			err = Reaches(t.Context(), Through{Way: w.way(h), MAC: string(h.prober.pairs[string(h.far.id)].MAC), From: h.ep.Addrs[0], Gateway: w.n.Pools[0].Gateway}, time.Second)
			if err != nil {
				t.Errorf("%s: the other kernel: %v", h.id, err)
			}
		}
	})
}

func TestAFilteredPortIsKnownWithinTenSeconds(t *testing.T) {
	t.Parallel()
	for name, drop := range map[string]func(*world) []*host{
		"one way":   func(w *world) []*host { return w.hosts[1:] },
		"both ways": func(w *world) []*host { return w.hosts[:] },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, false)
			w.probe()
			for _, h := range w.hosts {
				h.until(t, Answers, 5*time.Second)
			}
			for _, h := range drop(w) {
				run(t, h.NS, "nft", "add table inet others; add chain inet others in { type filter hook input priority -10; }; add rule inet others in udp dport 4789 drop")
			}
			cut := time.Now()
			for _, h := range w.hosts {
				h.until(t, Silent, 10*time.Second)
				t.Logf("%s knew after %s", h.id, time.Since(cut).Round(10*time.Millisecond))
			}
			if name == "one way" { // what host1 sends comes to host0, and not the other way round
				time.Sleep(6 * time.Second)
				if p := w.hosts[0].prober.Path("host1"); time.Since(p.Heard) > 6*time.Second {
					t.Errorf("host0 hears what host1 sends, and knows of %s ago", time.Since(p.Heard))
				}
				if p := w.hosts[1].prober.Path("host0"); time.Since(p.Heard) < 5*time.Second {
					t.Errorf("host1 heard host0 %s ago, who is filtered", time.Since(p.Heard))
				}
			}
			for _, h := range drop(w) {
				run(t, h.NS, "nft", "delete table inet others")
			}
			for _, h := range w.hosts {
				h.until(t, Answers, 10*time.Second)
			}
		})
	}
}

// A switch that drops what is too large says nothing to anyone: the underlay's links take 1500 bytes at the hosts and fewer between them.
func TestABlackHoleIsFoundWithTheSizeThatPasses(t *testing.T) {
	t.Parallel()
	underlays(t, func(t *testing.T, six bool) {
		w := newWorld(t, six)
		overhead := map[bool]int{false: 50 - 14, true: 70 - 14}[six] // outer headers in an IP packet, but for the inner Ethernet header
		h := w.hosts[0]
		run(t, w.hosts[1].NS, "nft", "add table netdev others; add chain netdev others in { type filter hook ingress device eth0 priority 0; }; add rule netdev others in meta length > 1300 drop")
		w.probe()
		h.until(t, BlackHole, 10*time.Second)
		got, err := h.prober.Sizes(t.Context(), "host1")
		if want := 1300 - overhead - 14; err != nil || got.Out > want || got.Out < want-sizeStep-14 || got.Back {
			t.Errorf("sizes %+v, %v; want about %d", got, err, want)
		}
		back, err := w.hosts[1].prober.Sizes(t.Context(), "host0")
		if err != nil || back.Out != w.n.MTU || back.Back {
			t.Errorf("the other way large packets pass, and their answers do not: %+v, %v", back, err)
		}
		run(t, w.hosts[1].NS, "nft", "delete table netdev others")
		h.until(t, Answers, 30*time.Second)
	})
}

// What hardware would corrupt, a rule does: it changes the packets' content on the way without touching their checksum.
func TestChecksumsThatAreCorruptedAreFound(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	w.probe()
	h := w.hosts[0]
	h.until(t, Answers, 5*time.Second)
	n := newNonce()
	for _, bad := range []bool{false, true} {
		f := sumFrame([]byte{2, 0, 0, 0, 0, 1}, []byte{2, 0, 0, 0, 0, 2}, n, idOf("host0"), 100)
		ip := f[ethSize:]
		ip[26], ip[27] = byte(^sum(pseudo(ip), ip[ipSize+udpSize:])>>8), 0
		_ = bad
	}
	if _, err := h.prober.exchange(t.Context(), "host9", message{kind: echo}, time.Second); !errors.Is(err, errNoWay) {
		t.Errorf("a host that is none: %v", err)
	}
	fmt.Println("TODO")
}
