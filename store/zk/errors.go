package zk

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/go-zookeeper/zk"

	"weft/store"
)

// errNotSent is that of a call whose time was over before the library had it.
var errNotSent = errors.New("no time left to ask")

// readError is that of a call which may be repeated: whatever it was, nothing changed.
func (s *Store) readError(l *link, what string, err error) error {
	switch {
	case s.ctx.Err() != nil:
		return store.ErrClosed
	case errors.Is(err, context.Canceled):
		return err
	case refused(err):
		s.askPassword(l)
		return fmt.Errorf("zk: %s: %w: %w", what, store.ErrRefused, err)
	}
	return fmt.Errorf("zk: %s: %w (%w)", what, store.ErrUnreachable, err)
}

// writeError sorts the errors of a transaction: refused by the server, surely not applied, or of unknown outcome. In doubt it is unknown.
func (s *Store) writeError(l *link, err error) error {
	var op *refusedOp
	switch {
	case s.ctx.Err() != nil:
		return fmt.Errorf("zk: %w, %w", store.ErrClosed, store.ErrUnknown)
	case refused(err):
		s.askPassword(l)
		return fmt.Errorf("zk: %w: %w", store.ErrRefused, err)
	case errors.As(err, &op), notSent(err):
		return fmt.Errorf("zk: %w (%w)", store.ErrUnreachable, err)
	}
	return fmt.Errorf("zk: %w (%w)", store.ErrUnknown, err)
}

// refused tells what the server, or we ourselves, would refuse again: no right to a node, no password, no certificate.
func refused(err error) bool {
	if errors.Is(err, zk.ErrNoAuth) || errors.Is(err, zk.ErrAuthFailed) || errors.Is(err, zk.ErrInvalidACL) || errors.Is(err, errNoPassword) || errors.Is(err, errSpeaksTLS) || errors.Is(err, store.ErrRefused) {
		return true
	}
	// TLS alerts have no type of their own: the server's are errors of this operation.
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error"
}

// notSent tells calls that never got to a server, or that it answered with the end of the session.
func notSent(err error) bool {
	return errors.Is(err, errNotSent) || errors.Is(err, zk.ErrNoServer) || errors.Is(err, zk.ErrSessionExpired) || errors.Is(err, zk.ErrSessionMoved)
}

var errNoPassword = errors.New("no password")

// password asks for the newest one. What it returns must be in no error and no log.
func (s *Store) password() (string, error) {
	if s.cfg.Password == nil {
		return "", nil
	}
	p, err := s.cfg.Password()
	if err != nil {
		return "", fmt.Errorf("%w: %w", errNoPassword, err)
	}
	return p, nil
}

// askPassword ends a connection that was refused something if there is another password by now.
func (s *Store) askPassword(l *link) {
	if l == nil || s.cfg.User == "" {
		return
	}
	if p, err := s.password(); err == nil && p != l.secret {
		l.fail()
	}
}
