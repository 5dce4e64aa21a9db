package command

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	weftv1 "weft/proto/weft/v1"
)

const question = "WARNING! This will remove all custom networks not used by at least one container.\nAre you sure you want to continue? [y/N] "

func TestPrune(t *testing.T) {
	tests := []struct {
		name, answer string
		args         []string
		want         result
	}{
		{"yes", "y\n", nil, result{question + "Deleted Networks:\nold\nnew\n\n", "", 0}},
		{"no", "n\n", nil, result{question + "\n", "", 0}},
		{"end of stdin", "", nil, result{question + "\n", "", 0}},
		{"forced", "", []string{"-f"}, result{"Deleted Networks:\nold\nnew\n\n", "", 0}},
		{"until", "", []string{"-f", "--filter", "until=24h"}, result{"Deleted Networks:\nold\n\n", "", 0}},
		{"without label", "", []string{"-f", "--filter", "label!=keep"}, result{"Deleted Networks:\nnew\n\n", "", 0}},
		{"without label of that value", "", []string{"-f", "--filter", "label!=keep=2"}, result{"Deleted Networks:\nold\nnew\n\n", "", 0}},
		{"nothing", "", []string{"-f", "--filter", "until=2001-01-01"}, result{"", "", 0}},
		{"bad until", "", []string{"-f", "--filter", "until=soon"},
			result{"", "Error: invalid filter: 'until'='soon': it is a duration (24h), a time (2026-01-02T15:04:05) or seconds since 1970\n", 1}},
		{"bad filter", "", []string{"-f", "--filter", "name=x"}, result{"", "Error: invalid filter 'name': prune takes label, label! and until\n", 1}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f, s := newFake(), newShell(t)
			f.networks = []*weftv1.Network{
				{Id: oldID, Name: "old", Created: timestamppb.New(time.Now().Add(-48 * time.Hour)), Labels: map[string]string{"keep": "1"}},
				{Id: webID, Name: "new", Created: timestamppb.Now()},
			}
			f.serve(t, s.path)
			s.in = strings.NewReader(tt.answer)
			if r := s.run(append([]string{"network", "prune"}, tt.args...)...); r != tt.want {
				t.Errorf("got %+v, want %+v", r, tt.want)
			}
			removed := f.count(func(m proto.Message) bool { _, ok := m.(*weftv1.RemoveNetworkRequest); return ok })
			if said := strings.Count(strings.TrimPrefix(tt.want.out, question), "\n") - 2; removed != max(said, 0) {
				t.Errorf("%d networks were removed", removed)
			}
		})
	}
}

// Where nobody can tell whether a network is used, it is said that it is left alone.
func TestPruneSaysWhatItDidNotLookAt(t *testing.T) {
	f, s := newFake(), newShell(t)
	f.unknown = true
	f.serve(t, s.path)
	if r := s.run("network", "prune", "-f"); r.code != 0 || !strings.Contains(r.err, "WARNING: web, db: not looked at, since the cluster store is not reachable") {
		t.Errorf("got %+v", r)
	}
}

// One that came into use meanwhile stays, and the others go.
func TestPruneGoesOn(t *testing.T) {
	f, s := newFake(), newShell(t)
	f.networks = []*weftv1.Network{{Id: oldID, Name: "old"}, {Id: webID, Name: "new"}}
	f.refuse[oldID] = status.Error(codes.FailedPrecondition, "network old has active endpoints")
	f.serve(t, s.path)
	want := result{"Deleted Networks:\nnew\n\n", "Error: network old has active endpoints\n", 1}
	if r := s.run("network", "prune", "-f"); r != want {
		t.Errorf("got %+v, want %+v", r, want)
	}
}
