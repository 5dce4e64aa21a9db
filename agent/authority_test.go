package agent

import (
	"bytes"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"weft/agent/journal"
	"weft/agent/registry"
	"weft/identity"
	weftv1 "weft/proto/weft/v1"
	"weft/store/record"
)

// signer is a host of a cluster in memory, with what it needs to bring its authority and the cluster's together.
type signer struct {
	*traveller
	log bytes.Buffer
	as  registry.Actor
}

func newSigner(t *testing.T) *signer {
	t.Helper()
	s := &signer{traveller: travel(t, journal.Identity{Host: "h", Incarnation: 1, Cluster: "c"})}
	s.Agent.log = slog.New(slog.NewTextHandler(&s.log, nil))
	s.pki, s.cfg.StateDir = newPKI(), t.TempDir()
	k, err := identity.Open(s.cfg.pkiDir(), time.Now, s.Agent.log)
	if err != nil {
		t.Fatal(err)
	}
	s.pki.keeper = k
	if _, _, err := s.registry.RegisterHost(t.Context(), record.Host{ID: "h", Name: "h", VTEP: netip.MustParseAddr("192.0.2.1"), Incarnation: 1}); err != nil {
		t.Fatal(err)
	}
	session, err := s.registry.OpenLiveness(t.Context(), registry.Life{Liveness: record.Liveness{Host: "h", Incarnation: 1, Instance: "i"}, VTEP: netip.MustParseAddr("192.0.2.1"), TTL: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(session.Leave)
	s.as = registry.Actor{Host: "h", Incarnation: 1, Session: session}
	return s
}

// starts is what a life of the agent does with its authority.
func (s *signer) starts(t *testing.T) {
	t.Helper()
	var err error
	if s.pki.authority, err = identity.LoadAuthority(s.cfg.pkiDir(), time.Now); err != nil && !errors.Is(err, identity.ErrNoAuthority) {
		t.Fatal(err)
	}
	s.pki.fresh = false
	if err := s.settleAuthority(t.Context(), s.as, false); err != nil {
		t.Fatal(err)
	}
}

// Given an authority on the disk of a host whose cluster has another one, then the file says by its name that it is not used, and the log does once.
func TestAnAuthorityThatIsNotTheClusters(t *testing.T) {
	s := newSigner(t)
	write(t, s.from, record.HostKey("other"), &record.Host{ID: "other", Name: "other", VTEP: netip.MustParseAddr("192.0.2.2"), Incarnation: 1})
	write(t, s.from, record.AuthorityKey(), &record.Authority{Certificate: "another", Host: "other"})
	if _, err := identity.CreateAuthority(s.cfg.pkiDir(), time.Now); err != nil {
		t.Fatal(err)
	}
	s.starts(t)
	s.starts(t)
	if s.pki.authority != nil {
		t.Error("it signs")
	}
	found, err := filepath.Glob(filepath.Join(s.cfg.pkiDir(), "*"))
	if err != nil || len(found) != 1 || !strings.HasPrefix(filepath.Base(found[0]), "unused-authority-") {
		t.Fatalf("the directory has %v, %v", found, err)
	}
	if said := strings.Count(s.log.String(), "not the cluster's"); said != 1 {
		t.Errorf("it says so %d times: %s", said, s.log.String())
	}

	// Where it is the cluster's after all (its host was removed), the same file counts again.
	if err := os.Rename(found[0], filepath.Join(s.cfg.pkiDir(), "authority.pem")); err != nil {
		t.Fatal(err)
	}
	write(t, s.from, record.AuthorityKey(), &record.Authority{Certificate: "another", Host: "gone"})
	s.starts(t)
	is, _, err := s.registry.Authority(t.Context())
	if err != nil || s.pki.authority == nil || is.Certificate != string(s.pki.authority.Certificate()) || is.Host != "h" {
		t.Errorf("the cluster has %+v, %v", is, err)
	}
}

// A host without a certificate says so, and how to get one, once in a life, however often it joins.
func TestAHostWithoutACertificateSaysSoOnce(t *testing.T) {
	s := newSigner(t)
	s.member.set(&s.as, nil)
	for range 3 {
		s.settleAfterJoining(t.Context())
	}
	if said := strings.Count(s.log.String(), "this host has no certificate"); said != 1 {
		t.Errorf("it says so %d times: %s", said, s.log.String())
	}
}

// A key that went with a host's removal gets no certificate, whatever token comes with it; with a new key the host is let in.
func TestNoCertificateIsSignedForAKeyThatWasRevoked(t *testing.T) {
	s := newSigner(t)
	auth, err := identity.CreateAuthority(s.cfg.pkiDir(), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	s.pki.authority = auth
	token, err := auth.Token(time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	request := func() *weftv1.JoinRequest {
		k, err := identity.Open(t.TempDir(), time.Now, s.Agent.log)
		if err != nil {
			t.Fatal(err)
		}
		csr, err := k.Request("h2")
		if err != nil {
			t.Fatal(err)
		}
		return &weftv1.JoinRequest{Token: token.Secret(), Csr: csr, HostId: "h2", Name: "h2"}
	}
	old := request()
	if _, _, err := s.admit(t.Context(), old); err != nil {
		t.Errorf("before its removal: %v", err)
	}
	print, err := identity.RequestPrint(old.Csr, "h2")
	if err != nil {
		t.Fatal(err)
	}
	write(t, s.from, record.FenceKey("h2"), &record.Fence{Host: "h2", Incarnation: 1, Revoked: print})
	for c := s.follower.Changed(); !s.follower.Picture().Revoked(print); c = s.follower.Changed() {
		select {
		case <-c:
		case <-t.Context().Done():
			t.Fatal("the picture does not change")
		}
	}
	if _, code, err := s.admit(t.Context(), old); code != codes.PermissionDenied || err == nil || !strings.Contains(err.Error(), "remove pki/") {
		t.Errorf("after its removal: %s, %v", code, err)
	}
	if _, _, err := s.admit(t.Context(), request()); err != nil {
		t.Errorf("with a new key: %v", err)
	}
}
