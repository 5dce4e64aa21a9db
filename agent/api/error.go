package api

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weft/store"
)

// Kind tells callers of the API what sort of refusal they met.
type Kind uint8

// The kinds, and the codes that the admin contract promises for them.
const (
	NotFound    Kind = iota + 1 // NOT_FOUND
	Exists                      // ALREADY_EXISTS
	Invalid                     // INVALID_ARGUMENT
	InUse                       // FAILED_PRECONDITION
	Unsupported                 // UNIMPLEMENTED
)

var kindCodes = map[Kind]codes.Code{
	NotFound: codes.NotFound, Exists: codes.AlreadyExists, Invalid: codes.InvalidArgument,
	InUse: codes.FailedPrecondition, Unsupported: codes.Unimplemented,
}

// Refusal is an error with a kind. Its text is for the user.
type Refusal struct {
	Kind Kind
	Err  error
}

func (r *Refusal) Error() string { return r.Err.Error() }
func (r *Refusal) Unwrap() error { return r.Err }

// Refuse makes a Refusal.
func Refuse(k Kind, format string, args ...any) error {
	return &Refusal{Kind: k, Err: fmt.Errorf(format, args...)}
}

// withExit adds the exit code that docker run has for a process that could not be run.
func withExit(st *status.Status, code int) error {
	info := &errdetails.ErrorInfo{Reason: "NOT_STARTED", Domain: "weft", Metadata: map[string]string{"exit_code": strconv.Itoa(code)}}
	if detailed, err := st.WithDetails(info); err == nil {
		st = detailed
	}
	return st.Err()
}

// toStatus gives err the code that its kind has in the contract; its text stays as it is.
func toStatus(err error) error {
	var r *Refusal
	var s interface{ GRPCStatus() *status.Status }
	var x interface{ ExitCode() int }
	switch {
	case err == nil:
		return nil
	case errors.As(err, &r) && kindCodes[r.Kind] != codes.OK:
		return status.Error(kindCodes[r.Kind], err.Error())
	case errors.As(err, &x):
		return withExit(status.New(codes.FailedPrecondition, err.Error()), x.ExitCode())
	case errors.Is(err, store.ErrUnreachable), errors.Is(err, store.ErrUnknown):
		return status.Error(codes.Unavailable, err.Error())
	case errors.Is(err, context.Canceled):
		return status.Error(codes.Canceled, err.Error())
	case errors.Is(err, context.DeadlineExceeded):
		return status.Error(codes.DeadlineExceeded, err.Error())
	case errors.As(err, &s): // gRPC's own: the caller is gone, or its message was too large
		return s.GRPCStatus().Err()
	default:
		return status.Error(codes.Unknown, err.Error())
	}
}
