package e2e

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weft/e2e/lab"
	"weft/identity"
)

// token asks a host for a token.
func (h *host) token(options ...string) string {
	h.c.t.Helper()
	return h.weft(append([]string{"cluster", "token"}, options...)...)
}

// joining are the options with which a host joins another one.
func joining(at, token string) []string { return []string{"--join", at, "--token", token} }

func (h *host) pki(file string) string { return filepath.Join(h.StateDir, "pki", file) }

// hostID is what `weft host ls` says of a host.
func (h *host) hostID(of *host) string {
	h.c.t.Helper()
	for line := range strings.Lines(h.weft("host", "ls", "--no-trunc", "--format", "{{.Name}} {{.ID}}")) {
		if name, id, _ := strings.Cut(strings.TrimSpace(line), " "); name == of.Name {
			return id
		}
	}
	h.c.t.Fatalf("%s lists no host %s", h.Name, of.Name)
	return ""
}

// certificate is the host's own, from its disk.
func (h *host) certificate() *x509.Certificate {
	h.c.t.Helper()
	b, err := os.ReadFile(h.pki("host.pem"))
	must(h.c.t, err)
	block, _ := pem.Decode(b)
	if block == nil {
		h.c.t.Fatalf("%s holds no certificate", h.pki("host.pem"))
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	must(h.c.t, err)
	return cert
}

// refusals are the reasons with which a host has refused others, a line each.
func (h *host) refusals() string {
	h.c.t.Helper()
	return h.weft("events", "--since", "1h", "--until", "0s", "-f", "type=host", "-f", "event=refuse",
		"--format", "{{.Actor.Attributes.from}} {{.Actor.Attributes.name}} {{.Actor.Attributes.reason}}")
}

// networked is what a user sees of hosts that belong together: sandboxes find and reach each other, and are commanded from either host.
func networked(t *testing.T, h1, h2 *host) (a, b *box) {
	t.Helper()
	h1.weft("network", "create", "-d", "overlay", "web")
	a, b = h1.box("a", "web").echo(), h2.box("b", "web").echo()
	eventually(t, settle, func() error {
		return errors.Join(a.finds("b", b.addr("web")), b.finds("a", a.addr("web")), a.reaches(b.addr("web")), b.reaches(a.addr("web")))
	})
	commanded(t, h1, "b")
	commanded(t, h2, "a")
	return a, b
}

// commanded waits until a host can command another one's sandbox.
func commanded(t *testing.T, h *host, box string) {
	t.Helper()
	eventually(t, patience, func() error {
		if r := h.try("exec", box, "true"); r.Code != 0 {
			return errors.New(r.Stderr)
		}
		return nil
	})
}

// Given a first host, when another one is started with a token of it and nothing else, then it gets a certificate for its host ID, learns the
// store, and takes part; and from then on it needs neither the token nor the option.
func TestAHostJoinsByToken(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, lab.Embedded{})
	h1, h2 := c.hosts[0], c.hosts[1]
	h1.up()
	h1.awaitJoined()
	file := filepath.Join(t.TempDir(), "token")
	must(t, os.WriteFile(file, []byte(h1.token("--ttl", "1h")+"\n"), 0o600))
	h2.NoJoin, h2.Args = true, joining(h1.Addr.String(), "@"+file)
	h2.up()
	h2.awaitJoined()
	named, err := identity.NamedBy(h2.certificate())
	if id := h1.hostID(h2); err != nil || named.ID != id {
		t.Errorf("its certificate is for %q, %v; want %s", named.ID, err, id)
	}
	a, b := networked(t, h1, h2)

	must(t, os.Remove(file))
	for _, options := range [][]string{nil, joining("192.0.2.99", "@"+file)} {
		h2.Args = options
		must(t, h2.Restart(within(t, patience)))
		h2.awaitJoined()
		eventually(t, settle, func() error { return errors.Join(a.finds("b", b.addr("web")), a.reaches(b.addr("web"))) })
		commanded(t, h1, "b")
	}
	if refused := h1.refusals() + h2.refusals(); refused != "" {
		t.Errorf("somebody was refused: %s", refused)
	}
}

// Given a host that has joined the store while nobody could give it a certificate, when the authority's host comes, then it gets one, and the others know it
// at once: should its session end now, they can ask it.
func TestACertificateThatComesLater(t *testing.T) {
	t.Parallel()
	c, s := newClusterWithStore(t, 2)
	s.start()
	h1, h2 := c.hosts[0], c.hosts[1]
	h2.up()
	h2.awaitJoined()
	h1.up()
	h1.awaitJoined()
	eventually(t, patience, func() error {
		if _, err := os.Stat(h2.pki("host.pem")); err != nil {
			return err
		}
		return nil
	})
	eventually(t, settle, func() error {
		if got := h1.weft("host", "inspect", "-f", "{{.Certificate}}", "host2"); !strings.Contains(got, "good from") {
			return fmt.Errorf("of the certificate of host2, host1 shows %q", got)
		}
		return nil
	})
}

// refusedEntry runs an agent that is to join, and must end by itself with an error of one line that has the words. No secret is in it.
func (h *host) refusedEntry(options []string, words ...string) {
	h.c.t.Helper()
	r, err := h.Run(within(h.c.t, patience), options...)
	must(h.c.t, err)
	lines := strings.Split(strings.TrimSpace(r.Stderr), "\n")
	last := lines[len(lines)-1]
	for _, w := range append(words, "weftd: --") {
		if r.Code != 1 || !strings.Contains(last, w) {
			h.c.t.Errorf("weftd %q on %s: exit %d, and said last %q; want exit 1 and %q", options, h.Name, r.Code, last, w)
		}
	}
	for _, o := range options {
		if strings.HasPrefix(o, "weft1.") && strings.Contains(r.Stderr, o) {
			h.c.t.Errorf("it shows the token: %s", r.Stderr)
		}
	}
}

// greeter answers whoever connects with a word that is no TLS, and returns its address.
func (c *cluster) greeter(word string) string {
	c.t.Helper()
	n, err := c.lab.AddNode("greeter")
	must(c.t, err)
	l, err := n.Listen("tcp", net.JoinHostPort(n.Addr.String(), "22"))
	must(c.t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, word)
			_ = conn.Close()
		}
	}()
	c.t.Cleanup(func() { must(c.t, l.Close()); <-done })
	return l.Addr().String()
}

// A host that cannot join ends by itself and says what is wrong and what to do; nothing of it is left in the cluster, and the right token lets it in.
func TestTokensThatDoNotLetIn(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3, lab.Embedded{})
	h1, h2, h3 := c.hosts[0], c.hosts[1], c.hosts[2]
	for _, h := range []*host{h1, h2} {
		h.up()
		h.awaitJoined()
	}
	h3.NoJoin = true
	at, good := h1.Addr.String(), h1.token()
	foreign, err := identity.CreateAuthority(t.TempDir(), time.Now)
	must(t, err)
	foreignToken, err := foreign.Token(time.Hour)
	must(t, err)
	for _, tc := range []struct{ options, words []string }{
		{joining(at, good[:len(good)-1]), []string{"--token: ", "not all of it", "weft cluster token"}},
		{joining(at, "@/no/such/file"), []string{"--token: ", "/no/such/file"}},
		{joining(at, h1.token("--ttl", "1ms")), []string{"--join " + at, "the token has expired, on ", "make a new one with `weft cluster token`"}},
		{joining(at, foreignToken.Secret()), []string{"--join " + at, "not of the cluster that the token is for", "make the token on the host to join at"}},
		{joining(h2.Addr.String(), good), []string{"host host1 (" + at + ":2376) has the cluster's authority, and not this one: join there"}},
		{joining(c.greeter("SSH-2.0-greeter\r\n"), good), []string{"what answers there is no weftd", "--cluster-advertise"}},
		{[]string{"--join", at}, []string{"--join and --token go together", "weft cluster token"}},
		{joining("http://"+at, good), []string{"--join http://" + at, "HOST[:PORT]"}},
	} {
		h3.refusedEntry(tc.options, tc.words...)
	}
	if _, err := os.Stat(h3.pki("host.pem")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it has a certificate: %v", err)
	}
	if out := h1.weft("host", "ls", "-q"); len(strings.Fields(out)) != 2 {
		t.Errorf("the hosts are %s, want two", out)
	}
	eventually(t, settle, func() error {
		if told := h1.refusals(); !strings.Contains(told, "host3 the token has expired") {
			return fmt.Errorf("host1 tells of %q", told)
		}
		return nil
	})

	// A host ID is its owner's: who has lost its certificate is told how to come back.
	must(t, h2.Stop(within(t, patience)))
	must(t, os.RemoveAll(h2.pki("")))
	h2.refusedEntry(nil, "host ID "+h1.hostID(h2)[:12]+" is that of host host2, which has another key", "weft host rm host2")

	h3.Args = joining(at, good)
	h3.up()
	h3.awaitJoined()
}
