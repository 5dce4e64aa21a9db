package etcd

import (
	"context"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/connectivity"

	"weft/store"
)

// point is a moment in a cluster's history.
type point struct {
	cluster uint64
	rev     store.Rev
	asked   time.Time // before the server was asked
}

// history tells watches where the cluster stands: one request serves all watches of a client.
type history struct {
	cli  *clientv3.Client
	seat *seat
	key  string

	asking chan struct{} // cap 1: who holds it asks, and guards last
	last   point

	mu   sync.Mutex // guards back
	back chan struct{}
}

func newHistory(cli *clientv3.Client, seat *seat, key string) *history {
	return &history{cli: cli, seat: seat, key: key, asking: make(chan struct{}, 1), back: make(chan struct{})}
}

// at returns where the cluster stood at some time after the given one.
func (h *history) at(ctx context.Context, after time.Time) (point, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	select {
	case h.asking <- struct{}{}:
	case <-ctx.Done():
		return point{}, ctx.Err()
	}
	defer func() { <-h.asking }()
	if h.last.asked.After(after) {
		return h.last, nil
	}
	ctx, free := h.seat.hold(ctx)
	defer free()
	asked := time.Now()
	r, err := h.cli.Get(ctx, h.key, clientv3.WithCountOnly())
	if err != nil {
		return point{}, err
	}
	h.last = point{cluster: r.Header.ClusterId, rev: store.Rev(r.Header.Revision), asked: asked}
	return h.last, nil
}

// reconnected is closed at the next new connection: who waits to try again need not wait longer.
func (h *history) reconnected() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.back
}

// followConnection says so when there is a new one, and calls lost when there is none.
func (h *history) followConnection(ctx context.Context, lost func()) {
	conn := h.cli.ActiveConnection()
	for state := conn.GetState(); conn.WaitForStateChange(ctx, state); {
		switch state = conn.GetState(); state {
		case connectivity.Ready:
			h.mu.Lock()
			close(h.back)
			h.back = make(chan struct{})
			h.mu.Unlock()
		case connectivity.Idle, connectivity.TransientFailure:
			lost()
		}
	}
}
