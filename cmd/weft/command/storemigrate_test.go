package command

import (
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	weftv1 "weft/proto/weft/v1"
)

// fakeMoves is the part of the fake that moves records.
type fakeMoves struct {
	moves   []*weftv1.MigrateStoreRequest
	moveErr error
	behind  []string
	one     bool // key and host
	silent  bool // the stream ends without a result
	aborted int
	warning string
}

func (f *fakeStores) MigrateStore(r *weftv1.MigrateStoreRequest, s grpc.ServerStreamingServer[weftv1.MigrateStoreProgress]) error {
	f.moves = append(f.moves, r)
	if err := s.Send(&weftv1.MigrateStoreProgress{Step: "copying"}); err != nil || f.moveErr != nil || f.silent {
		return f.moveErr
	}
	done := &weftv1.MigrateStoreResult{To: "zk://h:2181/weft", Keys: 12, Pause: durationpb.New(123456 * time.Microsecond), Hosts: 2, Behind: f.behind}
	if f.one {
		done.Keys, done.Hosts = 1, 1
	}
	return s.Send(&weftv1.MigrateStoreProgress{Done: done})
}

func (f *fakeStores) AbortMigration(context.Context, *weftv1.AbortMigrationRequest) (*weftv1.AbortMigrationResponse, error) {
	f.aborted++
	return &weftv1.AbortMigrationResponse{To: "zk://h:2181/weft", Warning: f.warning}, f.moveErr
}

func TestStoreMigrate(t *testing.T) {
	const copied = "copying\nMoved 12 keys to zk://h:2181/weft. 2 hosts follow; claims had to wait for 123ms.\n"
	const moved = copied + "Now change --cluster-store of every host to zk://h:2181/weft.\n"
	const movedWithOpts = copied + "Now change --cluster-store of every host to zk://h:2181/weft, and --cluster-store-opt to what --to-opt was here.\n"
	refused := status.Error(codes.FailedPrecondition, "not all hosts can follow, so nothing was moved:\n  h2: no route")
	for name, tc := range map[string]struct {
		args []string
		fake func(*fakeMoves)
		want result
	}{
		"moved":     {[]string{"--to", "zk://h:2181/weft", "--to-opt", "kv.user=u,kv.passwordfile=/p", "--to-opt", "kv.path=/a"}, nil, result{movedWithOpts, "", 0}},
		"refused":   {[]string{"--to", "zk://h:2181/weft"}, func(f *fakeMoves) { f.moveErr = refused }, result{"copying\n", "Error: not all hosts can follow, so nothing was moved:\n  h2: no route\n", 1}},
		"behind":    {[]string{"--to", "zk://h:2181/weft"}, func(f *fakeMoves) { f.behind = []string{"h3"} }, result{moved, "Error: not yet there: h3. They follow as soon as they can reach both stores: see weft store status there, and leave the old store running until then\n", 1}},
		"silent":    {[]string{"--to", "zk://h:2181/weft"}, func(f *fakeMoves) { f.silent = true }, result{"copying\n", "Error: the agent ended the move without a word; see weft store status\n", 1}},
		"aborted":   {[]string{"--abort"}, nil, result{"The move to zk://h:2181/weft is ended; everything goes on in the old store.\n", "", 0}},
		"abort":     {[]string{"--abort"}, func(f *fakeMoves) { f.warning = "some stays" }, result{"The move to zk://h:2181/weft is ended; everything goes on in the old store.\n", "WARNING: some stays\n", 0}},
		"one":       {[]string{"--to", "zk://h:2181/weft"}, func(f *fakeMoves) { f.one = true }, result{strings.NewReplacer("12 keys", "1 key", "2 hosts follow", "1 host follows").Replace(moved), "", 0}},
		"no target": {nil, nil, result{"", "weft: --to is missing: it names the store that the records are to move to\nSee 'weft store migrate --help'.\n", 1}},
		"both":      {[]string{"--abort", "--to", "x"}, nil, result{"", "weft: --abort goes without --to and --to-opt\nSee 'weft store migrate --help'.\n", 1}},
	} {
		t.Run(name, func(t *testing.T) {
			f, s := newFake(), newShell(t)
			if tc.fake != nil {
				tc.fake(&f.fakeMoves)
			}
			f.serve(t, s.path)
			if got := s.run(append([]string{"store", "migrate"}, tc.args...)...); got != tc.want {
				t.Errorf("got %+v\nwant %+v", got, tc.want)
			}
			if name == "moved" && (len(f.moves) != 1 || f.moves[0].To != "zk://h:2181/weft" || f.moves[0].Opts["kv.passwordfile"] != "/p" || f.moves[0].Opts["kv.user"] != "u") {
				t.Errorf("the agent was asked %v", f.moves)
			}
		})
	}
	s := newShell(t)
	if r := s.run("__complete", "store", "migrate", "--to", ""); !strings.Contains(r.out, "consul://") {
		t.Errorf("completion: %+v", r)
	}
	if r := s.run("__complete", "store", ""); !strings.Contains(r.out, "migrate") || !strings.Contains(r.out, "check") || !strings.Contains(r.out, "status") {
		t.Errorf("completion: %+v", r)
	}
}
