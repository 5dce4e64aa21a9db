package command

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// again is how long a command that follows something waits before it asks for the next agent.
const again = 100 * time.Millisecond

// resume goes on with a stream over restarts of the agent: it calls stream until that ends by itself or fails for another reason than that its agent went
// away, or none has answered for c.give. An agent that never answered is not waited for.
func (c *cli) resume(ctx context.Context, stream func() (answered bool, err error)) error {
	began, end := false, time.Time{}
	for {
		answered, err := stream()
		if began = began || answered; answered {
			end = time.Now().Add(c.give)
		}
		if err == nil || !began || !isGone(err) || time.Now().After(end) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(again):
		}
	}
}

// isGone tells that the way to the agent broke.
func isGone(err error) bool {
	return errors.Is(err, errLost) || status.Code(err) == codes.Unavailable || status.Code(err) == codes.Canceled
}

// hasHeader waits for an agent's first word, and tells whether there was one.
func hasHeader(s grpc.ClientStream) bool {
	h, err := s.Header()
	return err == nil && h != nil
}
