package peer_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weft/agent/peer"
	"weft/store/record"
)

// Many who ask at once for a host that is gone, while each that hears so gives the connection up, all hear that: nobody takes the end of a connection that another
// one gave up for a sign of life.
func TestNobodyAnswersForAHostThatIsGone(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	a, b := c.join("a"), c.join("b")
	mute := listen(t, "127.0.0.1:0") // it accepts nothing
	defer func() { _ = mute.Close() }()
	h := &record.Host{ID: b.id, Advertise: mute.Addr().String()}
	asks := a.clients()
	var wg sync.WaitGroup
	for n := range 8 {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(50*(n+1))*time.Millisecond)
			defer cancel()
			if _, err := asks.Hello(ctx, h); !errors.Is(err, peer.ErrSilent) || peer.Answered(err) {
				t.Errorf("one that had %d ms was told: %v", 50*(n+1), err)
			}
		})
	}
	wg.Wait()
}

// What an agent says, also when it refuses, tells that it is there; what goes wrong on this side tells nothing.
func TestWhatTellsThatAnAgentIsThere(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		err  error
		want bool
	}{
		{nil, true},
		{peer.ErrOld, true},
		{&peer.ForeignVersion{}, true},
		{fmt.Errorf("asked: %w", status.Error(codes.FailedPrecondition, "it runs")), true},
		{status.Error(codes.Unavailable, "gone"), false},
		{status.Error(codes.DeadlineExceeded, "late"), false},
		{status.Error(codes.Canceled, "given up"), false},
		{fmt.Errorf("%w: refused", peer.ErrSilent), false},
		{peer.ErrStranger, false},
		{net.ErrClosed, false},
		{context.Canceled, false},
	} {
		if got := peer.Answered(tc.err); got != tc.want {
			t.Errorf("%v: %t, want %t", tc.err, got, tc.want)
		}
	}
}
