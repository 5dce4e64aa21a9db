package api_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"weft/agent/api"
	"weft/agent/registry"
	weftv1 "weft/proto/weft/v1"
	"weft/store"
	"weft/store/record"
)

func (f *fake) StoreStatus(context.Context) api.StoreStatus { return f.store }
func (f *fake) CheckStore(context.Context) (registry.Survey, error) {
	return registry.Survey{Keys: 5, Partitions: 2, Rev: 9, Findings: []record.Finding{
		{Key: store.Key{Partition: "meta", Name: "odd\xff\n"}, Rev: 3, Rule: record.RuleForeign, Wrong: "weft knows no such key", Do: "delete it"},
	}}, f.err
}

func TestCheckStoreOnTheWire(t *testing.T) {
	conn, _ := serve(t, &fake{})
	got, err := weftv1.NewStoresClient(conn).CheckStore(t.Context(), &weftv1.CheckStoreRequest{})
	want := &weftv1.CheckStoreResponse{Keys: 5, Partitions: 2, Revision: 9, Findings: []*weftv1.Finding{
		{Key: `meta/odd\xff\n`, Revision: 3, Rule: "foreign", Wrong: "weft knows no such key", Remedy: "delete it"},
	}}
	if err != nil || !proto.Equal(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	conn, _ = serve(t, &fake{err: store.ErrUnreachable})
	if _, err := weftv1.NewStoresClient(conn).CheckStore(t.Context(), &weftv1.CheckStoreRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("without its store: %v", err)
	}
}

func TestStoreStatusOnTheWire(t *testing.T) {
	since := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	for name, tc := range map[string]struct {
		is   api.StoreStatus
		want *weftv1.StoreStatusResponse
	}{
		"connected": {
			api.StoreStatus{
				Status: store.Status{Backend: "etcd", Version: "3.6", ClusterID: "h", Endpoints: []string{"a:1"}, Leader: "l", Rev: 7, Latency: time.Millisecond},
				URL:    "etcd://a:1/weft", Cluster: "c", TTL: 15 * time.Second, Bound: 20 * time.Second, State: api.StoreConnected, Since: since, Hosts: 2, Alive: 1,
			},
			&weftv1.StoreStatusResponse{
				Url: "etcd://a:1/weft", Backend: "etcd", Version: "3.6", HistoryId: "h", Endpoints: []string{"a:1"}, Leader: "l", Revision: 7,
				Latency: durationpb.New(time.Millisecond), ClusterId: "c", SessionTtl: durationpb.New(15 * time.Second), SessionBound: durationpb.New(20 * time.Second),
				State: "connected", Since: timestamppb.New(since), Hosts: 2, HostsAlive: 1,
			},
		},
		"away": {
			api.StoreStatus{Status: store.Status{Backend: "etcd"}, URL: "embedded", Embedded: true, TTL: 15 * time.Second, State: api.StoreAway, Since: since, Err: errors.New("it is away")},
			&weftv1.StoreStatusResponse{
				Url: "embedded", Embedded: true, Backend: "etcd", SessionTtl: durationpb.New(15 * time.Second), State: "away", Since: timestamppb.New(since), Error: "it is away",
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			conn, _ := serve(t, &fake{store: tc.is})
			got, err := weftv1.NewStoresClient(conn).StoreStatus(t.Context(), &weftv1.StoreStatusRequest{})
			if err != nil || !proto.Equal(got, tc.want) {
				t.Errorf("got %v, %v, want %v", got, err, tc.want)
			}
		})
	}
}
