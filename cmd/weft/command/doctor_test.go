package command

import (
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	weftv1 "weft/proto/weft/v1"
)

// fakeDoctor is the part of the fake that examines.
type fakeDoctor struct {
	checks    []*weftv1.Check
	quick     bool
	doctorErr error
}

func (f *fake) Doctor(r *weftv1.DoctorRequest, s grpc.ServerStreamingServer[weftv1.DoctorProgress]) error {
	f.quick = r.Quick
	for _, c := range f.checks {
		if err := s.Send(&weftv1.DoctorProgress{Checking: c.Name}); err != nil {
			return err
		}
		if err := s.Send(&weftv1.DoctorProgress{Check: c}); err != nil {
			return err
		}
	}
	return f.doctorErr
}

func TestDoctor(t *testing.T) {
	t.Parallel()
	ok := &weftv1.Check{Name: "store", Status: "ok", Finding: "it answers"}
	warning := &weftv1.Check{Name: "clock", Status: "warning", Finding: "nobody keeps it", Remedy: "use NTP"}
	bad := &weftv1.Check{
		Name: "tunnel", Subject: "h2", Status: "error", Finding: strings.TrimSpace(strings.Repeat("what is sent does not arrive ", 3)), Remedy: strings.TrimSpace(strings.Repeat("let it pass ", 7)),
	}
	const okText, warningText = "ok       store     it answers\n", "warning  clock     nobody keeps it\n                   → use NTP\n"
	const badText = "error    tunnel    h2: what is sent does not arrive what is sent does not arrive\n                   what is sent does not arrive\n" +
		"                   → let it pass let it pass let it pass let it pass let it pass\n                     let it pass let it pass\n"
	for name, tc := range map[string]struct {
		args   []string
		checks []*weftv1.Check
		err    error
		want   result
	}{
		"well":                 {nil, []*weftv1.Check{ok}, nil, result{okText + "1 check: all is well.\n", "", 0}},
		"a warning":            {nil, []*weftv1.Check{ok, warning}, nil, result{okText + warningText + "2 checks: 0 errors, 1 warning.\n", "", 0}},
		"a warning, strict":    {[]string{"--strict", "-q"}, []*weftv1.Check{ok, warning}, nil, result{warningText, "", 1}},
		"an error":             {nil, []*weftv1.Check{bad, ok}, nil, result{badText + okText + "2 checks: 1 error, 0 warnings.\n", "", 1}},
		"quiet and well":       {[]string{"-q"}, []*weftv1.Check{ok}, nil, result{"", "", 0}},
		"template":             {[]string{"--format", "{{.Status}} {{.Name}} {{.Subject}}"}, []*weftv1.Check{bad, ok}, nil, result{"error tunnel h2\nok store \n", "", 1}},
		"table":                {[]string{"--format", "table {{.Name}}\t{{.Status}}"}, []*weftv1.Check{ok}, nil, result{"NAME      STATUS\nstore     ok\n", "", 0}},
		"json":                 {[]string{"--format", "json"}, []*weftv1.Check{ok}, nil, result{`{"Finding":"it answers","Name":"store","Remedy":"","Status":"ok","Subject":""}` + "\n", "", 0}},
		"json, nothing to say": {[]string{"--format", "json", "-q"}, []*weftv1.Check{ok}, nil, result{"", "", 0}},
		"an agent that fails":  {nil, []*weftv1.Check{ok}, status.Error(codes.Internal, "it broke"), result{okText, "Error: it broke\n", 1}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, sh := newFake(), newShell(t)
			f.fakeDoctor = fakeDoctor{checks: tc.checks, doctorErr: tc.err}
			f.serve(t, sh.path)
			if got := sh.run(append([]string{"doctor"}, tc.args...)...); got != tc.want {
				t.Errorf("got %+v, want %+v", got, tc.want)
			}
		})
	}
	f, sh := newFake(), newShell(t)
	f.serve(t, sh.path)
	if sh.run("doctor", "--quick"); !f.quick {
		t.Error("--quick did not reach the agent")
	}
}
