package command

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	weftv1 "weft/proto/weft/v1"
)

func TestCIDFile(t *testing.T) {
	f, s := newFake(), newShell(t)
	f.serve(t, s.path)
	file := filepath.Join(t.TempDir(), "cid")
	if r := s.run("run", "-d", "--cidfile", file, "x"); r.code != 0 {
		t.Fatalf("exit %d, %q", r.code, r.err)
	}
	if raw, err := os.ReadFile(file); err != nil || string(raw) != boxID {
		t.Errorf("the file has %q, %v", raw, err)
	}
	if r := s.run("run", "-d", "--cidfile", file, "x"); r.code != 125 || !strings.Contains(r.err, "container ID file found") {
		t.Errorf("the second time: exit %d, %q", r.code, r.err)
	}
	if r := s.run("run", "-d", "--cidfile", filepath.Join(file, "x"), "x"); r.code != 125 || !strings.Contains(r.err, "failed to create the container ID file") {
		t.Errorf("in a file: exit %d, %q", r.code, r.err)
	}
	if got := last[*weftv1.RemoveSandboxRequest](t, f); got.Ref != boxID {
		t.Errorf("what cannot be told of is not removed: %v", got)
	}
}

func TestLabelFiles(t *testing.T) {
	f, s := newFake(), newShell(t)
	f.serve(t, s.path)
	file := filepath.Join(t.TempDir(), "labels")
	if err := os.WriteFile(file, []byte("# what\na=1\n\nb=x=y\nbare\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := s.run("run", "-d", "--label-file", file, "-l", "a=2", "x"); r.code != 0 {
		t.Fatalf("exit %d, %q", r.code, r.err)
	}
	want := map[string]string{"a": "2", "b": "x=y", "bare": ""}
	if d := cmp.Diff(want, last[*weftv1.CreateSandboxRequest](t, f).Labels); d != "" {
		t.Error(d)
	}
}

func FuzzParseRestart(f *testing.F) {
	for _, s := range []string{"", "no", "always", "on-failure:3", "on-failure:-1", "always:1", ":", "on-failure:1:2", "unless-stopped"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := parseRestart(s)
		if err != nil || p == nil {
			return
		}
		if p.Max < 0 || p.Max > 0 && p.Name != "on-failure" || !strings.HasPrefix(s, p.Name) {
			t.Errorf("%q is %v", s, p)
		}
	})
}
