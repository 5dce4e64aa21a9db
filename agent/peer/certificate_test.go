package peer_test

import (
	"crypto/tls"
	"errors"
	"net"
	"strings"
	"testing"

	"weft/agent/peer"
	"weft/identity"
)

// A host is shown another one's certificate as it is now, also where the connection to it is older; of a stranger it is shown none.
func TestTheCertificateThatAHostShows(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	a, b := c.join("a"), c.join("b")
	h, _ := b.serve(listen(t, "127.0.0.1:0"), &agent{id: "b"})
	asks := a.clients()
	if _, err := asks.FindSandbox(t.Context(), h, "web"); err != nil {
		t.Fatal(err)
	}
	csr, err := b.Request("b")
	if err != nil {
		t.Fatal(err)
	}
	cert, err := c.authority.Issue(csr, "b", identity.Lifetime)
	if err == nil {
		err = b.Store("b", cert, c.authority.Certificate())
	}
	if err != nil {
		t.Fatal(err)
	}
	want, err := b.Current()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := asks.Certificate(t.Context(), h); err != nil || !got.Equal(want.Leaf) {
		t.Errorf("got %v, %v", got, err)
	}
	if n := len(c.reasons()); n > 0 {
		t.Errorf("somebody was refused: %v", c.reasons())
	}
	h.ID = "d"
	if _, err := asks.Certificate(t.Context(), h); !errors.Is(err, peer.ErrStranger) {
		t.Errorf("of another host: %v", err)
	}
}

func TestWhoSpeaksAnOlderTLSIsToldOf(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	a, b := c.join("a"), c.join("b")
	h, _ := b.serve(listen(t, "127.0.0.1:0"), &agent{id: "b"})
	conf := a.ClientTLS(identity.Host{})
	conf.MinVersion, conf.MaxVersion = 0, tls.VersionTLS12
	raw, err := net.Dial("tcp", h.Advertise)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = raw.Close() }()
	if err := tls.Client(raw, conf).HandshakeContext(t.Context()); err == nil || !strings.Contains(err.Error(), "protocol version") {
		t.Errorf("it hears %v", err)
	}
	if told := strings.Join(c.reasons(), "; "); told != "it speaks an older TLS than 1.3" {
		t.Errorf("told: %s", told)
	}
}
