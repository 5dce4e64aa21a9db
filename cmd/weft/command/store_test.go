package command

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	weftv1 "weft/proto/weft/v1"
)

// fakeStores is the part of the fake that answers for the store.
type fakeStores struct {
	weftv1.UnimplementedStoresServer
	store *weftv1.StoreStatusResponse
	check *weftv1.CheckStoreResponse
	fakeBackups
	fakeMoves
}

func (f *fakeStores) CheckStore(context.Context, *weftv1.CheckStoreRequest) (*weftv1.CheckStoreResponse, error) {
	return f.check, nil
}

func (f *fakeStores) StoreStatus(context.Context, *weftv1.StoreStatusRequest) (*weftv1.StoreStatusResponse, error) {
	return f.store, nil
}

// connected is a store that is well.
func connected() *weftv1.StoreStatusResponse {
	return &weftv1.StoreStatusResponse{
		Url: "etcd://192.0.2.2:2379,192.0.2.3:2379,192.0.2.4:2379/weft", Backend: "etcd", Version: "3.6.1",
		Endpoints: []string{"192.0.2.2:2379", "192.0.2.3:2379", "192.0.2.4:2379"}, Leader: "8e9e05c52164694d",
		Latency: durationpb.New(812345), Revision: 1234, HistoryId: "cdf818194e3a8c32", ClusterId: "0123456789abcdef0123456789abcdef",
		SessionTtl: durationpb.New(15 * time.Second), SessionBound: durationpb.New(21 * time.Second), State: "connected", Since: created,
		Hosts: 3, HostsAlive: 2,
	}
}

func changed(r *weftv1.StoreStatusResponse, f func(*weftv1.StoreStatusResponse)) *weftv1.StoreStatusResponse {
	r = proto.Clone(r).(*weftv1.StoreStatusResponse)
	f(r)
	return r
}

func TestStoreStatus(t *testing.T) {
	away := changed(connected(), func(r *weftv1.StoreStatusResponse) {
		r.State, r.Error, r.Version, r.Leader, r.Latency, r.Revision, r.HistoryId, r.HostsAlive = "away", "it does not answer", "", "", nil, 0, "", 0
	})
	for name, tc := range map[string]struct {
		store *weftv1.StoreStatusResponse
		out   []string
		err   string
	}{
		"connected": {connected(), []string{
			"Back end:   etcd 3.6.1\n", "State:      connected for ", "Endpoints:  192.0.2.2:2379\n            192.0.2.3:2379\n", "Leader:     8e9e05c52164694d\n",
			"Latency:    810µs (median)\n", "Revision:   1234\n", "Session:    15s; a host that died is noticed within 21s\n", "Hosts:      3, of which 2 alive\n",
		}, ""},
		"embedded": {changed(connected(), func(r *weftv1.StoreStatusResponse) { r.Embedded, r.Url = true, "embedded" }), []string{"Store:      embedded in this host's agent\n"}, ""},
		"moved": {changed(connected(), func(r *weftv1.StoreStatusResponse) { r.Configured = "zk://h:2181/weft" }), []string{
			"Configured: zk://h:2181/weft: the records have moved, change\n            --cluster-store of this host\n",
		}, ""},
		"away": {away, []string{
			"State:      away for ", "Leader:     not known now\n", "Latency:    not known now\n", "Revision:   not known now\n", "Hosts:      3; which of them are alive is not known now\n",
		}, "cluster store etcd://192.0.2.2:2379,192.0.2.3:2379,192.0.2.4:2379/weft is not reachable: it does not answer"},
		"joining": {changed(connected(), func(r *weftv1.StoreStatusResponse) { r.State = "joining" }), []string{"State:      joining"}, "has not joined its cluster yet: ask again"},
		"refused": {changed(connected(), func(r *weftv1.StoreStatusResponse) { r.State, r.Error = "joining", "the store holds cluster x" }), nil, "cannot join its cluster: the store holds cluster x"},
		"doubted": {changed(connected(), func(r *weftv1.StoreStatusResponse) { r.Error = "the store went back" }), []string{"State:      connected"}, "is not believed: the store went back"},
	} {
		t.Run(name, func(t *testing.T) {
			f, s := newFake(), newShell(t)
			f.store = tc.store
			f.serve(t, s.path)
			r := s.run("store", "status")
			for _, want := range tc.out {
				if !strings.Contains(r.out, want) {
					t.Errorf("printed\n%swant %q in it", r.out, want)
				}
			}
			if code := map[bool]int{true: 0, false: 1}[tc.err == ""]; r.code != code || !strings.Contains(r.err, tc.err) || (tc.err == "") != (r.err == "") {
				t.Errorf("exit %d, error %q; want exit %d and %q", r.code, r.err, code, tc.err)
			}
			for line := range strings.Lines(r.out) {
				if !strings.HasPrefix(line, "Store:") && utf8.RuneCountInString(line) > 81 {
					t.Errorf("more than 80 columns: %q", line)
				}
			}
		})
	}
}

func TestStoreStatusInOtherForms(t *testing.T) {
	f, s := newFake(), newShell(t)
	f.store = connected()
	f.serve(t, s.path)
	if r := s.run("store", "status", "--format", "{{.Backend}} {{.NoticedWithin}} {{.ClusterID}} {{.HostsAlive}}"); r.out != "etcd 21s 0123456789abcdef0123456789abcdef 2\n" {
		t.Errorf("%+v", r)
	}
	var got storeState
	if r := s.run("store", "status", "--format", "json"); json.Unmarshal([]byte(r.out), &got) != nil || got.Latency != "810µs" || got.Revision != 1234 || len(got.Endpoints) != 3 {
		t.Errorf("%+v: %+v", r, got)
	}
	if r := s.run("store", "status", "--help"); r.code != 0 || !strings.Contains(r.out, "weft store status --format json") {
		t.Errorf("%+v", r)
	}
	if r := s.run("store", "status", "x"); r.code != 1 || !strings.Contains(r.err, "accepts no arguments") {
		t.Errorf("%+v", r)
	}
}

func TestStoreCheck(t *testing.T) {
	bad := &weftv1.CheckStoreResponse{Keys: 12, Partitions: 3, Revision: 99, Findings: []*weftv1.Finding{
		{Key: "meta/names/old", Revision: 7, Rule: "orphan", Wrong: "it is claimed for network x", Remedy: "delete the key"},
		{Key: "net/a/ep/b", Revision: 8, Rule: "outside", Wrong: "address 10.9.0.1 is in no pool", Remedy: "connect it again"},
	}}
	for name, tc := range map[string]struct {
		is   *weftv1.CheckStoreResponse
		args []string
		want result
	}{
		"clean": {&weftv1.CheckStoreResponse{Keys: 12, Partitions: 3, Revision: 99}, nil, result{"Nothing is wrong: 12 keys in 3 partitions at revision 99.\n", "", 0}},
		"two things": {bad, nil, result{
			"meta/names/old\n    it is claimed for network x\n    → delete the key\nnet/a/ep/b\n    address 10.9.0.1 is in no pool\n    → connect it again\n",
			"Error: 2 things are wrong with the store's 12 keys\n", 1,
		}},
		"quiet":    {bad, []string{"-q"}, result{"meta/names/old\nnet/a/ep/b\n", "Error: 2 things are wrong with the store's 12 keys\n", 1}},
		"template": {bad, []string{"--format", "{{.Rule}} {{.Revision}}"}, result{"orphan 7\noutside 8\n", "Error: 2 things are wrong with the store's 12 keys\n", 1}},
		"json": {&weftv1.CheckStoreResponse{Keys: 2, Findings: bad.Findings[:1]}, []string{"--format", "json"}, result{
			`{"Key":"meta/names/old","Remedy":"delete the key","Revision":"7","Rule":"orphan","Wrong":"it is claimed for network x"}` + "\n",
			"Error: one thing is wrong with the store's 2 keys\n", 1,
		}},
		"one key":    {&weftv1.CheckStoreResponse{Keys: 1, Partitions: 1, Revision: 9}, nil, result{"Nothing is wrong: 1 key in 1 partition at revision 9.\n", "", 0}},
		"clean json": {&weftv1.CheckStoreResponse{Keys: 2}, []string{"--format", "json"}, result{"", "", 0}},
	} {
		t.Run(name, func(t *testing.T) {
			f, s := newFake(), newShell(t)
			f.check = tc.is
			f.serve(t, s.path)
			if got := s.run(append([]string{"store", "check"}, tc.args...)...); got != tc.want {
				t.Errorf("got %+v\nwant %+v", got, tc.want)
			}
		})
	}
}
