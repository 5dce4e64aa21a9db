package api

import (
	"context"

	weftv1 "weft/proto/weft/v1"
)

// ReseedRequest says how what the hosts know is put back into the store.
type ReseedRequest struct{ Force, DryRun bool }

func (s *stores) ReseedStore(ctx context.Context, r *weftv1.ReseedStoreRequest) (*weftv1.ReseedStoreResponse, error) {
	done, err := s.b.ReseedStore(ctx, ReseedRequest{Force: r.Force, DryRun: r.DryRun})
	if err != nil {
		return nil, err
	}
	return &weftv1.ReseedStoreResponse{
		ClusterId: done.Cluster, Networks: uint64(done.Networks), Hosts: uint64(done.Hosts), Endpoints: uint64(done.Endpoints), Same: uint64(done.Same),
		Skipped: done.Skipped, Pending: done.Pending,
	}, nil
}
