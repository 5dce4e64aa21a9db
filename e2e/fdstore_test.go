package e2e

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// asking is a sandbox that asks for a name over and over, each time from a new socket, as programs do.
type asking struct {
	stop            chan struct{}
	wg              sync.WaitGroup
	answered, wrong int // read after wg
	lastWrong       error
}

// askPause is the time between two questions, and askPatience that for an answer: resolvers wait for five seconds.
const (
	askPause    = 10 * time.Millisecond
	askPatience = 5 * time.Second
)

func (b *box) keepsAsking(network, name string) *asking {
	a := &asking{stop: make(chan struct{})}
	a.wg.Go(func() {
		for {
			select {
			case <-a.stop:
				return
			case <-time.After(askPause):
			}
			if err := b.asksOnce(network, name); err != nil {
				a.wrong, a.lastWrong = a.wrong+1, err
			} else {
				a.answered++
			}
		}
	})
	return a
}

func (b *box) asksOnce(network, name string) error {
	answer, err := b.question(network, name)
	if err != nil {
		return err
	}
	return answer()
}

// question sends a question; answer waits for what comes.
func (b *box) question(network, name string) (answer func() error, err error) {
	c, err := b.dial(network, "127.0.0.11:53", askPatience)
	if err != nil {
		return nil, err
	}
	d := &dns.Conn{Conn: c}
	if err := errors.Join(d.SetDeadline(time.Now().Add(askPatience)), d.WriteMsg(new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.TypeA))); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return func() error {
		defer func() { _ = d.Close() }()
		m, err := d.ReadMsg()
		if err == nil && len(m.Answer) == 0 {
			err = fmt.Errorf("%s has no address: %s", name, dns.RcodeToString[m.Rcode])
		}
		return err
	}, nil
}

func (a *asking) end() (answered, wrong int, last error) {
	close(a.stop)
	a.wg.Wait()
	return a.answered, a.wrong, a.lastWrong
}

// Given a service manager that keeps file descriptors, when the agent is killed, stopped and started again, then every question over UDP is
// answered, and so is every one over a connection that was not yet accepted; a sandbox that ends leaves nothing behind.
func TestNamesAskedWhileTheAgentIsRestarted(t *testing.T) {
	t.Parallel()
	c := up(t)
	h1, h2 := c.hosts[0], c.hosts[1]
	if err := h2.Manage(); err != nil {
		t.Fatal(err)
	}
	if err := h2.Restart(within(t, patience)); err != nil {
		t.Fatal(err)
	}
	h2.awaitJoined()
	h1.weft("network", "create", "-d", "overlay", "web")
	a, b := h1.box("a", "web"), h2.box("b", "web")
	eventually(t, settle, func() error { return b.finds("a", a.addr("web")) })
	other := h2.box("other", "web")

	udp := b.keepsAsking("udp4", "a")
	for i := range 6 {
		if i%2 == 0 {
			h2.kill()
		} else if err := h2.Stop(within(t, patience)); err != nil {
			t.Fatal(err)
		}
		answer, err := b.question("tcp4", "a")
		if err != nil {
			t.Fatal(err)
		}
		h2.up()
		if err := answer(); err != nil {
			t.Errorf("a connection that was made while no agent was there: %v", err)
		}
		if err := b.asksOnce("udp4", "a"); err != nil { // nobody waits through two agents' starts
			t.Errorf("a question after the agent's start: %v", err)
		}
	}
	if answered, wrong, last := udp.end(); wrong > 0 || answered < 6 {
		t.Errorf("%d questions were answered, %d were not: %v", answered, wrong, last)
	}
	if kept := h2.Kept(); len(kept) != 2 || !all(kept, 2) {
		t.Errorf("kept for two sandboxes: %v", kept)
	}

	h2.weft("rm", "-f", other.name)
	eventually(t, settle, func() error { return keeps(h2, 1) })
	process := lookProcess(t, h2, b)
	h2.kill()
	must(t, process.Kill())
	h2.up()
	eventually(t, settle, func() error { return keeps(h2, 0) })
}

func all(of map[string]int, want int) bool {
	for _, n := range of {
		if n != want {
			return false
		}
	}
	return true
}

func keeps(h *host, want int) error {
	if kept := h.Kept(); len(kept) != want {
		return fmt.Errorf("for %d sandboxes sockets are kept: %v", want, kept)
	}
	return nil
}

// Without one, a question that is asked while no agent is there is refused at once, and names are answered again after its start.
func TestNamesWithoutAServiceManager(t *testing.T) {
	t.Parallel()
	c := up(t)
	h := c.hosts[0]
	h.weft("network", "create", "-d", "overlay", "web")
	b := h.box("b", "web")
	h.kill()
	var refused *net.OpError
	if err := b.asksOnce("udp4", "b"); !errors.As(err, &refused) {
		t.Errorf("with no agent a question got %v, want that it is refused", err)
	}
	h.up()
	eventually(t, settle, func() error { return b.asksOnce("udp4", "b") })
}
