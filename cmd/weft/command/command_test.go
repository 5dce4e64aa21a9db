package command

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weft/agent/about"
)

var update = flag.Bool("update", false, "rewrite the golden files from what the commands print now")

// Each file of testdata/script is a list of command lines with what they print to stdout and stderr, and their exit codes. The agent
// is the fake with its fixtures, and with refusals for the names below.
func TestScripts(t *testing.T) {
	t.Setenv("TZ", "UTC")
	files, err := filepath.Glob("testdata/script/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, name := range files {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			f := newFake()
			f.refuse["taken"] = status.Error(codes.AlreadyExists, "network with name taken already exists")
			f.refuse["busy"] = status.Error(codes.FailedPrecondition, "network busy id 1234 has active endpoints: c1 on h1")
			f.refuse["nostore"] = status.Error(codes.Unavailable, "cluster store etcd://x is not reachable")
			f.refuse["enc"] = status.Error(codes.Unimplemented, "option encrypted is not supported yet")
			f.refuse["gone"] = status.Error(codes.NotFound, "no such sandbox: gone")
			f.refuse["rm gone"] = f.refuse["gone"]
			s := newShell(t)
			f.serve(t, s.path)
			var got strings.Builder
			for line := range strings.Lines(string(text)) {
				args, ok := strings.CutPrefix(line, "$ weft")
				switch {
				case ok:
					r := s.run(words(t, args)...)
					got.WriteString(line + block("", strings.ReplaceAll(r.out, about.Version, "VERSION")) + block("2> ", strings.ReplaceAll(r.err, s.path, "SOCKET")))
					fmt.Fprintf(&got, "exit %d\n\n", r.code)
				case strings.HasPrefix(line, "#"):
					got.WriteString(line)
				}
			}
			if *update {
				if err := os.WriteFile(name, []byte(got.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if d := cmp.Diff(string(text), got.String()); d != "" && !*update {
				t.Errorf("what the commands print is not what %s says (-want +got; go test -update rewrites it):\n%s", name, d)
			}
		})
	}
}

func block(prefix, s string) string {
	var b strings.Builder
	for line := range strings.Lines(s) {
		b.WriteString(prefix + strings.TrimRight(line, " \n") + "\n")
	}
	return b.String()
}

// words splits a line as a shell does, as far as single quotes go.
func words(t *testing.T, line string) (out []string) {
	t.Helper()
	for i, part := range strings.Split(strings.TrimSpace(line), "'") {
		if i%2 == 1 {
			out = append(out, part)
			continue
		}
		out = append(out, strings.Fields(part)...)
	}
	return out
}
