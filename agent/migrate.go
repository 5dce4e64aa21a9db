package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"weft/agent/api"
	"weft/agent/registry"
	"weft/store"
	"weft/store/open"
	"weft/store/record"
)

// Times of a move.
const (
	readySlack   = 10 * time.Second // beyond the end of sessions that were left: of hosts that died, and in the new store by an earlier attempt
	finishTime   = 30 * time.Second // in which the last write must find an answer
	followTime   = 15 * time.Second // in which the hosts are to follow
	undoTime     = 15 * time.Second
	lookEvery    = 10 * time.Millisecond
	targetAnswer = 10 * time.Second
)

// move is a call that moves the records: clients of its own of both stores, so that it does not stand on what it moves.
type move struct {
	a        *Agent
	record   record.Move
	rev      store.Rev // of the record, in the old store
	from, to store.Store
	registry *registry.Registry // over from
	tell     func(string)
}

// MigrateStore moves the cluster's records to another store. Until the last step an error, or the end of ctx, undoes everything.
func (a *Agent) MigrateStore(ctx context.Context, to string, opts map[string]string, tell func(string)) (api.Migrated, error) {
	select {
	case a.migrating <- struct{}{}:
		defer func() { <-a.migrating }()
	default:
		return api.Migrated{}, api.Refuse(api.InUse, "this agent is moving the records already")
	}
	m, err := a.newMove(to, opts, tell)
	if err != nil {
		return api.Migrated{}, err
	}
	defer m.close()
	out, err := m.run(ctx)
	if err != nil {
		return out, kindOf(fmt.Errorf("move the records to %s: %w", m.record.To, err))
	}
	return out, nil
}

func (a *Agent) newMove(to string, opts map[string]string, tell func(string)) (*move, error) {
	there := a.placeOf(to, opts)
	if strings.HasPrefix(to, embeddedScheme) {
		return nil, api.Refuse(api.Invalid, "--to %s: the records cannot be moved into an agent's embedded store; start one host with --embedded-listen, and name that as etcd://ADDRESS:PORT/weft", to)
	}
	if _, err := open.Parse(there.url, there.opts); err != nil {
		return nil, api.Refuse(api.Invalid, "--to %s: %w", there.name, err)
	}
	if doubt := a.follower.Doubt(); doubt != nil {
		return nil, api.Refuse(api.InUse, "the store is not believed, so nothing is moved out of it: %w", doubt)
	}
	m := &move{a: a, tell: tell, record: record.Move{ID: registry.NewID()[:32], To: to, Opts: opts}}
	var err error
	if m.from, err = a.openPlace(a.where()); err != nil {
		return nil, err
	}
	if m.to, err = a.openPlace(there); err != nil {
		return nil, errors.Join(err, m.from.Close())
	}
	m.registry = registry.New(registry.Config{Store: m.from, Picture: a.follower.Picture, Now: a.clock.Now})
	return m, nil
}

func (m *move) close() {
	if err := errors.Join(m.from.Close(), m.to.Close()); err != nil {
		m.a.log.Debug("close the clients of a move", "error", err)
	}
}

func (m *move) run(ctx context.Context) (api.Migrated, error) {
	as, err := m.a.member.claim(ctx)
	if err != nil {
		return api.Migrated{}, err
	}
	asking, cancel := context.WithTimeout(ctx, targetAnswer)
	defer cancel()
	st, err := m.to.Status(asking)
	if err != nil {
		return api.Migrated{}, err
	}
	if err := m.check(asking); err != nil {
		return api.Migrated{}, err
	}
	m.record.Target = st.ClusterID
	m.a.mover.own.Store(&m.record.ID)
	defer m.a.mover.own.Store(nil)
	if m.rev, err = m.registry.BeginMove(ctx, as, m.record); err != nil {
		return api.Migrated{}, err
	}
	m.record.State, m.record.By = record.MovePreparing, as.Host
	return m.carry(ctx)
}

// check makes sure that the new store is free.
func (m *move) check(ctx context.Context) error {
	p := m.a.follower.Picture()
	ours := p.Cluster()
	if ours == nil {
		return errors.New("this host has not read its cluster's record yet: try again in a moment")
	}
	return registry.CheckTarget(ctx, m.to, ours, func(id record.HostID) bool {
		_, alive := p.Alive(id)
		return alive
	})
}

// carry does what comes after the announcement.
func (m *move) carry(ctx context.Context) (api.Migrated, error) {
	out := api.Migrated{To: open.Redact(m.record.To)}
	target, hosts, err := m.prepare(ctx)
	if err != nil {
		return out, m.undo(ctx, err)
	}
	m.tell("copying the records that do not change any more")
	frozen := m.a.clock.Now()
	if m.rev, err = m.registry.AdvanceMove(ctx, m.record, m.rev, record.MoveMoving); err != nil {
		return out, m.undo(ctx, err)
	}
	if out.Keys, err = m.copyRest(ctx, target); err != nil {
		return out, m.undo(ctx, err)
	}
	if err := m.finish(ctx); err != nil {
		return out, err
	}
	out.Behind = m.awaitFollowers(ctx, hosts)
	out.Pause, out.Hosts = m.a.clock.Now().Sub(frozen), len(hosts)-len(out.Behind)
	m.a.log.Info("the cluster's records have moved", "to", out.To, "keys", out.Keys, "pause", out.Pause, "behind", out.Behind)
	return out, nil
}

// prepare waits for the hosts, and copies what there is.
func (m *move) prepare(ctx context.Context) (*registry.Target, []record.HostID, error) {
	target, err := m.registry.Aim(ctx, m.to, m.record)
	if err != nil {
		return nil, nil, err
	}
	m.tell("asking the hosts whether they can reach " + open.Redact(m.record.To))
	hosts, err := m.awaitReady(ctx)
	if err != nil {
		return nil, nil, err
	}
	m.tell(fmt.Sprintf("all %d hosts can; copying the records", len(hosts)))
	if _, err := target.Fill(ctx); err != nil {
		return nil, nil, err
	}
	return target, hosts, nil
}

// copyRest copies what has changed since, compares, and makes the new store hold the cluster.
func (m *move) copyRest(ctx context.Context, target *registry.Target) (keys int, err error) {
	if _, err := target.Fill(ctx); err != nil {
		return 0, err
	}
	same, err := target.Fill(ctx)
	if err != nil {
		return 0, err
	}
	if same.Changed > 0 {
		return 0, fmt.Errorf("the new store does not hold what was written to it: %d keys differ", same.Changed)
	}
	return same.Keys + 1, target.Complete(ctx) // and the cluster's record
}

// finish is the write that decides. From here on nothing is undone, unless it surely was not done.
func (m *move) finish(ctx context.Context) error {
	deciding, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishTime)
	defer cancel()
	_, err := m.registry.AdvanceMove(deciding, m.record, m.rev, record.MoveMoved)
	switch {
	case errors.Is(err, registry.ErrMoveEnded):
		return errors.Join(err, registry.Clear(deciding, m.to, m.record.ID))
	case err != nil:
		return fmt.Errorf("whether the old store has heard of the last step is not known: the hosts go on where it says as soon as it answers; see weft store status then, and weft store migrate --abort: %w", err)
	}
	return nil
}

// undo makes the old store what it was, and takes out of the new one what was put there.
func (m *move) undo(ctx context.Context, why error) error {
	if ctx.Err() != nil {
		why = errors.Join(errors.New("it was interrupted"), why)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
	defer cancel()
	if _, err := m.registry.AbortMove(ctx, m.record.ID); err != nil {
		return errors.Join(why, fmt.Errorf("undo: %w; run weft store migrate --abort", err))
	}
	if err := registry.Clear(ctx, m.to, m.record.ID); err != nil {
		m.a.log.Warn("what was copied to a store that the records do not move to stays there", "store", open.Redact(m.record.To), "error", err)
	}
	return why
}

// awaitReady waits until every host that is alive has said that it can follow. The error names those that cannot, or have not answered.
func (m *move) awaitReady(ctx context.Context) ([]record.HostID, error) {
	s := m.a.member.standing()
	late := m.a.clock.After(max(s.ttl, s.bound) + readySlack) // a host that has just died counts as alive until its session has ended
	for seen := false; ; {
		changed := m.a.follower.Changed()
		p := m.a.follower.Picture()
		now, _ := p.Move()
		mine := now != nil && now.ID == m.record.ID
		if !mine && (seen || now != nil) {
			return nil, registry.ErrMoveEnded
		}
		seen = mine
		hosts, silent, trouble := replies(p, m.record.ID)
		if len(silent) == 0 && len(trouble) > 0 {
			return nil, notReady(trouble)
		}
		if len(silent) == 0 && len(hosts) > 0 {
			return hosts, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-late:
			for _, h := range silent {
				trouble = append(trouble, h+": no answer; is its agent of this version?")
			}
			return nil, notReady(trouble)
		}
	}
}

func notReady(trouble []string) error {
	slices.Sort(trouble)
	return api.Refuse(api.InUse, "not all hosts can follow, so nothing was moved. The options of the new store, and the files that they name, must be right on each host:\n  %s", strings.Join(trouble, "\n  "))
}

// replies sorts the hosts that are alive by what they say to a move: all of them, the names of those who have said nothing, and troubles.
func replies(p *record.Snapshot, move string) (hosts []record.HostID, silent, trouble []string) {
	for h := range p.Hosts() {
		if _, alive := p.Alive(h.ID); !alive {
			continue
		}
		hosts = append(hosts, h.ID)
		switch r, ok := p.MoveReply(h.ID); {
		case !ok || r.Move != move:
			silent = append(silent, h.Name)
		case r.Trouble != "":
			trouble = append(trouble, h.Name+": "+r.Trouble)
		}
	}
	return hosts, silent, trouble
}

// awaitFollowers waits until the hosts have followed, and returns the names of those that have not.
func (m *move) awaitFollowers(ctx context.Context, hosts []record.HostID) []string {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), followTime)
	defer cancel()
	for {
		behind := m.behind(ctx, hosts)
		if len(behind) == 0 || ctx.Err() != nil {
			return behind
		}
		select {
		case <-m.a.clock.After(lookEvery):
		case <-ctx.Done():
		}
	}
}

// behind asks the old store which hosts have not said that they follow.
func (m *move) behind(ctx context.Context, hosts []record.HostID) []string {
	view := record.Empty()
	if l, err := m.from.List(ctx, store.Meta); err == nil {
		view = view.Apply(store.Meta, store.Batch{Rev: l.Rev, Puts: l.Entries})
	}
	var out []string
	for _, id := range hosts {
		if r, ok := view.MoveReply(id); !ok || r.Move != m.record.ID || !r.Followed {
			out = append(out, m.a.hostName(id))
		}
	}
	return out
}

// AbortMigration ends a move that has not come to its end, whoever began it.
func (a *Agent) AbortMigration(ctx context.Context) (to, warning string, err error) {
	m, err := a.registry.AbortMove(ctx, "")
	if err != nil {
		return "", "", kindOf(a.member.explain(err))
	}
	if m == nil {
		return "", "", api.Refuse(api.NotFound, "no move of the records is under way")
	}
	if m.To == "" {
		return "a store that is not known", "the record of the move could not be read: what was copied, if anything was, stays where it is", nil
	}
	there := a.placeOf(m.To, m.Opts)
	if err := a.clear(ctx, there, m.ID); err != nil {
		warning = fmt.Sprintf("what was copied to %s stays there: %v", there.name, err)
	}
	return there.name, warning, nil
}

// clear takes out of a store what a move had put there.
func (a *Agent) clear(ctx context.Context, there place, move string) error {
	ctx, cancel := context.WithTimeout(ctx, undoTime)
	defer cancel()
	s, err := a.openPlace(there)
	if err != nil {
		return err
	}
	return errors.Join(registry.Clear(ctx, s, move), s.Close())
}
