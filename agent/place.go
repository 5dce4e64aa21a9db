package agent

import (
	"context"
	"crypto/tls"
	"fmt"
	"maps"
	"strings"

	"weft/agent/journal"
	"weft/identity"
	"weft/store"
	"weft/store/embedded"
	"weft/store/open"
	"weft/store/relay"
)

// place is where the cluster's records are, as this host reaches it.
type place struct {
	name     string // as it may be shown
	url      string
	opts     map[string]string
	embedded bool
	cert     *tls.Config // this host's certificate, where it has one, for kv.certificate=host
}

// embeddedPrefix is that of the keys in the embedded store.
const embeddedPrefix = "weft"

// where returns the place that this host uses now.
func (a *Agent) where() place { return *a.placed.Load() }

func (a *Agent) storeName() string { return a.where().name }

// openPlace returns a client of a place; it does not wait for it to answer.
func (a *Agent) openPlace(p place) (store.Store, error) {
	if k := a.pki.keeper; k != nil {
		if _, err := k.Current(); err == nil {
			p.cert = k.ClientTLS(identity.Host{}) // whichever host has the store
		}
	}
	return a.machine.store(p, a.log)
}

// placeOf is where a move leads to, with this host's own timing of sessions.
func (a *Agent) placeOf(to string, opts map[string]string) place {
	p := place{name: open.Redact(to), url: to, opts: map[string]string{}}
	for k, v := range a.cfg.StoreOpts {
		if strings.HasPrefix(k, "discovery.") {
			p.opts[k] = v
		}
	}
	maps.Copy(p.opts, opts)
	return p
}

// hasLeft tells whether the options name the store that a move has left.
func (a *Agent) hasLeft(m *journal.Moved) bool {
	return m.From == a.cfg.storeName() && m.FromPath == a.cfg.storePath()
}

// configured is the store that this host's options name; "" where none does, or where it is that one that is used.
func (a *Agent) configured() string {
	if name := a.cfg.storeName(); !a.learnt && name != a.storeName() {
		return name
	}
	return ""
}

// isConfigured tells the place that the options name. The timing of sessions is this host's own wherever the records are.
func (a *Agent) isConfigured(p place) bool {
	timing := func(k, _ string) bool { return strings.HasPrefix(k, "discovery.") }
	mine, theirs := maps.Clone(a.cfg.StoreOpts), maps.Clone(p.opts)
	maps.DeleteFunc(mine, timing)
	maps.DeleteFunc(theirs, timing)
	return p.name == a.cfg.storeName() && maps.Equal(mine, theirs)
}

// storePath is the prefix that an option gives, "" where it is the URL's.
func (c *Config) storePath() string { return strings.Trim(c.StoreOpts["kv.path"], "/") }

// openStore opens the cluster's store, which need not be up yet; the embedded one is started, also where the records have left it: others may
// still look there for where they went.
func (a *Agent) openStore(ctx context.Context, id journal.Identity) (closeAll func(), err error) {
	p := place{name: a.cfg.storeName(), url: a.cfg.ClusterStore, opts: a.cfg.StoreOpts, embedded: a.cfg.ClusterStore == embeddedScheme}
	stop := func() {}
	if p.embedded {
		srv, err := a.startEmbedded(ctx)
		if err != nil {
			return nil, err
		}
		p.url, stop = "etcd://"+srv.Endpoint()+"/"+embeddedPrefix, srv.Close
	}
	if m := id.Moved; m != nil && a.hasLeft(m) {
		a.log.Warn("the cluster's records have moved: change --cluster-store, and --cluster-store-opt, of this host", "from", m.From, "to", open.Redact(m.URL))
		p = a.placeOf(m.URL, m.Opts)
	}
	s, err := a.openPlace(p)
	if err != nil {
		stop()
		return nil, err
	}
	a.relay = relay.New(s)
	a.store = a.relay
	a.placed.Store(&p)
	return func() {
		_ = a.store.Close()
		stop()
	}, nil
}

// forgetMove drops what an earlier life remembered of a move, where the options name another store by now. Where none names one, the store that
// this host has learnt is the one that the records have moved to: earlier versions remembered both.
func (a *Agent) forgetMove(ctx context.Context, id journal.Identity) (journal.Identity, error) {
	left := id.Moved != nil && a.hasLeft(id.Moved)
	switch {
	case id.Moved == nil || left && !a.learnt:
		return id, nil
	case left:
		id.Learnt = &journal.Learnt{URL: id.Moved.URL, Opts: id.Moved.Opts}
		a.useLearnt(id.Learnt)
	}
	id.Moved = nil
	return id, a.journal.SetIdentity(ctx, id)
}

func (a *Agent) startEmbedded(ctx context.Context) (*embedded.Server, error) {
	cfg := embedded.Config{Dir: a.cfg.etcdDir(), Listen: "127.0.0.1:0", Log: a.log}
	switch {
	case a.servesStore():
		f := a.pki.keeper.Files()
		cfg.Others = &embedded.Others{Listen: a.cfg.EmbeddedListen, CAFile: f.CA, CertFile: f.Cert, KeyFile: f.Key, Admit: a.admitToStore}
	case a.cfg.EmbeddedListen != "":
		cfg.Listen = a.cfg.EmbeddedListen
	}
	srv, err := embedded.Start(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("start the embedded store: %w", err)
	}
	return srv, nil
}
