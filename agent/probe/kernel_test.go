package probe

import (
	"encoding/binary"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"weft/kernel"
	"weft/kernel/netnstest"
	"weft/overlay"
	"weft/port"
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
			for range 500 { // until the large one has come back, and the other host has asked
				if p := h.prober.Path(string(h.far.id)); p.MTU == w.n.MTU && !p.Heard.IsZero() {
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
			err = h.prober.Reaches(t.Context(), Through{Way: w.way(h), MAC: string(h.prober.pairs[string(h.far.id)].MAC), From: h.ep.Addrs[0], Gateway: w.n.Pools[0].Gateway}, time.Second)
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
				if p := w.hosts[0].prober.Path("host1"); time.Since(p.Heard) > every+spread+time.Second {
					t.Errorf("host0 hears what host1 sends, and knows of %s ago", time.Since(p.Heard))
				}
				if p := w.hosts[1].prober.Path("host0"); p.Heard.After(cut.Add(100 * time.Millisecond)) {
					t.Errorf("host1 heard host0, who is filtered, %s after", p.Heard.Sub(cut))
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

// What hardware that corrupts would send: a packet whose content is not what its checksum was computed of.
func TestAPacketThatArrivesCorruptedIsReported(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	w.probe()
	h := w.hosts[0]
	h.until(t, Answers, 5*time.Second)
	if _, err := h.prober.exchange(t.Context(), "host1", message{kind: listen}, time.Second); err != nil {
		t.Fatal(err)
	}
	from, _ := net.ParseMAC(overlay.TunnelMAC(w.n.ID, "host0"))
	to, _ := net.ParseMAC(overlay.TunnelMAC(w.n.ID, "host1"))
	for name, spoil := range map[string]func(udp []byte){"right": func([]byte) {}, "content": func(b []byte) { b[99] ^= 0x10 }, "sum": func(b []byte) { b[6] ^= 1 }} {
		n := newNonce()
		got, done := h.prober.await("host1", n, 1)
		f := sumFrame(from, to, n, idOf("host0"), 100)
		ip := f[ethSize:]
		udp := ip[ipSize:]
		binary.BigEndian.PutUint16(udp[6:], 0)
		binary.BigEndian.PutUint16(udp[6:], ^sum(pseudo(ip), udp))
		spoil(udp)
		h.prober.mu.Lock()
		e := h.prober.ears[w.way(h)]
		h.prober.mu.Unlock()
		if err := e.socket.send(f); err != nil {
			t.Fatal(err)
		}
		want := uint8(sumWrong)
		if name == "right" {
			want = sumGood
		}
		select {
		case m := <-got:
			if m.kind != checked || m.result != want {
				t.Errorf("%s: %+v, want result %d", name, m, want)
			}
		case <-time.After(time.Second):
			t.Errorf("%s: no answer", name)
		}
		done()
	}
	if _, err := h.prober.exchange(t.Context(), "host9", message{kind: echo}, time.Second); !errors.Is(err, ErrNoWay) {
		t.Errorf("a host that is none: %v", err)
	}
}

// A sandbox neither sees probes, nor can it make any: not at its own host, not at another, not with anyone's hardware address.
func TestSandboxesHaveNoPartInProbes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	w.probe()
	h, far := w.hosts[0], w.hosts[1]
	h.until(t, Answers, 5*time.Second)
	var box *packetSocket
	netnstest.In(t, far.box, func() (err error) {
		box, err = dialPacket(Way{Tunnel: "eth0"}, "eth0", EtherType)
		return err
	})
	var seen atomic.Int32
	box.done.Go(func() { box.read(func([]byte) { seen.Add(1) }) })
	defer box.close()

	n := newNonce()
	got, done := h.prober.await("host1", n, 1)
	defer done()
	forged := message{kind: answer, nonce: n, vni: w.n.VNI, size: headSize, from: idOf("host1"), to: idOf("host0")}
	own, _ := net.ParseMAC(string(far.ep.MAC))
	ends := map[string]net.HardwareAddr{"broadcast": {255, 255, 255, 255, 255, 255}}
	for name, mac := range map[string]string{
		"its host's end": overlay.TunnelMAC(w.n.ID, "host1"), "the other's end": overlay.TunnelMAC(w.n.ID, "host0"),
		"the bridge": port.MAC("bridge", string(w.n.ID)), "a sandbox there": string(h.ep.MAC),
	} {
		ends[name], _ = net.ParseMAC(mac)
	}
	for _, to := range ends {
		for _, from := range []net.HardwareAddr{own, ends["its host's end"]} {
			if err := box.send(forged.frame(from, to)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := h.prober.Sizes(t.Context(), "host1"); err != nil {
		t.Error(err)
	}
	select {
	case m := <-got:
		t.Errorf("a sandbox's frame arrived: %+v", m)
	case <-time.After(300 * time.Millisecond):
	}
	if n := seen.Load(); n > 0 {
		t.Errorf("a sandbox saw %d probes", n)
	}
	far.prober.mu.Lock()
	e := far.prober.ears[w.way(far)]
	far.prober.mu.Unlock()
	to := ends["the other's end"]
	if err := e.send(forged, to); err != nil { // the same from where probes come from
		t.Fatal(err)
	}
	select {
	case <-got:
	case <-time.After(time.Second):
		t.Error("the frame that was forged would not have been taken from its host either")
	}
}

// A network that leaves a host must not be kept alive by the socket in it.
func TestANamespaceThatGoesIsLetGoOf(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	w.probe()
	h := w.hosts[0]
	h.until(t, Answers, 5*time.Second)
	w.change(h, kernel.State{}, w.want(h)) // as the agent takes a network down
	h.prober.Look()
	for began := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		h.prober.mu.Lock()
		n := len(h.prober.ears)
		h.prober.mu.Unlock()
		if n == 0 {
			break
		}
		if time.Since(began) > 5*time.Second {
			t.Fatal("its socket is still open")
		}
	}
	w.apply(h) // it comes again, at the same place
	h.prober.Look()
	h.until(t, Answers, 10*time.Second)
}

// Somebody deletes the tunnel, and the agent makes it again: probes take the new one.
func TestATunnelThatIsMadeAgainIsProbed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	w.probe()
	for _, h := range w.hosts {
		h.until(t, Answers, 5*time.Second)
	}
	h := w.hosts[1]
	run(t, overlay.NetnsPath(h.set, w.n.ID), "ip", "link", "delete", "vx0")
	run(t, overlay.NetnsPath(h.set, w.n.ID), "ip", "link", "add", "other0", "type", "bridge") // takes the next index
	have := w.want(h)
	for k := range have {
		if k.Link == "vx0" {
			delete(have, k)
		}
	}
	w.change(h, w.want(h), have)
	for _, h := range w.hosts { // either asks and answers, again and again
		for range 2 {
			begun := time.Now()
			for p := h.prober.Path(string(h.far.id)); !p.Answered.After(begun); p = h.prober.Path(string(h.far.id)) {
				if time.Since(begun) > 15*time.Second {
					t.Fatalf("%s asks and is not answered: %+v", h.id, p)
				}
				time.Sleep(10 * time.Millisecond)
			}
		}
	}
}
