package api

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"weft/agent/registry"
	weftv1 "weft/proto/weft/v1"
	"weft/store/record"
)

// RestoreRequest says what to do with a backup.
type RestoreRequest struct{ Force, DryRun bool }

// Restored is what a restore has done, and what the check after it found.
type Restored struct {
	registry.RestoreResult
	Findings []record.Finding
}

// chunk is the size of a message of a backup: a stream of many small ones would be slow, one of large ones would need memory.
const chunk = 64 << 10

func (s *stores) BackupStore(_ *weftv1.BackupStoreRequest, stream grpc.ServerStreamingServer[weftv1.BackupChunk]) error {
	w := bufio.NewWriterSize(backupStream{stream}, chunk)
	if err := s.b.BackupStore(stream.Context(), w); err != nil {
		return err
	}
	return w.Flush()
}

// backupStream sends what is written to it.
type backupStream struct {
	stream grpc.ServerStreamingServer[weftv1.BackupChunk]
}

func (b backupStream) Write(p []byte) (int, error) {
	for part := p; len(part) > 0; {
		n := min(len(part), chunk)
		if err := b.stream.Send(&weftv1.BackupChunk{Data: part[:n]}); err != nil {
			return len(p) - len(part), err
		}
		part = part[n:]
	}
	return len(p), nil
}

func (s *stores) RestoreStore(stream grpc.ClientStreamingServer[weftv1.RestoreChunk, weftv1.RestoreStoreResponse]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	start := first.GetStart()
	if start == nil {
		return Refuse(Invalid, "a restore begins with what to do, and this one begins with data")
	}
	r, err := s.b.RestoreStore(stream.Context(), RestoreRequest{Force: start.Force, DryRun: start.DryRun}, &restoreStream{stream: stream})
	if err != nil {
		return err
	}
	return stream.SendAndClose(&weftv1.RestoreStoreResponse{
		ClusterId: r.Backup.Cluster, Revision: uint64(r.Backup.Rev), Time: timestamppb.New(r.Backup.Time), Replaced: r.Replaced,
		Puts: uint64(r.Puts), Dels: uint64(r.Dels), Same: uint64(r.Same), Findings: findingsProto(r.Findings),
	})
}

// restoreStream reads what a client sends.
type restoreStream struct {
	stream grpc.ClientStreamingServer[weftv1.RestoreChunk, weftv1.RestoreStoreResponse]
	rest   []byte
}

func (r *restoreStream) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		m, err := r.stream.Recv()
		if errors.Is(err, io.EOF) {
			return 0, io.EOF
		}
		if err != nil {
			return 0, fmt.Errorf("the backup did not come whole: %w", errors.Join(err, context.Cause(r.stream.Context())))
		}
		r.rest = m.GetData()
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}
