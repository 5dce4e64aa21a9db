package api

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	weftv1 "weft/proto/weft/v1"
)

// Migrated is what a move of the records to another store has come to.
type Migrated struct {
	To     string // without secrets
	Keys   int
	Pause  time.Duration // for which nobody could claim anything
	Hosts  int           // that follow
	Behind []string      // hosts that have not followed yet
}

func (s *stores) MigrateStore(r *weftv1.MigrateStoreRequest, stream grpc.ServerStreamingServer[weftv1.MigrateStoreProgress]) error {
	tell := func(step string) {
		_ = stream.Send(&weftv1.MigrateStoreProgress{Step: step}) // who does not listen any more has cancelled the call, or will read the end
	}
	m, err := s.b.MigrateStore(stream.Context(), r.To, r.Opts, tell)
	if err != nil {
		return err
	}
	return stream.Send(&weftv1.MigrateStoreProgress{Done: &weftv1.MigrateStoreResult{
		To: m.To, Keys: uint64(m.Keys), Pause: durationpb.New(m.Pause), Hosts: uint32(m.Hosts), Behind: m.Behind,
	}})
}

func (s *stores) AbortMigration(ctx context.Context, _ *weftv1.AbortMigrationRequest) (*weftv1.AbortMigrationResponse, error) {
	to, warning, err := s.b.AbortMigration(ctx)
	if err != nil {
		return nil, err
	}
	return &weftv1.AbortMigrationResponse{To: to, Warning: warning}, nil
}
