package api_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"weft/agent/api"
	weftv1 "weft/proto/weft/v1"
	"weft/store"
)

func (f *fake) StoreStatus(context.Context) api.StoreStatus { return f.store }

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
