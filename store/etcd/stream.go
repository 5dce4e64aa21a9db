package etcd

import (
	"context"
	"errors"
	"math"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"weft/store"
)

// stream is one watch on one connection, and ends with that. The client's own watches go on by themselves on the next connection, at the
// end of which may be a server with another past: events of it would come before anybody could look.
type stream struct {
	got    chan *pb.WatchResponse // closed at the end
	err    error                  // why; to be read after got is closed
	cancel context.CancelFunc
	reader sync.WaitGroup
}

// openStream watches a partition from a revision on, at the present member.
func (s *Store) openStream(ctx context.Context, partition string, from store.Rev) (*stream, error) {
	_, here := s.seat.now()
	ctx, cancel := context.WithCancel(ctx)
	forget := context.AfterFunc(here, cancel)
	x := &stream{got: make(chan *pb.WatchResponse), cancel: func() { forget(); cancel() }}
	c, err := pb.NewWatchClient(s.cli.ActiveConnection()).Watch(clientv3.WithRequireLeader(ctx), grpc.MaxCallRecvMsgSize(math.MaxInt32))
	if err == nil {
		dir := s.dir(partition)
		err = c.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{
			Key: []byte(dir), RangeEnd: []byte(clientv3.GetPrefixRangeEnd(dir)), StartRevision: int64(from),
		}}})
	}
	if err != nil {
		x.cancel()
		return nil, err
	}
	x.reader.Go(func() { x.read(ctx, c) })
	return x, nil
}

func (x *stream) read(ctx context.Context, c pb.Watch_WatchClient) {
	defer close(x.got)
	for {
		r, err := c.Recv()
		if err != nil {
			x.err = err
			return
		}
		select {
		case x.got <- r:
		case <-ctx.Done():
			x.err = ctx.Err()
			return
		}
	}
}

// close ends the stream and waits for its reader.
func (x *stream) close() {
	x.cancel()
	x.reader.Wait()
}

// ended is what a response that ends a watch says.
func ended(r *pb.WatchResponse) error {
	if !r.Canceled {
		return nil
	}
	return errors.New("the server ends the watch: " + r.CancelReason)
}
