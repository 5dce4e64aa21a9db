package api_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
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
	"weft/store/backup"
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
				URL:    "etcd://a:1/weft", Configured: "zk://b", Cluster: "c", TTL: 15 * time.Second, Bound: 20 * time.Second, State: api.StoreConnected, Since: since, Hosts: 2, Alive: 1,
			},
			&weftv1.StoreStatusResponse{
				Url: "etcd://a:1/weft", Configured: "zk://b", Backend: "etcd", Version: "3.6", HistoryId: "h", Endpoints: []string{"a:1"}, Leader: "l", Revision: 7,
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

func (f *fake) BackupStore(_ context.Context, w io.Writer) error {
	for range 3 {
		if _, err := w.Write(bytes.Repeat([]byte("x"), 100_000)); err != nil {
			return err
		}
	}
	return f.err
}

func (f *fake) RestoreStore(_ context.Context, r api.RestoreRequest, file io.Reader) (api.Restored, error) {
	b, err := io.ReadAll(file)
	f.asked = r
	out := api.Restored{RestoreResult: registry.RestoreResult{Backup: backup.Header{Cluster: "c", Rev: 7}, Replaced: "old", Puts: len(b), Dels: 2, Same: 3}}
	out.Findings = []record.Finding{{Key: store.Key{Partition: "meta", Name: "x"}}}
	return out, errors.Join(err, f.err)
}

func TestBackupAndRestoreOnTheWire(t *testing.T) {
	f := &fake{}
	conn, _ := serve(t, f)
	c := weftv1.NewStoresClient(conn)
	down, err := c.BackupStore(t.Context(), &weftv1.BackupStoreRequest{})
	if err != nil {
		t.Fatal(err)
	}
	up, err := c.RestoreStore(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	err = up.Send(&weftv1.RestoreChunk{Part: &weftv1.RestoreChunk_Start{Start: &weftv1.RestoreStart{Force: true}}})
	for err == nil {
		var m *weftv1.BackupChunk
		if m, err = down.Recv(); err == nil {
			err = up.Send(&weftv1.RestoreChunk{Part: &weftv1.RestoreChunk_Data{Data: m.Data}})
		}
	}
	if !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	got, err := up.CloseAndRecv()
	if err != nil || got.Puts != 300_000 || got.ClusterId != "c" || got.Revision != 7 || got.Replaced != "old" || got.Dels != 2 || got.Same != 3 || len(got.Findings) != 1 {
		t.Errorf("%v, %v", got, err)
	}
	if f.asked != (api.RestoreRequest{Force: true}) {
		t.Errorf("asked %+v", f.asked)
	}

	if up, err = c.RestoreStore(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := up.Send(&weftv1.RestoreChunk{Part: &weftv1.RestoreChunk_Data{Data: []byte("x")}}); err != nil {
		t.Fatal(err)
	}
	if _, err := up.CloseAndRecv(); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a restore without a start: %v", err)
	}
	conn, _ = serve(t, &fake{err: api.Refuse(api.NotFound, "nothing to back up")})
	if down, err = weftv1.NewStoresClient(conn).BackupStore(t.Context(), &weftv1.BackupStoreRequest{}); err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = down.Recv()
	}
	if status.Code(err) != codes.NotFound {
		t.Errorf("a backup that is refused: %v", err)
	}
}

func (f *fake) MigrateStore(_ context.Context, to string, opts map[string]string, tell func(string)) (api.Migrated, error) {
	tell("asking")
	tell("copying")
	return api.Migrated{To: to + opts["k"], Keys: 3, Pause: time.Second, Hosts: 2, Behind: []string{"h3"}}, f.err
}

func (f *fake) AbortMigration(context.Context) (to, warning string, err error) {
	return "zk://h", "careful", f.err
}

func TestMigrateStoreOnTheWire(t *testing.T) {
	conn, _ := serve(t, &fake{})
	c := weftv1.NewStoresClient(conn)
	stream, err := c.MigrateStore(t.Context(), &weftv1.MigrateStoreRequest{To: "zk://h", Opts: map[string]string{"k": "v"}})
	if err != nil {
		t.Fatal(err)
	}
	var steps []string
	var done *weftv1.MigrateStoreResult
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if done = m.Done; done == nil {
			steps = append(steps, m.Step)
		}
	}
	want := &weftv1.MigrateStoreResult{To: "zk://hv", Keys: 3, Pause: durationpb.New(time.Second), Hosts: 2, Behind: []string{"h3"}}
	if !slices.Equal(steps, []string{"asking", "copying"}) || !proto.Equal(done, want) {
		t.Errorf("steps %q, done %v, want %v", steps, done, want)
	}
	if r, err := c.AbortMigration(t.Context(), &weftv1.AbortMigrationRequest{}); err != nil || r.To != "zk://h" || r.Warning != "careful" {
		t.Errorf("%v, %v", r, err)
	}

	conn, _ = serve(t, &fake{err: api.Refuse(api.InUse, "not now")})
	c = weftv1.NewStoresClient(conn)
	if stream, err = c.MigrateStore(t.Context(), &weftv1.MigrateStoreRequest{}); err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.FailedPrecondition {
		t.Errorf("a move that is refused: %v", err)
	}
	if _, err := c.AbortMigration(t.Context(), &weftv1.AbortMigrationRequest{}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("an abort that is refused: %v", err)
	}
}

func (f *fake) ReseedStore(_ context.Context, r api.ReseedRequest) (registry.ReseedResult, error) {
	if !r.DryRun && !r.Force {
		return registry.ReseedResult{}, api.Refuse(api.Invalid, "the store is believed")
	}
	return registry.ReseedResult{Cluster: "c", Networks: 1, Hosts: 2, Endpoints: 3, Same: 4, Skipped: []string{"x"}, Pending: []string{"h3"}}, nil
}

func TestReseedStoreOnTheWire(t *testing.T) {
	conn, _ := serve(t, &fake{})
	c := weftv1.NewStoresClient(conn)
	want := &weftv1.ReseedStoreResponse{ClusterId: "c", Networks: 1, Hosts: 2, Endpoints: 3, Same: 4, Skipped: []string{"x"}, Pending: []string{"h3"}}
	for _, r := range []*weftv1.ReseedStoreRequest{{DryRun: true}, {Force: true}} {
		if got, err := c.ReseedStore(t.Context(), r); err != nil || !proto.Equal(got, want) {
			t.Errorf("%v: %v, %v", r, got, err)
		}
	}
	if _, err := c.ReseedStore(t.Context(), &weftv1.ReseedStoreRequest{}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a store that is believed: %v", err)
	}
}
