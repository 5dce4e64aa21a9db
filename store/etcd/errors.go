package etcd

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weft/store"
)

// readError is that of a call which may be repeated: whatever it was, nothing changed.
func (s *Store) readError(what string, err error) error {
	s.suspect(err)
	switch {
	case s.ctx.Err() != nil:
		return store.ErrClosed
	case errors.Is(err, context.Canceled):
		return err
	case refused(err):
		return fmt.Errorf("etcd: %s: %w: %s", what, store.ErrRefused, reason(err))
	}
	return fmt.Errorf("etcd: %s: %w (%s)", what, store.ErrUnreachable, reason(err))
}

// writeError sorts the errors of a transaction: refused by the server, surely not applied, or of unknown outcome. In doubt it is unknown.
func (s *Store) writeError(err error) error {
	s.suspect(err)
	switch {
	case s.ctx.Err() != nil:
		return fmt.Errorf("etcd: %w, %w", store.ErrClosed, store.ErrUnknown)
	case refused(err):
		return fmt.Errorf("etcd: %w: %s", store.ErrRefused, reason(err))
	case notSent(err), errors.Is(err, rpctypes.ErrNoSpace), errors.Is(err, rpctypes.ErrTooManyRequests), errors.Is(err, rpctypes.ErrLeaseNotFound):
		return fmt.Errorf("etcd: %w (%s)", store.ErrUnreachable, reason(err))
	}
	return fmt.Errorf("etcd: %w (%s)", store.ErrUnknown, reason(err))
}

// suspect doubts the member where an error may be its own: it is without a leader, or going down.
func (s *Store) suspect(err error) {
	if code := codeOf(err); code == codes.Unavailable || code == codes.DeadlineExceeded {
		s.seat.doubt()
	}
}

func codeOf(err error) codes.Code {
	var e rpctypes.EtcdError
	if errors.As(err, &e) {
		return e.Code()
	}
	return status.Code(err)
}

// refused tells what the server answers before it does anything, and would again: wrong password, no right, malformed.
func refused(err error) bool {
	code := codeOf(err)
	return code == codes.InvalidArgument || code == codes.PermissionDenied || code == codes.Unauthenticated
}

// notSent tells errors of a connection that was never made: gRPC says so in words only. Words of the network itself ("connection refused",
// "no route to host") do not tell: a read from a connection on which the call was sent ends with them, too.
func notSent(err error) bool {
	text := err.Error()
	if strings.Contains(text, noLogin) {
		return true
	}
	if strings.Contains(text, "error reading from server") {
		return false
	}
	for _, s := range []string{"Error while dialing", "last connection error", "authentication handshake failed", "error reading server preface"} {
		if strings.Contains(text, s) {
			return true
		}
	}
	return false
}

// reason is an error's text without gRPC's frame.
func reason(err error) string {
	if st, ok := status.FromError(err); ok && st.Code() != codes.Unknown {
		return st.Message()
	}
	return err.Error()
}
