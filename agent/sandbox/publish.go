package sandbox

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Publish makes the ports that a sandbox's supervisor holds on the host those that are wanted, and says where what comes to them goes. It
// may be called from Create on, and as long as the process runs; with its end the ports are free. After an error nothing has changed; a
// *BindError says which port cannot be had.
func (h *Host) Publish(ctx context.Context, id string, want []Forward) error {
	if err := checkID(id); err != nil {
		return err
	}
	q := request{Op: opPublish, Ports: want}
	var err error
	if r := h.run(id); r != nil && !r.ended() {
		_, err = h.ask(ctx, id, q)
	} else {
		err = h.publishReady(ctx, id, q)
	}
	var refused *BindError
	if err == nil || errors.As(err, &refused) {
		return err // its words are docker's
	}
	return fmt.Errorf("publish ports of sandbox %s: %w", id, err)
}

// publishReady asks the supervisor that waits for the start of the process.
func (h *Host) publishReady(ctx context.Context, id string, q request) error {
	v, err := h.takeReady(id)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = v.link.Close() })
	_, err = v.link.call(time.Now().Add(callTimeout), q)
	var refused *BindError
	if !stop() || err != nil && !errors.As(err, &refused) {
		v.discard()
		return errors.Join(err, ctx.Err())
	}
	h.mu.Lock()
	closed := h.ctx.Err() != nil
	if !closed {
		h.prepared[id] = v
	}
	h.mu.Unlock()
	if closed {
		v.discard()
		return errors.New("the agent is ending")
	}
	return err
}
