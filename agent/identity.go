package agent

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"sync/atomic"
	"time"

	"weft/agent/journal"
	"weft/agent/registry"
	"weft/identity"
	"weft/store/follow"
	"weft/store/record"
)

func (c *Config) pkiDir() string { return filepath.Join(c.StateDir, "pki") }

// pki is this host's part in its cluster's identities.
type pki struct {
	keeper    *identity.Keeper // nil: a simulation's host has no certificate
	authority *identity.Authority
	fresh     bool                            // authority was made by this agent, and nobody knows of it yet
	created   atomic.Bool                     // this agent has made the cluster's record: the authority is its to make
	pending   bool                            // --join has found nobody yet; of keepIdentity
	told      bool                            // that this host has no certificate; of keepIdentity
	turn      chan struct{}                   // size 1: held by who changes this host's certificate; guards authority and fresh
	kick      chan struct{}                   // size 1: the store can be asked for the cluster's authority
	follower  atomic.Pointer[follow.Follower] // the agent's, once there is one: the embedded store serves before
}

func newPKI() *pki { return &pki{turn: make(chan struct{}, 1), kick: make(chan struct{}, 1)} }

// given tells that the certificates come from a PKI that others keep.
func (p *pki) given() bool { return p.keeper != nil && p.keeper.Given() }

// take gets the turn.
func (p *pki) take(ctx context.Context) (release func(), err error) {
	select {
	case p.turn <- struct{}{}:
		return func() { <-p.turn }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// openIdentity finds this host's certificate, or gets one: by its own authority, or by --join, which also tells where the store is.
func (a *Agent) openIdentity(ctx context.Context, id journal.Identity) (journal.Identity, error) {
	p := a.pki
	if a.machine.keeper == nil {
		return id, a.chooseStore(id)
	}
	var err error
	if p.keeper, err = a.machine.keeper(a.cfg, a.log); err != nil {
		return id, err
	}
	a.identity, a.enrolment = p.keeper, enrolment{a: a}
	if p.keeper.Given() {
		return id, a.chooseStore(id)
	}
	if p.authority, err = identity.LoadAuthority(a.cfg.pkiDir(), a.clock.Now); err != nil && !errors.Is(err, identity.ErrNoAuthority) {
		return id, err
	}
	if a.cfg.Join != "" && p.authority == nil && p.keeper.Valid() != nil {
		if id, err = a.firstJoin(ctx, id); err != nil {
			return id, err
		}
	}
	if err := a.chooseStore(id); err != nil {
		return id, err
	}
	if p.authority == nil && a.servesStore() && p.keeper.Valid() != nil { // whoever is to reach the store needs a certificate
		if err := a.makeAuthority(); err != nil {
			return id, err
		}
	}
	if !a.servesStore() {
		return id, nil // it gets one when the store has told that its authority, if it has one, is the cluster's
	}
	return id, a.selfIssue(id.Host)
}

// chooseStore takes the store that the options name, else the one that this host was told when it joined, else the embedded one.
func (a *Agent) chooseStore(id journal.Identity) error {
	switch l := id.Learnt; {
	case a.cfg.ClusterStore != "":
		return nil
	case l == nil:
		a.cfg.ClusterStore = embeddedScheme
	case a.cfg.EmbeddedListen != "":
		return fmt.Errorf("--embedded-listen: this host has joined a cluster whose store is %s; give --cluster-store=embedded to leave that, with an empty state directory", l.URL)
	default:
		a.useLearnt(l)
	}
	return nil
}

func (a *Agent) useLearnt(l *journal.Learnt) {
	p := a.placeOf(l.URL, l.Opts)
	a.cfg.ClusterStore, a.cfg.StoreOpts, a.learnt = p.url, p.opts, true
}

// servesStore tells whether other hosts reach the embedded store.
func (a *Agent) servesStore() bool {
	if a.cfg.ClusterStore != embeddedScheme || a.cfg.EmbeddedListen == "" {
		return false
	}
	at, err := netip.ParseAddrPort(a.cfg.EmbeddedListen)
	return err == nil && !at.Addr().IsLoopback()
}

// makeAuthority makes this host the one that signs. Who holds the turn calls it.
func (a *Agent) makeAuthority() error {
	auth, err := identity.CreateAuthority(a.cfg.pkiDir(), a.clock.Now)
	if err != nil {
		return err
	}
	a.pki.authority, a.pki.fresh = auth, true
	a.log.Info("made the cluster's authority: other hosts join with a token (`weft cluster token`)", "file", filepath.Join(a.cfg.pkiDir(), "authority.pem"))
	return nil
}

// selfIssue gives this host a certificate by its own authority, where it has that and no good certificate.
func (a *Agent) selfIssue(host record.HostID) error {
	p := a.pki
	if p.authority == nil || p.keeper.Valid() == nil {
		return nil
	}
	csr, err := p.keeper.Request(string(host))
	if err != nil {
		return err
	}
	cert, trusted, err := a.sign(host, csr)
	if err != nil {
		return err
	}
	return p.keeper.Store(string(host), cert, trusted)
}

// sign makes a certificate, and tells whom its owner is to trust: this authority, and those that this host trusts.
func (a *Agent) sign(host record.HostID, csr []byte) (cert, trusted []byte, err error) {
	p := a.pki
	if cert, err = p.authority.Issue(csr, string(host), a.cfg.certLifetime()); err != nil {
		return nil, nil, err
	}
	old, err := p.keeper.Authorities()
	if err != nil {
		old = nil // none yet
	}
	return cert, joinPEM(p.authority.Certificate(), old), nil
}

func (c *Config) certLifetime() time.Duration {
	if c.CertLifetime > 0 {
		return c.CertLifetime
	}
	return identity.Lifetime
}

// joinPEM puts certificates together, each once.
func joinPEM(parts ...[]byte) []byte {
	var out []byte
	seen := map[string]bool{}
	for _, rest := range parts {
		for {
			var b *pem.Block
			if b, rest = pem.Decode(rest); b == nil {
				break
			}
			if b.Type == "CERTIFICATE" && !seen[string(b.Bytes)] {
				seen[string(b.Bytes)] = true
				out = append(out, pem.EncodeToMemory(&pem.Block{Type: b.Type, Bytes: b.Bytes})...)
			}
		}
	}
	return out
}

// settleAuthority brings this host's authority and the cluster's record of it together. With make, a cluster that has none, or whose authority's
// host was removed, gets one here.
func (a *Agent) settleAuthority(ctx context.Context, as registry.Actor, make bool) error {
	p := a.pki
	release, err := p.take(ctx)
	if err != nil {
		return err
	}
	defer release()
	if p.authority == nil {
		if !make {
			return nil
		}
		is, vacant, err := a.registry.Authority(ctx)
		if err != nil || !vacant {
			return err
		}
		if is == nil && p.keeper.Valid() == nil { // the host that has signed it has not told the store yet
			return nil
		}
		if err := a.makeAuthority(); err != nil {
			return err
		}
	}
	want := record.Authority{Certificate: string(p.authority.Certificate()), Host: as.Host}
	is, err := a.registry.EnsureAuthority(ctx, as, want)
	if err != nil {
		return err
	}
	if is.Certificate != want.Certificate {
		return a.yieldAuthority(is)
	}
	p.fresh = false
	if err := a.selfIssue(as.Host); err != nil {
		return err
	}
	a.member.lookAgain()
	return nil
}

// yieldAuthority gives up what is not the cluster's authority: another host was first, or this one's is of an older life.
func (a *Agent) yieldAuthority(is *record.Authority) error {
	p := a.pki
	where := a.hostName(is.Host)
	if !p.fresh {
		path, err := p.authority.SetAside(a.cfg.pkiDir())
		if err != nil {
			return err
		}
		p.authority = nil
		a.log.Error("the authority in this host's state directory is not the cluster's: it signs nothing any more, and its file has another name now", "file", path, "authority_of", where)
		return nil
	}
	if err := identity.RemoveAuthority(a.cfg.pkiDir()); err != nil {
		return err
	}
	p.authority, p.fresh = nil, false
	a.log.Warn("another host has made the cluster's authority at the same time: join there (`weft cluster token` on that host, weftd --join here)", "host", where)
	return nil
}

// publicKey is what this host's record says of its key.
func (a *Agent) publicKey() string {
	if a.pki.keeper == nil {
		return ""
	}
	return a.pki.keeper.Print()
}

// askAuthority wakes keepIdentity after each joining.
func (a *Agent) askAuthority() {
	select {
	case a.pki.kick <- struct{}{}:
	default:
	}
}
