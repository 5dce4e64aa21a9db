package agent

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"weft/agent/about"
	"weft/agent/api"
	"weft/agent/journal"
	"weft/agent/registry"
	"weft/store"
	"weft/store/record"
)

// member is this host's membership in its cluster: it joins as soon as the store answers, keeps its record and its session, and
// tells whoever wants to claim something whether that is possible now.
type member struct {
	memberConfig
	instance string        // of this agent process
	writing  chan struct{} // size 1: held by who changes the identity, in memory and on disk
	look     chan struct{} // size 1: this host's record may not be in the store any more

	mu      sync.Mutex // guards what follows
	id      journal.Identity
	actor   *registry.Actor  // nil: not joined
	why     error            // why not
	host    record.Host      // as registered last
	notes   []string         // what this host has to say of itself
	since   time.Time        // when it joined last, or when it has been out of its cluster
	granted [2]time.Duration // TTL and bound of the last session
	changed chan struct{}    // closed and replaced when actor or why change
}

type memberConfig struct {
	log      *slog.Logger
	clock    Clock
	store    store.Store
	registry *registry.Registry
	journal  *journal.Journal
	name     func() string // of the store, for errors
	ttl      time.Duration
	every    time.Duration  // between renewals
	settings record.Cluster // what to make the cluster with if there is none
	facts    func(context.Context) (record.Host, error)
	picture  func() *record.Snapshot
	doubt    func() error                // why the store is not believed; nil: it always is
	rejoined func(context.Context)       // after each joining: what the store must hear now
	cleared  func(context.Context) error // this host was cleared: what is not its own any more goes, before it begins its next incarnation
	follow   func(context.Context) error // to where the records have moved
	fatal    func(error)                 // this agent must not go on
	created  func()                      // this host has made the cluster's record
}

// Times of the membership.
const (
	callTimeout   = 4 * time.Second  // of a claim: an answer, whatever it is, comes within five seconds also on a busy machine
	joinPatience  = 3 * time.Second  // how long a claim waits for a join under way
	refreshEvery  = 30 * time.Second // how often the host's record is compared with its routes and underlay
	firstJoinWait = 100 * time.Millisecond
	lastJoinWait  = 5 * time.Second
)

func newMember(cfg memberConfig, id journal.Identity) *member {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return &member{
		memberConfig: cfg, instance: hex.EncodeToString(b[:]), id: id, changed: make(chan struct{}), since: cfg.clock.Now(),
		writing: make(chan struct{}, 1), look: make(chan struct{}, 1),
	}
}

// claim returns who may change the store in this host's name, once it has joined; else, within joinPatience, why it cannot.
func (m *member) claim(ctx context.Context) (registry.Actor, error) {
	ctx, cancel := context.WithTimeout(ctx, joinPatience)
	defer cancel()
	for {
		m.mu.Lock()
		actor, why, changed := m.actor, m.why, m.changed
		m.mu.Unlock()
		if m.doubt != nil {
			if err := m.doubt(); err != nil {
				return registry.Actor{}, m.unreachable(fmt.Errorf("%w: %w", errLost, err))
			}
		}
		if actor != nil {
			return *actor, nil
		}
		if why != nil {
			return registry.Actor{}, m.unreachable(why)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return registry.Actor{}, m.unreachable(errors.New("it has not answered yet"))
		}
	}
}

// unreachable is the refusal of a claim, in the words that users look for.
func (m *member) unreachable(why error) error {
	if errors.Is(why, store.ErrRefused) || errors.Is(why, errLost) {
		return fmt.Errorf("%w: %s; networks and sandboxes that exist go on", errNoStore, m.reason(why))
	}
	return fmt.Errorf("%w: cluster store %s is not reachable (%v): networks and sandboxes that exist go on; what claims something new needs the store, try again when it is back", errNoStore, m.name(), oneLine(why))
}

// oneLine is an error's text without what it says twice. Joined errors have a line each, and a user is to read one sentence.
func oneLine(err error) string {
	var out []string
	for l := range strings.Lines(err.Error()) {
		l = strings.TrimSpace(l)
		if !slices.ContainsFunc(out, func(o string) bool { return strings.Contains(o, l) }) {
			out = append(out, l)
		}
	}
	return strings.Join(out, "; ")
}

// errLost says that the store does not hold the records of this host's cluster as they were seen.
var errLost = errors.New("it is not believed")

// errNoStore makes the API answer "unavailable".
var errNoStore = fmt.Errorf("not now: %w", store.ErrUnreachable)

// explain puts the store's name into an error of a claim that failed on the way.
func (m *member) explain(err error) error {
	if errors.Is(err, store.ErrUnreachable) || errors.Is(err, store.ErrUnknown) || errors.Is(err, store.ErrRefused) || errors.Is(err, context.DeadlineExceeded) {
		if errors.Is(err, errNoStore) {
			return err
		}
		return m.unreachable(err)
	}
	return err
}

func (m *member) identity() journal.Identity {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.id
}

// self is this host's record as registered last; its ID alone before that.
func (m *member) self() record.Host {
	m.mu.Lock()
	defer m.mu.Unlock()
	h := m.host
	h.ID, h.Incarnation = m.id.Host, m.id.Incarnation
	return h
}

func (m *member) say() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := slices.Clone(m.notes)
	if m.actor == nil && m.why != nil {
		out = append(out, m.reason(m.why))
	}
	return out
}

func (m *member) set(actor *registry.Actor, why error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if (actor == nil) != (m.actor == nil) {
		m.since = m.clock.Now()
	}
	m.actor, m.why = actor, why
	close(m.changed)
	m.changed = make(chan struct{})
}

// run joins, keeps the membership, and joins again when the session was lost, until ctx ends. The session is left to a successor.
func (m *member) run(ctx context.Context) {
	wait := firstJoinWait
	for ctx.Err() == nil {
		session, err := m.join(ctx)
		if err != nil {
			if end := m.ends(ctx, err); end != nil {
				m.set(nil, end)
				m.fatal(end)
				return
			}
			if ctx.Err() == nil {
				m.log.Warn("cannot join the cluster yet", "store", m.name(), "error", err, "again_in", wait)
			}
			if registry.KindOf(err) == registry.Cleared { // while it joined: it has its store, and looks next what it has lost
				err = nil
			}
			m.set(nil, err)
			select {
			case <-m.clock.After(wait):
			case <-m.look: // what kept it may be over
			case <-ctx.Done():
			}
			wait = min(2*wait, lastJoinWait)
			continue
		}
		wait = firstJoinWait
		m.stay(ctx, session)
		session.Leave()
		if ctx.Err() == nil {
			m.log.Warn("the session with the store has ended; joining again")
			m.set(nil, nil)
		}
	}
}

// ends tells, with the reason, that what kept this host from joining ends its agent; nil: it tries again.
func (m *member) ends(ctx context.Context, why error) error {
	if m.hopeless(ctx, why) {
		return errors.New(m.reason(why))
	}
	if k := registry.KindOf(why); k != 0 && k != registry.Cleared {
		return why
	}
	return nil
}

// join does all that a host needs to do before it may claim something.
func (m *member) join(ctx context.Context) (store.Session, error) {
	ctx, cancel := context.WithTimeout(ctx, max(m.ttl, m.identity().Bound)+15*time.Second)
	defer cancel()
	first, stop := context.WithTimeout(ctx, callTimeout)
	defer stop()
	if _, err := m.store.Status(first); err != nil {
		return nil, err
	}
	if err := m.follow(first); err != nil {
		return nil, err
	}
	if err := m.joinCluster(first); err != nil {
		return nil, err
	}
	host, err := m.facts(ctx)
	if err != nil {
		return nil, err
	}
	id, err := m.unfenced(ctx)
	if err != nil {
		return nil, err
	}
	host.ID, host.Incarnation, host.Version, host.Started = id.Host, id.Incarnation, about.Version, m.clock.Now().UTC()
	session, err := m.openSession(ctx, id, host.VTEP)
	if err != nil {
		return nil, err
	}
	_, warnings, err := m.registry.RegisterHost(ctx, host)
	if err != nil {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		return nil, errors.Join(err, session.Close(closing))
	}
	for _, w := range warnings {
		m.log.Warn(w)
	}
	m.mu.Lock()
	m.host, m.notes = host, warnings
	m.mu.Unlock()
	m.set(&registry.Actor{Host: id.Host, Incarnation: id.Incarnation, Session: session}, nil)
	m.tellTTL(session)
	m.log.Info("joined the cluster", "cluster", m.identity().Cluster, "host", id.Host, "name", host.Name, "vtep", host.VTEP.String())
	m.rejoined(ctx)
	return session, nil
}

// unfenced returns this host's identity in an incarnation that may write: a fence at or above it says that the host was cleared from the
// cluster meanwhile.
func (m *member) unfenced(ctx context.Context) (journal.Identity, error) {
	id := m.identity()
	f, err := m.registry.Fence(ctx, id.Host)
	if err != nil || f == nil || f.Incarnation < id.Incarnation {
		return id, err
	}
	m.log.Warn("this host was cleared from the cluster while it was away; it begins a new incarnation", "was", id.Incarnation, "fence", f.Incarnation, "by", f.By)
	if err := m.cleared(ctx); err != nil {
		return id, err
	}
	id.Incarnation = f.Incarnation + 1
	return id, m.setIdentity(ctx, func(now *journal.Identity) { now.Incarnation = id.Incarnation })
}

// joinCluster makes sure that the store holds this host's cluster, and remembers it the first time.
func (m *member) joinCluster(ctx context.Context) error {
	if m.identity().Cluster != "" { // never make a new cluster in a store that lost ours
		return m.holdsCluster(ctx)
	}
	want := m.settings
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	want.ID, want.Created = hex.EncodeToString(b[:]), m.clock.Now().UTC()
	c, err := m.registry.EnsureCluster(ctx, want)
	if err != nil {
		return err
	}
	if c.ID == want.ID {
		m.created()
	}
	return m.setIdentity(ctx, func(now *journal.Identity) { now.Cluster, now.Store = c.ID, m.name() })
}

// holdsCluster asks the store itself whether it still has the cluster of this host.
func (m *member) holdsCluster(ctx context.Context) error {
	id := m.identity()
	e, err := m.store.Get(ctx, record.ClusterKey())
	if errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("%w: it has lost the record of cluster %s, to which this host belongs: it was emptied, or its prefix is another one's", errLost, id.Cluster)
	}
	if err != nil {
		return err
	}
	var c record.Cluster
	if err := record.Decode(e.Value, &c); err != nil {
		return fmt.Errorf("%s: %w", e.Key, err)
	}
	if c.ID != id.Cluster {
		return fmt.Errorf("%w: it holds cluster %s, and this host belongs to %s: give --cluster-store the right address, or empty the state directory", errLost, c.ID, id.Cluster)
	}
	return nil
}

// setIdentity changes who this host is, on its disk first.
func (m *member) setIdentity(ctx context.Context, change func(*journal.Identity)) error {
	select {
	case m.writing <- struct{}{}:
		defer func() { <-m.writing }()
	case <-ctx.Done():
		return ctx.Err()
	}
	id := m.identity()
	change(&id)
	if err := m.journal.SetIdentity(ctx, id); err != nil {
		return err
	}
	m.mu.Lock()
	m.id = id
	m.mu.Unlock()
	return nil
}

// openSession takes the session of this agent's predecessor over where that was this very machine: a copy of the state directory (a cloned
// machine) has another VTEP, and must meet the session as a stranger's.
func (m *member) openSession(ctx context.Context, id journal.Identity, vtep netip.Addr) (store.Session, error) {
	life := m.life(id, vtep)
	if id.VTEP == vtep.String() {
		life.Resume = id.Session
	}
	s, err := m.registry.OpenLiveness(ctx, life)
	if err != nil {
		return nil, err
	}
	if err := m.setIdentity(ctx, func(now *journal.Identity) {
		now.Session, now.Bound, now.VTEP = s.ID(), s.Bound(), vtep.String()
	}); err != nil {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		return nil, errors.Join(err, s.Close(closing))
	}
	return s, nil
}

// life is what this agent tells of itself with a session.
func (m *member) life(id journal.Identity, vtep netip.Addr) registry.Life {
	return registry.Life{
		Liveness: record.Liveness{Host: id.Host, Incarnation: id.Incarnation, Instance: m.instance},
		VTEP:     vtep, TTL: m.ttl, Every: m.every, Bound: id.Bound,
	}
}

// stay returns when the session may have ended, or ctx has. Meanwhile it keeps the host's record true.
func (m *member) stay(ctx context.Context, s store.Session) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.Done():
			return
		case <-m.look:
			if id := m.identity(); fenced(m.picture(), id.Host, id.Incarnation) || m.unsigned(ctx) { // removed while it is alive
				return
			}
			m.refresh(ctx)
		case <-m.clock.After(refreshEvery):
			m.refresh(ctx)
		}
	}
}

func (m *member) refresh(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	now, err := m.facts(ctx)
	if err != nil {
		m.log.Warn("cannot read this host's routes", "error", err)
		return
	}
	old := m.self()
	if now.MTU == old.MTU && slices.Equal(now.Routes, old.Routes) && now.PublicKey == old.PublicKey && m.listed(old) {
		return
	}
	old.MTU, old.Routes, old.PublicKey = now.MTU, now.Routes, now.PublicKey
	_, warnings, err := m.registry.RegisterHost(ctx, old)
	if err != nil {
		m.log.Warn("cannot publish this host's routes", "error", err)
		return
	}
	for _, w := range warnings {
		m.log.Warn(w)
	}
	m.mu.Lock()
	m.host, m.notes = old, append(m.notes, warnings...)
	m.mu.Unlock()
}

// kindOf turns the registry's refusals into the API's.
func kindOf(err error) error {
	kinds := map[registry.Kind]api.Kind{
		registry.Invalid: api.Invalid, registry.Unsupported: api.Unsupported, registry.NotFound: api.NotFound, registry.Exists: api.Exists,
		registry.InUse: api.InUse, registry.Lost: api.InUse, registry.Cleared: api.InUse,
	}
	if k, ok := kinds[registry.KindOf(err)]; ok {
		return &api.Refusal{Kind: k, Err: err}
	}
	return err
}

// joined tells whether this host may change the store now.
func (m *member) joined() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.actor != nil
}
