package consul

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/url"
	"strings"
	"testing"

	"weft/store"
)

// In doubt the outcome of a write is unknown; a read that failed changed nothing, whatever it was.
func TestErrorsAreSorted(t *testing.T) {
	dial := &net.OpError{Op: "dial", Err: errors.New("connection refused")}
	for name, tc := range map[string]struct {
		err         error
		write, read error
	}{
		"no connection":          {&notSentError{dial}, store.ErrUnreachable, store.ErrUnreachable},
		"time over before":       {&notSentError{context.DeadlineExceeded}, store.ErrUnreachable, store.ErrUnreachable},
		"time over after":        {context.DeadlineExceeded, store.ErrUnknown, store.ErrUnreachable},
		"connection lost":        {io.ErrUnexpectedEOF, store.ErrUnknown, store.ErrUnreachable},
		"refused while reading":  {&net.OpError{Op: "read", Err: errors.New("connection refused")}, store.ErrUnknown, store.ErrUnreachable},
		"nobody leads":           {&statusError{500, "rpc error getting client: No cluster leader"}, store.ErrUnreachable, store.ErrUnreachable},
		"leadership lost":        {&statusError{500, "raft apply failed: leadership lost while committing log"}, store.ErrUnknown, store.ErrUnreachable},
		"too many connections":   {&statusError{429, "Your IP is issuing too many concurrent connections"}, store.ErrUnreachable, store.ErrUnreachable},
		"a proxy's time is over": {&statusError{504, "gateway timeout"}, store.ErrUnknown, store.ErrUnreachable},
		"no such token":          {&statusError{403, "ACL not found"}, store.ErrRefused, store.ErrRefused},
		"no right":               {&deniedError{"Permission denied"}, store.ErrRefused, store.ErrRefused},
		"a bad certificate":      {&net.OpError{Op: "remote error", Err: tls.AlertError(42)}, store.ErrRefused, store.ErrRefused},
		"no certificate":         {&net.OpError{Op: "remote error", Err: tls.AlertError(116)}, store.ErrRefused, store.ErrRefused},
		"an alert of trouble":    {&net.OpError{Op: "remote error", Err: tls.AlertError(80)}, store.ErrUnknown, store.ErrUnreachable},
		"http where https is":    {&statusError{400, "Client sent an HTTP request to an HTTPS server."}, store.ErrRefused, store.ErrRefused},
		"more than it takes":     {&statusError{413, "Request body too large"}, store.ErrInvalid, store.ErrRefused},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			s := &Store{ctx: ctx}
			framed := &url.Error{Op: "Put", URL: "http://store/v1/txn", Err: tc.err}
			if err := s.writeError(framed); !errors.Is(err, tc.write) || strings.Contains(err.Error(), "/v1/txn") {
				t.Errorf("write: %v, want %v", err, tc.write)
			}
			if err := s.readError("get x", framed); !errors.Is(err, tc.read) || strings.Contains(err.Error(), "/v1/txn") {
				t.Errorf("read: %v, want %v", err, tc.read)
			}
			cancel()
			var notSent *notSentError
			if err := s.writeError(framed); !errors.Is(err, tc.write) && (!errors.Is(err, store.ErrClosed) || errors.As(framed, &notSent) == errors.Is(err, store.ErrUnknown)) {
				t.Errorf("write, closed: %v", err)
			}
			if err := s.readError("get x", framed); !errors.Is(err, store.ErrClosed) {
				t.Errorf("read, closed: %v", err)
			}
		})
	}
}
