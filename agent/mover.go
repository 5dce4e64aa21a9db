package agent

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"weft/agent/journal"
	"weft/agent/registry"
	"weft/store"
	"weft/store/record"
)

// mover is how this host takes part in a move of the cluster's records: it finds out whether it can follow and says so, holds a session in the
// new store before anybody uses it, and goes there when the old store says that the records have moved. An agent that was away finds the same
// word in the old store when it joins. A move whose mover has died is undone by whoever sees that.
type mover struct {
	a    *Agent
	turn chan struct{}          // size 1: held by who takes a step; guards what follows
	at   *foothold              // in the new store, nil where no move is under way
	done string                 // ID of the last move that this host has followed
	own  atomic.Pointer[string] // ID of the move that a call of this agent makes
}

// foothold is what a host has in the new store before it goes there.
type foothold struct {
	move    string
	place   place
	s       store.Store
	session store.Session // nil where this host is no member
	trouble error
	replied bool
}

const (
	moveRetry    = 200 * time.Millisecond
	reachTimeout = 5 * time.Second
)

func newMover(a *Agent) *mover { return &mover{a: a, turn: make(chan struct{}, 1)} }

func (m *mover) owns(id string) bool {
	own := m.own.Load()
	return own != nil && *own == id
}

// run follows what the picture says of moves, until ctx ends.
func (m *mover) run(ctx context.Context) {
	defer func() {
		m.turn <- struct{}{} // whoever takes a step ends with ctx
		m.drop(context.WithoutCancel(ctx))
		<-m.turn
	}()
	for {
		changed := m.a.follower.Changed()
		move, _ := m.a.follower.Picture().Move()
		again, err := m.step(ctx, move)
		if err != nil && ctx.Err() == nil {
			m.a.log.Warn("cannot follow a move of the cluster's records yet; trying again", "error", err)
		}
		var retry <-chan time.Time
		if again || err != nil {
			retry = m.a.clock.After(moveRetry)
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-retry:
		}
	}
}

// catchUp follows a move that has come to its end, before this host joins; it fails as long as the records are on their way.
func (m *mover) catchUp(ctx context.Context) error {
	move, _, err := m.a.registry.Move(ctx)
	switch {
	case err != nil:
		return err
	case move == nil || move.State == record.MovePreparing || move.State == record.MoveRestoring:
		return nil
	case move.State == record.MoveMoving && !m.orphaned(move):
		return fmt.Errorf("the cluster's records are being moved to %s", move.To)
	}
	_, err = m.step(ctx, move)
	return err
}

// step does what the state of a move asks of this host. again: something is still to be done though nothing may change in the picture.
func (m *mover) step(ctx context.Context, move *record.Move) (again bool, err error) {
	select {
	case m.turn <- struct{}{}:
		defer func() { <-m.turn }()
	case <-ctx.Done():
		return false, ctx.Err()
	}
	switch {
	case move == nil || move.State == record.MoveRestoring || move.ID == m.done:
		m.drop(ctx)
		return false, nil
	case move.State == record.MoveMoved:
		return false, m.follow(ctx, move)
	case m.orphaned(move):
		m.a.log.Warn("undoing a move of the cluster's records whose agent has ended", "to", move.To, "host", record.ShortID(move.By))
		_, err := m.a.registry.AbortMove(ctx, move.ID)
		return true, err
	case !m.a.member.joined():
		return true, nil
	}
	return true, m.prepare(ctx, move)
}

// orphaned tells a move that nobody makes any more: an earlier life of this agent began it, or a host that is not alive. This host need not have
// joined: where it is the only one left, its joining waits for the end of the move.
func (m *mover) orphaned(move *record.Move) bool {
	self := m.a.member.identity().Host
	if move.By == self {
		return !m.owns(move.ID)
	}
	_, alive := m.a.follower.Picture().Alive(move.By)
	return !alive && m.a.follower.Synced(store.Alive)
}

// prepare gets a foothold in the new store, and says whether it has one.
func (m *mover) prepare(ctx context.Context, move *record.Move) error {
	if m.at == nil || m.at.move != move.ID {
		m.drop(ctx)
		at := &foothold{move: move.ID, place: m.a.placeOf(move.To, move.Opts)}
		at.trouble = m.reach(ctx, at, move)
		m.at = at
	}
	if m.at.replied || move.State != record.MovePreparing {
		return nil
	}
	reply := record.MoveReply{Host: m.a.member.identity().Host, Move: move.ID}
	if m.at.trouble != nil {
		reply.Trouble = m.at.trouble.Error()
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := m.a.registry.ReplyToMove(ctx, reply); err != nil {
		return err
	}
	m.at.replied = true
	return nil
}

// reach opens the new store, makes sure that it is the one that is meant, and opens this host's session there.
func (m *mover) reach(ctx context.Context, at *foothold, move *record.Move) error {
	s, err := m.a.openPlace(at.place)
	if err != nil {
		return err
	}
	at.s = s
	asking, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	st, err := s.Status(asking)
	if err != nil {
		return err
	}
	if move.Target != "" && st.ClusterID != move.Target {
		return fmt.Errorf("%s is another store here than on the host that moves the records (%s, and not %s)", at.place.name, st.ClusterID, move.Target)
	}
	return m.enter(ctx, at)
}

// enter opens this host's session in the new store, where it is a member.
func (m *mover) enter(ctx context.Context, at *foothold) error {
	if !m.a.member.joined() {
		return nil
	}
	id := m.a.member.identity()
	life := m.a.member.life(id, m.a.member.self().VTEP)
	life.Resume = id.Next // where an earlier life, or an earlier move, has left one
	there := registry.New(registry.Config{Store: at.s, Picture: record.Empty, Now: m.a.clock.Now})
	session, err := there.OpenLiveness(ctx, life)
	if err != nil {
		return fmt.Errorf("open a session in %s: %w", at.place.name, err)
	}
	at.session = session
	return m.a.member.setIdentity(ctx, func(now *journal.Identity) {
		now.Next, now.Bound = session.ID(), max(now.Bound, session.Bound())
	})
}

// drop gives a foothold up.
func (m *mover) drop(ctx context.Context) {
	at := m.at
	if m.at = nil; at == nil || at.s == nil {
		return
	}
	var err error
	if at.session != nil {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		err = at.session.Close(ctx)
	}
	if err = errors.Join(err, at.s.Close()); err != nil {
		m.a.log.Debug("a store that the records did not move to", "store", at.place.name, "error", err)
	}
}

// follow goes to where the records have moved.
func (m *mover) follow(ctx context.Context, move *record.Move) error {
	at := m.at
	if at == nil || at.move != move.ID || at.trouble != nil {
		m.drop(ctx)
		at = &foothold{move: move.ID, place: m.a.placeOf(move.To, move.Opts)}
		m.at = at
		if err := m.reach(ctx, at, move); err != nil {
			m.drop(ctx)
			return err
		}
	}
	if err := m.verify(ctx, at.s, move); err != nil {
		m.drop(ctx)
		return err
	}
	if at.session != nil && isOver(at.session) { // the new store was away meanwhile
		at.session.Leave()
		at.session = nil
	}
	if at.session == nil {
		if err := m.enter(ctx, at); err != nil {
			return err
		}
	}
	if err := m.remember(ctx, at, move); err != nil {
		return err
	}
	return m.cross(ctx, at, move)
}

func isOver(s store.Session) bool {
	select {
	case <-s.Done():
		return true
	default:
		return false
	}
}

// verify makes sure that the new store has the cluster that was moved there, and not what it was before records that this host has seen: a
// store that was restored from a backup may say where they went long ago.
func (m *mover) verify(ctx context.Context, s store.Store, move *record.Move) error {
	ctx, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	e, err := s.Get(ctx, record.ClusterKey())
	if err != nil {
		return fmt.Errorf("the records have moved to %s: %w", move.To, err)
	}
	c := &record.Cluster{}
	if err := c.Decode(e.Value); err != nil {
		return fmt.Errorf("the records have moved to %s: %w", move.To, err)
	}
	if mine := m.a.member.identity().Cluster; mine != "" && c.ID != mine {
		return fmt.Errorf("the records are said to have moved to %s, and that holds cluster %s, not %s", move.To, c.ID, mine)
	}
	if known := m.a.follower.Picture().Cluster(); known != nil && known.ID == c.ID && known.Succeeds(c) {
		return fmt.Errorf("the records are said to have moved to %s, and what that holds is older than what this host has seen", move.To)
	}
	return nil
}

// remember writes to this host's disk where the records are: the next life goes there at once. The session there that an earlier life has left
// is the one to take over, where this one has not opened another yet.
func (m *mover) remember(ctx context.Context, at *foothold, move *record.Move) error {
	return m.a.member.setIdentity(ctx, func(id *journal.Identity) {
		switch {
		case at.session != nil:
			id.Next, id.Session = id.Session, at.session.ID()
		case id.Store != at.place.name:
			id.Next, id.Session = id.Session, id.Next
		}
		id.Store = at.place.name
		if m.a.learnt {
			id.Learnt, id.Moved = &journal.Learnt{URL: move.To, Opts: move.Opts}, nil
			return
		}
		id.Moved = &journal.Moved{From: m.a.cfg.storeName(), FromPath: m.a.cfg.storePath(), URL: move.To, Opts: move.Opts}
		if m.a.isConfigured(at.place) {
			id.Moved = nil
		}
	})
}

// cross is the switch itself.
func (m *mover) cross(ctx context.Context, at *foothold, move *record.Move) error {
	saying, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := m.a.registry.ReplyToMove(saying, record.MoveReply{Host: m.a.member.identity().Host, Move: move.ID, Followed: true}); err != nil {
		m.a.log.Debug("the old store does not hear that this host has left it", "error", err)
	}
	var sessions []store.Session
	if at.session != nil {
		sessions = append(sessions, at.session)
	}
	old, err := m.a.relay.Switch(ctx, at.s, sessions...)
	if old == nil {
		return err
	}
	m.at, m.done = nil, move.ID
	from := m.a.storeName()
	m.a.placed.Store(&at.place)
	m.a.log.Info("followed the cluster's records to another store", "from", from, "to", at.place.name)
	return errors.Join(err, old.Close())
}
