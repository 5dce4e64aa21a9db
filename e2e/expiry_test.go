package e2e

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weft/e2e/lab"
	"weft/identity"
)

// certified gives a host, whose agent does not run, another certificate for the key that it has: signed by the first host's authority at a time, and good
// for a while.
func (h *host) certified(at time.Time, lifetime time.Duration) {
	t := h.c.t
	t.Helper()
	auth, err := identity.LoadAuthority(filepath.Dir(h.c.hosts[0].pki("authority.pem")), func() time.Time { return at })
	must(t, err)
	k, err := identity.Open(filepath.Dir(h.pki("host.pem")), func() time.Time { return at }, slog.New(slog.DiscardHandler))
	must(t, err)
	named, err := identity.NamedBy(h.certificate())
	must(t, err)
	csr, err := k.Request(named.ID)
	must(t, err)
	cert, err := auth.Issue(csr, named.ID, lifetime)
	must(t, err)
	must(t, k.Store(named.ID, cert, auth.Certificate()))
}

// Given a host whose certificate is about to end, then it has the next one before that, by the old one and without a token or a restart, and nobody
// notices when the old one ends. One that has expired while its agent was away is refused, the host says what to do, and a token helps.
func TestACertificateIsRenewedInTime(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, lab.Embedded{})
	c.start()
	h1, h2 := c.hosts[0], c.hosts[1]
	a, b := networked(t, h1, h2)
	const lifetime = 15 * time.Second
	must(t, h2.Stop(within(t, patience)))
	h2.certified(time.Now(), lifetime)
	old := h2.certificate()
	h2.NoJoin = true
	h2.up()
	h2.awaitJoined()
	eventually(t, 2*lifetime, func() error {
		if now := h2.certificate(); !now.NotAfter.After(old.NotAfter.Add(24 * time.Hour)) {
			return fmt.Errorf("its certificate ends on %s", now.NotAfter)
		}
		return nil
	})
	if !time.Now().Before(old.NotAfter) {
		t.Error("it was renewed when the old one had ended")
	}
	eventually(t, lifetime, func() error {
		must(t, errors.Join(a.finds("b", b.addr("web")), a.reaches(b.addr("web"))))
		h1.weft("exec", "b", "true")
		if !time.Now().After(old.NotAfter) {
			return errors.New("the old one is still good")
		}
		return nil
	})
	h2.weft("network", "create", "-d", "overlay", "later") // the store takes it too

	must(t, h2.Stop(within(t, patience)))
	h2.certified(time.Now().Add(-30*time.Minute), time.Minute)
	h2.up()
	eventually(t, settle, func() error {
		if told := h1.refusals(); !strings.Contains(told, "the certificate has expired (host "+h1.hostID(h2)[:12]) {
			return fmt.Errorf("host1 tells of %q", told)
		}
		return nil
	})
	for _, said := range []string{h2.weft("host", "ls"), h2.weft("host", "inspect", "-f", "{{.Certificate}}"), h2.Log(1000)} {
		if !strings.Contains(said, "certificate has expired") || !strings.Contains(said, "weftd --join") {
			t.Errorf("host2 says %q", said)
		}
	}
	must(t, h2.Stop(within(t, patience)))
	h2.NoJoin = false // with a token
	h2.up()
	h2.awaitJoined()
	commanded(t, h1, "b")
}
