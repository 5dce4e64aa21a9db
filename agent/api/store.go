package api

import (
	"context"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"weft/agent/registry"
	weftv1 "weft/proto/weft/v1"
	"weft/store"
	"weft/store/record"
)

// StoreBackend is what the Stores service calls.
type StoreBackend interface {
	StoreStatus(ctx context.Context) StoreStatus
	CheckStore(ctx context.Context) (registry.Survey, error)
	BackupStore(ctx context.Context, w io.Writer) error
	RestoreStore(ctx context.Context, r RestoreRequest, file io.Reader) (Restored, error)
	ReseedStore(ctx context.Context, r ReseedRequest) (registry.ReseedResult, error)
	MigrateStore(ctx context.Context, to string, opts map[string]string, tell func(step string)) (Migrated, error)
	AbortMigration(ctx context.Context) (to, warning string, err error)
}

// The states of a store, as a host sees it.
const (
	StoreConnected = "connected"
	StoreJoining   = "joining" // it answers, and this host is no member of its cluster yet
	StoreAway      = "away"
)

// StoreStatus is how the store is, as this host sees it. What is not known now is zero.
type StoreStatus struct {
	store.Status
	URL        string // without secrets
	Configured string // what the options say, where the records have moved from there
	Embedded   bool
	Cluster    string // ID of the weft cluster
	TTL, Bound time.Duration
	State      string
	Since      time.Time
	Err        error // why it is not connected
	Hosts      int
	Alive      int
}

type stores struct {
	weftv1.UnimplementedStoresServer
	b StoreBackend
}

func (s *stores) StoreStatus(ctx context.Context, _ *weftv1.StoreStatusRequest) (*weftv1.StoreStatusResponse, error) {
	st := s.b.StoreStatus(ctx)
	out := &weftv1.StoreStatusResponse{
		Url: st.URL, Configured: st.Configured, Embedded: st.Embedded, Backend: st.Backend, Version: st.Version, Endpoints: st.Endpoints, Leader: st.Leader,
		Revision: uint64(st.Rev), HistoryId: st.Status.ClusterID, ClusterId: st.Cluster, SessionTtl: durationpb.New(st.TTL),
		State: st.State, Since: timestamppb.New(st.Since), Hosts: uint32(st.Hosts), HostsAlive: uint32(st.Alive),
	}
	if st.Latency > 0 {
		out.Latency = durationpb.New(st.Latency)
	}
	if st.Bound > 0 {
		out.SessionBound = durationpb.New(st.Bound)
	}
	if st.Err != nil {
		out.Error = st.Err.Error()
	}
	return out, nil
}

func (s *stores) CheckStore(ctx context.Context, _ *weftv1.CheckStoreRequest) (*weftv1.CheckStoreResponse, error) {
	survey, err := s.b.CheckStore(ctx)
	if err != nil {
		return nil, err
	}
	out := &weftv1.CheckStoreResponse{Keys: uint64(survey.Keys), Partitions: uint32(survey.Partitions), Revision: uint64(survey.Rev)}
	out.Findings = findingsProto(survey.Findings)
	return out, nil
}

func findingsProto(fs []record.Finding) (out []*weftv1.Finding) {
	for _, f := range fs {
		out = append(out, &weftv1.Finding{
			Key: printable(f.Key.String()), Revision: uint64(f.Rev), Rule: string(f.Rule), Wrong: printable(f.Wrong), Remedy: printable(f.Do),
		})
	}
	return out
}

// printable makes text of what a foreign key may hold: any bytes.
func printable(s string) string {
	if q := strconv.Quote(s); !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) {
		return q[1 : len(q)-1]
	}
	return s
}
