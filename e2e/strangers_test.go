package e2e

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"weft/e2e/lab"
	weftv1 "weft/proto/weft/v1"
)

// selfMade is a certificate for a host ID that nobody but its owner has signed.
func selfMade(t *testing.T, id string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "stranger"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		URIs: []*url.URL{{Scheme: "weft", Host: "host", Path: "/" + id}}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	must(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// hello is what an agent says first to another, as somebody at a node says it. A refusal of the handshake is heard when the first word of the
// other end is read (TLS 1.3), which is gRPC's server's.
func hello(ctx context.Context, from *lab.Node, to *host, conf *tls.Config) error {
	conf.InsecureSkipVerify, conf.NextProtos = true, []string{"h2"}
	raw, err := from.Dial(ctx, "tcp", to.Addr.String()+":2376")
	if err != nil {
		return err
	}
	conn := &spokenTo{Conn: tls.Client(raw, conf)}
	defer func() { _ = conn.Close() }()
	if end, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(end)
	}
	conn.first = bufio.NewReader(conn.Conn)
	if _, err := conn.first.Peek(1); err != nil {
		return err
	}
	cc, err := grpc.NewClient("passthrough:///"+to.Name, grpc.WithTransportCredentials(insecure.NewCredentials()), // within conn
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return conn, nil }))
	if err != nil {
		return err
	}
	defer func() { _ = cc.Close() }()
	_, err = weftv1.NewPeersClient(cc).Hello(ctx, &weftv1.HelloRequest{})
	return err
}

// spokenTo is a connection on which the other end has said something.
type spokenTo struct {
	net.Conn
	first *bufio.Reader
}

func (s *spokenTo) Read(p []byte) (int, error) { return s.first.Read(p) }

// Who has no certificate of the cluster's authority is told nothing by an agent, hears why, and is an event there.
func TestStrangersAtThePeerPort(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, lab.Embedded{})
	c.start()
	h1, h2 := c.hosts[0], c.hosts[1]
	own, err := tls.LoadX509KeyPair(h2.pki("host.pem"), h2.pki("host.pem"))
	must(t, err)
	for name, tc := range map[string]struct {
		conf          *tls.Config
		hears, reason string
	}{
		"none":  {&tls.Config{}, "this agent answers hosts of its cluster only: no certificate was shown", "no certificate was shown by the other end"},
		"self":  {&tls.Config{Certificates: []tls.Certificate{selfMade(t, h1.hostID(h2))}}, "bad certificate", "the certificate is of another authority than this cluster's"},
		"tls12": {&tls.Config{Certificates: []tls.Certificate{own}, MaxVersion: tls.VersionTLS12}, "protocol version not supported", "an older TLS than 1.3"},
	} {
		n, err := c.lab.AddNode(name) // of each address one refusal a minute is told
		must(t, err)
		if err := hello(within(t, patience), n, h1, tc.conf); err == nil || !strings.Contains(err.Error(), tc.hears) {
			t.Errorf("%s: it hears %v, want %q", name, err, tc.hears)
		}
		eventually(t, settle, func() error {
			for line := range strings.Lines(h1.refusals()) {
				if strings.HasPrefix(line, n.Addr.String()+":") && strings.Contains(line, tc.reason) {
					return nil
				}
			}
			return fmt.Errorf("%s: host1 tells of %q", name, h1.refusals())
		})
	}
	n, err := c.lab.AddNode("member") // the right certificate, from wherever it comes
	must(t, err)
	if err := hello(within(t, patience), n, h1, &tls.Config{Certificates: []tls.Certificate{own}}); err != nil {
		t.Error(err)
	}
}

// Given a host that runs, when it is removed from the cluster, then its certificate opens nothing any more: neither other agents, nor an embedded
// store; it says what to do, and with a new certificate it is a host like any other.
func TestAHostIsRemovedWhileItIsAlive(t *testing.T) {
	t.Parallel()
	c := up(t)
	h1, h2, h3 := c.hosts[0], c.hosts[1], c.hosts[2]
	a, b := networked(t, h1, h3)
	own, err := tls.LoadX509KeyPair(h3.pki("host.pem"), h3.pki("host.pem"))
	must(t, err)
	h2.weft("host", "rm", "--live", "host3")
	eventually(t, patience, func() error {
		if said := h3.weft("host", "ls"); !strings.Contains(said, "this host was removed from the cluster (weft host rm)") || !strings.Contains(said, "remove pki/") {
			return fmt.Errorf("host3 says %q", said)
		}
		return nil
	})
	n, err := c.lab.AddNode("removed")
	must(t, err)
	for _, h := range []*host{h1, h2} {
		if err := hello(within(t, patience), n, h, &tls.Config{Certificates: []tls.Certificate{own}}); err == nil || !strings.Contains(err.Error(), "removed") {
			t.Errorf("%s answers it: %v", h.Name, err)
		}
		eventually(t, settle, func() error {
			if told := h.refusals(); !strings.Contains(told, "was removed") {
				return fmt.Errorf("%s tells of %q", h.Name, told)
			}
			return nil
		})
	}
	if r := h3.try("exec", "host1/a", "true"); r.Code == 0 {
		t.Error("it still commands others' sandboxes")
	}

	must(t, h3.Stop(within(t, patience)))
	must(t, os.RemoveAll(h3.pki("")))
	h3.up() // with a token
	h3.awaitJoined()
	eventually(t, settle, func() error { return errors.Join(a.finds("b", b.addr("web")), a.reaches(b.addr("web"))) })
	commanded(t, h1, "b")
	commanded(t, h3, "a")
	h1.weft("store", "check")
}
