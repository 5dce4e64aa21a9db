package consul

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"weft/store"
)

// statusError is an answer of Consul that is neither a result nor "not found" nor a conflict.
type statusError struct {
	code int
	text string
}

func (e *statusError) Error() string { return fmt.Sprintf("%d: %s", e.code, e.text) }

// notSentError is a request that never had a connection.
type notSentError struct{ err error }

func (e *notSentError) Error() string { return e.err.Error() }
func (e *notSentError) Unwrap() error { return e.err }

// deniedError is a right that is missing, as transactions tell it.
type deniedError struct{ text string }

func (e *deniedError) Error() string { return e.text }

// noLeader is the one answer with which Consul says that it did nothing since nobody leads ("no leader errors are always safe to retry since
// no state could have been changed"). It comes with code 500, as do failures of all kinds.
const noLeader = "No cluster leader"

// denied is the beginning of what a transaction's operation fails with for want of a right.
const denied = "Permission denied"

// readError is that of a call which may be repeated: whatever it was, nothing changed.
func (s *Store) readError(what string, err error) error {
	switch {
	case s.ctx.Err() != nil:
		return store.ErrClosed
	case errors.Is(err, store.ErrRefused):
		return fmt.Errorf("consul: %s: %w", what, err)
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("consul: %s: %w", what, context.Canceled)
	case refused(err):
		return fmt.Errorf("consul: %s: %w: %s", what, store.ErrRefused, reason(err))
	}
	return fmt.Errorf("consul: %s: %w (%s)", what, store.ErrUnreachable, reason(err))
}

// writeError sorts the errors of a write: refused by the server, surely not applied, or of unknown outcome. In doubt it is unknown.
func (s *Store) writeError(err error) error {
	var notSent *notSentError
	var st *statusError
	switch {
	case errors.Is(err, store.ErrRefused):
		return fmt.Errorf("consul: %w", err)
	case noCertificate(err):
		return fmt.Errorf("consul: %w: %s", store.ErrRefused, reason(err))
	case errors.As(err, &notSent):
		if s.ctx.Err() != nil {
			return store.ErrClosed
		}
		return fmt.Errorf("consul: %w (%s)", store.ErrUnreachable, reason(err))
	case s.ctx.Err() != nil:
		return fmt.Errorf("consul: %w, %w", store.ErrClosed, store.ErrUnknown)
	case errors.As(err, &st) && st.code == http.StatusRequestEntityTooLarge:
		return fmt.Errorf("consul: %w: %s", store.ErrInvalid, st.text)
	case refused(err):
		return fmt.Errorf("consul: %w: %s", store.ErrRefused, reason(err))
	case turnedAway(err):
		return fmt.Errorf("consul: %w (%s)", store.ErrUnreachable, reason(err))
	}
	return fmt.Errorf("consul: %w (%s)", store.ErrUnknown, reason(err))
}

// refused tells what the server answers before it does anything, and would again: a token it does not know or that may not do this, a
// certificate that it does not take, a malformed request.
func refused(err error) bool {
	var no *deniedError
	var st *statusError
	switch {
	case errors.As(err, &no), noCertificate(err):
		return true
	case errors.As(err, &st):
		return st.code/100 == 4 && st.code != http.StatusTooManyRequests && st.code != http.StatusRequestTimeout
	}
	return false
}

// certificateAlerts (RFC 8446, 6.2) are those of a server that does not take this host's certificate, or wants one. With TLS 1.3 they come
// after the handshake.
var certificateAlerts = []tls.AlertError{42, 43, 44, 45, 46, 48, 49, 116}

// noCertificate tells them. The other end's alerts are of a type that crypto/tls does not export: their words are the same.
func noCertificate(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error" && slices.ContainsFunc(certificateAlerts, func(a tls.AlertError) bool { return a.Error() == op.Err.Error() })
}

// turnedAway tells answers of a server that did nothing for now: nobody leads, or there are too many requests or connections.
func turnedAway(err error) bool {
	var st *statusError
	if !errors.As(err, &st) {
		return false
	}
	return st.code == http.StatusTooManyRequests || st.code == http.StatusInternalServerError && strings.Contains(st.text, noLeader)
}

// reason is an error's text without the request's frame.
func reason(err error) string {
	var st *statusError
	var notSent *notSentError
	switch {
	case errors.As(err, &st):
		return st.text
	case errors.As(err, &notSent):
		return notSent.Error()
	case errors.Is(err, context.DeadlineExceeded):
		return "no answer in time"
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	return err.Error()
}

// notApplied is the error of a write that stood before the caller's own: whatever became of it, the caller's was not sent.
func (s *Store) notApplied(what string, err error) error {
	if err = s.writeError(err); errors.Is(err, store.ErrUnknown) {
		return s.readError(what, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}
