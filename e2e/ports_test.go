package e2e

import (
	"fmt"
	"net"
	"slices"
	"strings"
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
		b.caller().reached(h.at("8080"), ""), a.caller().reached(h.at("8080"), ""), o.caller().reached(h.at("8080"), ""),
	)
	// At one address only.
	c.all(own.reached("127.0.0.1:8081", ""), own.shut(h.at("8081")), outside.shut(h.at("8081")), o.caller().shut(h.at("8081")))
	c.all(own.reached(h.at("8082"), ""), outside.reached(h.at("8082"), ""), own.shut("127.0.0.1:8082"), o.caller().reached(h.at("8082"), ""))
	// Datagrams.
	c.all(own.asks("127.0.0.1:9000", soon), own.asks(h.at("9000"), soon), outside.asks(h.at("9000"), soon), b.caller().asks(h.at("9000"), soon),
		a.caller().asks(h.at("9000"), soon), o.caller().asks(h.at("9000"), soon))

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
