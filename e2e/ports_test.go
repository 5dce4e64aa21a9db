package e2e

import (
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"weft/e2e/lab"
)

// caller is a namespace from which the tests call.
type caller struct{ name, ns string }

func (h *host) caller() caller { return caller{h.Name, h.Path} }
func (b *box) caller() caller  { return caller{b.name, b.netns} }
func (c *cluster) outside() caller {
	return caller{"outside", c.lab.Outside().Path}
}

// calls connects to an address with its port and returns who the other side says this is.
func (c caller) calls(addr string, patience time.Duration) (string, error) {
	var conn net.Conn
	err := lab.Within(c.ns, func() (err error) {
		conn, err = net.DialTimeout("tcp", addr, patience)
		return err
	})
	if err != nil {
		return "", err
	}
	defer conn.Close()
	return readGreeting(conn, patience)
}

// asks sends a datagram to an address with its port and waits for its echo.
func (c caller) asks(addr string, patience time.Duration) error {
	var conn net.Conn
	err := lab.Within(c.ns, func() (err error) {
		conn, err = net.DialTimeout("udp", addr, patience)
		return err
	})
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := conn.Write([]byte("hello")); err != nil {
		return err
	}
	buf := make([]byte, 10)
	n, err := conn.Read(buf)
	if err == nil && string(buf[:n]) != "hello" {
		err = fmt.Errorf("the echo is %q", buf[:n])
	}
	return err
}

// reached is nil where a published port answers, and takes the caller for who it is ("" for whoever).
func (c caller) reached(addr, who string) error {
	got, err := c.calls(addr, soon)
	if err == nil && who != "" && got != who {
		err = fmt.Errorf("it is taken for %s, not %s", got, who)
	}
	if err != nil {
		return fmt.Errorf("%s calls %s: %w", c.name, addr, err)
	}
	return nil
}

// shut is nil where nothing answers.
func (c caller) shut(addr string) error {
	if who, err := c.calls(addr, unanswered); err == nil {
		return fmt.Errorf("%s calls %s and is answered, as %s", c.name, addr, who)
	}
	return nil
}

func (c *cluster) all(errs ...error) {
	c.t.Helper()
	for _, err := range errs {
		if err != nil {
			c.t.Error(err)
		}
	}
}

// at is an address of the host with a port.
func (h *host) at(port string) string { return net.JoinHostPort(h.Addr.String(), port) }

func TestPublishedPortsOfABridge(t *testing.T) {
	t.Parallel()
	c, h := alone(t)
	h.weft("network", "create", "web")
	h.weft("network", "create", "other")
	a := h.box("a", "web", "-p", "8080:7", "-p", "127.0.0.1:8081:7", "-p", h.at("8082")+":7", "-p", "9000:7/udp", "-p", "7", "--expose", "99").echo()
	b, o := h.box("b", "web"), h.box("o", "other")
	outside, own := c.outside(), h.caller()

	eventually(t, settle, func() error { return outside.reached(h.at("8080"), c.lab.Outside().Addr.String()) })
	c.all(
		own.reached("127.0.0.1:8080", ""), own.reached(h.at("8080"), h.Addr.String()), own.reached("[::1]:8080", ""),
		b.caller().reached(h.at("8080"), ""), a.caller().reached(h.at("8080"), ""), o.caller().reached(h.at("8080"), o.addr("other")),
		o.caller().reached(b.gateway("web")+":8080", o.addr("other")),
	)
	// At one address only.
	c.all(own.reached("127.0.0.1:8081", ""), own.shut(h.at("8081")), outside.shut(h.at("8081")), o.caller().shut(h.at("8081")))
	c.all(own.reached(h.at("8082"), ""), outside.reached(h.at("8082"), ""), own.shut("127.0.0.1:8082"), o.caller().reached(h.at("8082"), ""))
	// Datagrams.
	c.all(own.asks("127.0.0.1:9000", soon), own.asks(h.at("9000"), soon), outside.asks(h.at("9000"), soon), b.caller().asks(h.at("9000"), soon),
		a.caller().asks(h.at("9000"), soon), o.caller().asks(h.at("9000"), soon))

	// Networks are as far from each other as they were.
	c.all(o.blind(a.addr("web")))

	lines := strings.Split(h.weft("port", "a"), "\n")
	for _, want := range []string{"7/tcp -> 0.0.0.0:8080", "7/tcp -> [::]:8080", "7/tcp -> 127.0.0.1:8081", "7/tcp -> " + h.at("8082"), "7/udp -> 0.0.0.0:9000", "7/udp -> [::]:9000"} {
		if !slices.Contains(lines, want) {
			t.Errorf("weft port does not list %q: %q", want, lines)
		}
	}
	if len(lines) != 8 {
		t.Errorf("weft port lists %q", lines)
	}
	if got := h.weft("port", "a", "7/udp"); got != "0.0.0.0:9000\n[::]:9000" {
		t.Errorf("weft port a 7/udp prints %q", got)
	}
	h.refuses(1, "No public port '99' published for a", "port", "a", "99")
	if got := h.weft("ps", "--format", "{{.Ports}}", "-f", "name=a"); !strings.Contains(got, "99/tcp") || !strings.Contains(got, "0.0.0.0:8080->7/tcp") {
		t.Errorf("weft ps shows %q", got)
	}
}

// gateway is the address of a network's gateway.
func (b *box) gateway(network string) string {
	b.h.c.t.Helper()
	return b.view().NetworkSettings.Networks[network].Gateway
}

// What cannot be had is said in Docker's words, and nothing is left of it.
func TestAPortThatCannotBeHad(t *testing.T) {
	t.Parallel()
	c, h := alone(t)
	h.weft("network", "create", "web")
	h.weft("network", "create", "-o", "com.docker.network.bridge.host_binding_ipv4=203.0.113.9", "bound")
	h.box("a", "web", "-p", "8080:7").echo()
	echo(c, h.Path, "127.0.0.1") // a process of the host, at port 7
	run := func(network string, ports ...string) []string {
		args := []string{"run", "-d", "--name", "b", "--network", network}
		for _, p := range ports {
			args = append(args, "-p", p)
		}
		return append(args, "--", "sleep", forever)
	}
	h.refuses(125, "listen tcp4 0.0.0.0:8080: bind: address already in use", run("web", "8080:7")...)
	h.refuses(125, "Bind for 0.0.0.0:8080 failed: port is already allocated", run("web", "8080:7")...)
	h.refuses(125, "listen tcp4 127.0.0.1:7: bind: address already in use", run("web", "9001:7", "127.0.0.1:7:7")...)
	h.refuses(125, "listen udp4 127.0.0.1:7: bind: address already in use", run("web", "127.0.0.1:7:7/udp")...)
	h.refuses(125, "listen tcp4 203.0.113.1:80: bind: cannot assign requested address", run("web", "203.0.113.1:80:7")...)
	h.refuses(125, "listen tcp4 203.0.113.9:80: bind: cannot assign requested address", run("bound", "80:7")...)
	if got := h.weft("ps", "-a", "--format", "{{.Names}}"); got != "a" {
		t.Errorf("there are the sandboxes %q", got)
	}
	b := h.box("b", "web", "-p", "9001:7", "-p", "8080-8085:7").echo() // none of these ports was kept
	if got := h.weft("port", "b", "7"); !strings.Contains(got, "0.0.0.0:8081") {
		t.Errorf("of a range b has %q", got)
	}
	c.all(h.caller().reached("127.0.0.1:9001", ""), h.caller().reached(h.at("8081"), ""))

	// A stopped sandbox has no ports; when it starts it takes them again, or does not start.
	h.weft("stop", "-t", "0", "b")
	c.all(h.caller().shut(h.at("9001")))
	if got := h.weft("port", "b"); got != "" {
		t.Errorf("a stopped sandbox has the ports %q", got)
	}
	h.box("d", "web", "-p", "9001:7")
	h.refuses(1, "bind: address already in use", "start", "b")
	h.weft("rm", "-f", "d")
	h.weft("start", "b")
	b.netns = b.view().NetworkSettings.SandboxKey
	b.echo()
	c.all(h.caller().reached(h.at("9001"), ""), c.outside().reached(h.at("9001"), ""))
}

// Ports belong to the network of the default route, and go with it to the next when that one is left.
func TestPublishedPortsFollowTheDefaultRoute(t *testing.T) {
	t.Parallel()
	c, h := alone(t)
	for _, n := range []string{"front", "back"} {
		h.weft("network", "create", n)
	}
	h.weft("network", "create", "--internal", "inside")
	h.weft("network", "create", "-o", "com.docker.network.bridge.host_binding_ipv4=127.0.0.1", "bound")
	a := h.box("a", "front", "--network", "back", "-p", "8080:7", "-p", "9000:7/udp", "-p", "7").echo()
	c.all(c.outside().reached(h.at("8080"), ""), c.outside().asks(h.at("9000"), soon))
	free := h.weft("port", "a", "7/tcp")

	// A client that goes on asking: the kernel knows its flow to the old address.
	steady, err := c.outside().dial("udp", h.at("9000"))
	if err != nil {
		t.Fatal(err)
	}
	defer steady.Close()
	if err := echoed(steady); err != nil {
		t.Fatal(err)
	}
	h.weft("network", "disconnect", "front", "a")
	c.all(c.outside().reached(h.at("8080"), c.lab.Outside().Addr.String()), h.caller().reached("127.0.0.1:8080", ""), c.outside().asks(h.at("9000"), soon))
	eventually(t, settle, func() error { return echoed(steady) })
	if got := h.weft("port", "a", "7/tcp"); got != free {
		t.Errorf("the ports are now %q, and were %q", got, free)
	}

	h.weft("network", "disconnect", "back", "a")
	h.weft("network", "connect", "inside", "a")
	c.all(c.outside().shut(h.at("8080")), h.caller().shut("127.0.0.1:8080"))
	if got := h.weft("port", "a"); got != "" {
		t.Errorf("without a way out it has the ports %q", got)
	}
	echo(c, h.Path, "127.0.0.1") // a process of the host has port 7 there, and none of the sandbox's
	h.weft("network", "connect", "bound", "a")
	c.all(h.caller().reached("127.0.0.1:8080", ""), c.outside().shut(h.at("8080")))

	// A connect whose ports cannot be had is none.
	h.weft("network", "disconnect", "bound", "a")
	h.box("b", "front", "-p", "8080:7")
	h.refuses(1, "listen tcp4 0.0.0.0:8080: bind: address already in use", "network", "connect", "back", "a")
	if _, there := a.view().NetworkSettings.Networks["back"]; there {
		t.Error("the sandbox is in the network all the same")
	}
}

// A client that goes on sending to a port that is not published any more does not reach who has its sandbox's address next.
func TestAFlowEndsWithItsPublishedPort(t *testing.T) {
	t.Parallel()
	c, h := alone(t)
	h.weft("network", "create", "--subnet", "172.29.0.0/24", "web")
	h.box("a", "web", "--ip", "172.29.0.9", "-p", "9000:7/udp").echo()
	steady, err := c.outside().dial("udp", h.at("9000"))
	if err != nil {
		t.Fatal(err)
	}
	defer steady.Close()
	if err := echoed(steady); err != nil {
		t.Fatal(err)
	}
	h.weft("rm", "-f", "a")
	h.box("b", "web", "--ip", "172.29.0.9").echo()
	c.all(h.caller().asks("172.29.0.9:7", soon))
	if err := echoed(steady); err == nil {
		t.Error("the client of the old port reaches a sandbox that publishes nothing")
	}
}

// With a sandbox's only network without a way out, or without any, ports are not published, as with Docker.
func TestPortsThatAreNotPublished(t *testing.T) {
	t.Parallel()
	c, h := alone(t)
	h.weft("network", "create", "--internal", "inside")
	h.box("a", "inside", "-p", "8080:7").echo()
	h.box("n", "none", "-p", "8080:7")
	r := h.try("run", "-d", "--name", "host", "--network", "host", "-p", "8080:7", "--", "sleep", forever)
	if r.Code != 0 || !strings.Contains(r.Stderr, "WARNING: Published ports are discarded when using host network mode") {
		t.Errorf("exit %d: %s", r.Code, r.Stderr)
	}
	c.all(h.caller().shut("127.0.0.1:8080"), h.caller().shut(h.at("8080")))
	for name, want := range map[string]string{"a": "7/tcp", "n": "", "host": ""} {
		if got := h.weft("ps", "--format", "{{.Ports}}", "-f", "name="+name); got != want {
			t.Errorf("ps shows the ports %q of %s, want %q", got, name, want)
		}
	}
}

func (c caller) dial(network, addr string) (conn net.Conn, err error) {
	err = lab.Within(c.ns, func() (err error) {
		conn, err = net.DialTimeout(network, addr, soon)
		return err
	})
	return conn, err
}

// echoed sends a few bytes and waits for them.
func echoed(c net.Conn) error {
	_ = c.SetDeadline(time.Now().Add(soon))
	if _, err := c.Write([]byte("hello")); err != nil {
		return err
	}
	buf := make([]byte, 5)
	_, err := io.ReadFull(c, buf)
	if err == nil && string(buf) != "hello" {
		err = fmt.Errorf("the echo is %q", buf)
	}
	return err
}

// traffic goes through published ports all the time, by every way; what is lost is counted.
type traffic struct {
	stop chan struct{}
	wg   sync.WaitGroup

	mu     sync.Mutex // guards the rest
	done   int
	failed []error
}

func (f *traffic) add(what func() error) {
	f.wg.Go(func() {
		for {
			select {
			case <-f.stop:
				return
			default:
			}
			err := what()
			f.mu.Lock()
			if f.done++; err != nil {
				f.failed = append(f.failed, err)
			}
			f.mu.Unlock()
		}
	})
}

// steady keeps one connection, and uses it all the time.
func (f *traffic) steady(t *testing.T, from caller, addr string) {
	t.Helper()
	conn, err := from.dial("tcp", addr)
	if err == nil {
		_, err = readGreeting(conn, soon)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	f.add(func() error { return echoed(conn) })
}

// An agent may be killed, and another start, and nobody who uses a published port notices.
func TestPublishedPortsOutliveTheAgent(t *testing.T) {
	t.Parallel()
	c, h := alone(t)
	h.weft("network", "create", "web")
	h.box("a", "web", "-p", "8080:7", "-p", "9000:7/udp", "-p", "7").echo()
	outside, own := c.outside(), h.caller()
	listed := h.weft("port", "a")
	f := &traffic{stop: make(chan struct{})}
	f.steady(t, outside, h.at("8080"))
	f.steady(t, own, "127.0.0.1:8080")
	for _, by := range []struct {
		from caller
		addr string
	}{{outside, h.at("8080")}, {own, "127.0.0.1:8080"}, {own, h.at("8080")}} {
		f.add(func() error { return by.from.reached(by.addr, "") })
	}
	f.add(func() error { return outside.asks(h.at("9000"), soon) })
	f.add(func() error { return own.asks("127.0.0.1:9000", soon) })
	for range 3 {
		h.kill()
		before := f.count()
		eventually(t, patience, func() error { // without an agent
			if f.count() < before+50 {
				return fmt.Errorf("%d exchanges", f.count()-before)
			}
			return nil
		})
		if err := h.Do(func() error {
			l, err := net.Listen("tcp4", ":8080")
			if err == nil {
				_ = l.Close()
			}
			return err
		}); err == nil {
			t.Error("without an agent the port is free")
		}
		h.up()
		if got := h.weft("port", "a"); got != listed {
			t.Errorf("the ports are now %q, and were %q", got, listed)
		}
	}
	close(f.stop)
	f.wg.Wait()
	if len(f.failed) > 0 {
		t.Errorf("%d of %d exchanges failed, the first: %v", len(f.failed), f.done, f.failed[0])
	}
	h.refuses(125, "bind: address already in use", "run", "-d", "--network", "web", "-p", "8080:7", "--", "sleep", forever)
	h.weft("rm", "-f", "a")
	c.all(own.shut("127.0.0.1:8080"), outside.shut(h.at("8080")))
}

func (f *traffic) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.done
}

// A sandbox of an overlay is reached at its own host's addresses, from everywhere, as who calls.
func TestPublishedPortsOfAnOverlay(t *testing.T) {
	t.Parallel()
	c := up(t)
	h1, h2 := c.hosts[0], c.hosts[1]
	h1.weft("network", "create", "-d", "overlay", "web")
	h1.weft("network", "create", "-d", "overlay", "other")
	a := h1.box("a", "web", "-p", "8080:7", "-p", "127.0.0.1:8081:7", "-p", "9000:7/udp").echo()
	b := h2.box("b", "web", "--network", "other", "-p", "8080:7").echo()
	near, far, o := h1.box("near", "web"), h2.box("far", "web"), h1.box("o", "other")
	outside := c.outside()
	eventually(t, settle, func() error { return outside.reached(h1.at("8080"), c.lab.Outside().Addr.String()) })
	eventually(t, settle, func() error { return outside.reached(h2.at("8080"), c.lab.Outside().Addr.String()) })
	c.all(
		h1.caller().reached("127.0.0.1:8080", ""), h1.caller().reached(h1.at("8080"), h1.Addr.String()), h1.caller().reached("127.0.0.1:8081", ""),
		h1.caller().reached("[::1]:8080", ""), h2.caller().reached(h1.at("8080"), h2.Addr.String()), outside.shut(h1.at("8081")),
		near.caller().reached(h1.at("8080"), ""), a.caller().reached(h1.at("8080"), ""), far.caller().reached(h1.at("8080"), h2.Addr.String()),
		o.caller().reached(h1.at("8080"), o.addr("other")), o.caller().reached(h2.at("8080"), h1.Addr.String()),
		outside.asks(h1.at("9000"), soon), h1.caller().asks("127.0.0.1:9000", soon), near.caller().asks(h1.at("9000"), soon), o.caller().asks(h1.at("9000"), soon),
	)
	c.all(o.blind(a.addr("web"))) // the way in is the published port, and no other

	// Both networks of b lead out; replies take the way that the question came by, also after it has changed.
	h2.weft("network", "disconnect", "web", "b")
	c.all(outside.reached(h2.at("8080"), c.lab.Outside().Addr.String()), o.reaches(b.addr("other")))
}
