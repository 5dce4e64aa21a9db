package weft

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// allowed is the table of docs/architecture.md: what each package may import of this module. A package that is not here fails the test;
// "*" is everything but cmd.
var allowed = map[string][]string{
	"proto/weft/v1":           {},
	"store":                   {},
	"store/etcd":              {"store"},
	"store/consul":            {"store"},
	"store/memory":            {"store"},
	"store/zk":                {"store"},
	"store/local":             {"store", "store/memory"},
	"store/embedded":          {"store", "store/etcd"},
	"store/credential":        {"store"},
	"store/open":              {"store", "store/credential", "store/etcd", "store/consul", "store/zk", "store/embedded", "store/memory", "store/local"},
	"store/storetest":         {"store", "store/storetest/server", "kernel/netnstest"},
	"store/storetest/server":  {},
	"store/record":            {"store"},
	"store/follow":            {"store", "store/record"},
	"store/backup":            {"store"},
	"store/relay":             {"store"},
	"ipam":                    {},
	"kernel":                  {},
	"kernel/fake":             {"kernel"},
	"kernel/netnstest":        {"kernel"},
	"port":                    {"store/record", "kernel"},
	"firewalld":               {},
	"bridge":                  {"store/record", "kernel", "port"},
	"overlay":                 {"store/record", "kernel", "port"},
	"dnssvc":                  {"store/record"},
	"vip":                     {"store/record", "kernel"},
	"agent/about":             {},
	"agent/event":             {},
	"agent/health":            {"store/record", "agent/peer"},
	"agent/peer":              {"proto/weft/v1", "store/record", "identity"},
	"agent/probe":             {"kernel"},
	"agent/doctor":            {"store/record", "kernel"},
	"identity":                {"store/credential"},
	"agent/registry":          {"store", "store/record", "store/backup", "ipam"},
	"agent/api":               {"proto/weft/v1", "store", "store/record", "agent/registry", "agent/event", "agent/doctor"},
	"agent/sandbox":           {"kernel"},
	"agent/dockerd":           {},
	"agent/journal":           {"store", "store/record"},
	"integrations/libnetwork": {"proto/weft/v1"},
	"integrations/ipamplugin": {},

	"integrations/ipamplugin/plugintest": {},

	"agent":            {"*"},
	"e2e/lab":          {"*"},
	"e2e/bench":        {"*"},
	"e2e/soak":         {"*"},
	"cmd/weftd":        {"*"},
	"cmd/weft":         {"*", "cmd/weft/command"},
	"cmd/weft/command": {"*", "cmd/weft/demo", "cmd/weft/table"},
	"cmd/weft/table":   {"proto/weft/v1"},
	"cmd/weft/demo":    {"e2e/lab"},
	"cmd/weft/docs":    {"agent/about", "cmd/weft/command"},
}

// Files are read by this process and not through `go list`, whose results the test cache would keep.
func TestImportsFollowTheTable(t *testing.T) {
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		src, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, src, parser.ImportsOnly)
		if err != nil {
			return err
		}
		name := filepath.Dir(path)
		may, known := allowed[name]
		if !known && name != "." {
			t.Errorf("%s: this package is not in the table", name)
			return nil
		}
		for _, i := range f.Imports {
			s, ours := strings.CutPrefix(strings.Trim(i.Path.Value, `"`), "weft/")
			free := slices.Contains(may, "*") && !strings.HasPrefix(s, "cmd/")
			if ours && !free && !slices.Contains(may, s) {
				t.Errorf("%s must not import %s", path, s)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A package without a word on its place in the flow is one that a newcomer has to guess at.
func TestEveryPackageHasADoc(t *testing.T) {
	documented := map[string]bool{}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || strings.HasSuffix(path, ".pb.go") {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.PackageClauseOnly|parser.ParseComments)
		if err != nil {
			return err
		}
		name := filepath.Dir(path)
		documented[name] = documented[name] || f.Doc != nil
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, ok := range documented {
		if !ok {
			t.Errorf("%s has no package comment", name)
		}
	}
}
