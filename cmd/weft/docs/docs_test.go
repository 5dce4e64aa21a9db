package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft/cmd/weft/command"
)

func TestThePageIsWhatTheCommandsAre(t *testing.T) {
	t.Parallel()
	have, err := os.ReadFile("../../../docs/commands.md")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(have), markdown(command.Tree())); d != "" {
		t.Errorf("docs/commands.md is out of date: run make generate (-have +want):\n%s", d)
	}
}

func TestThePageHasEveryCommandAndOption(t *testing.T) {
	t.Parallel()
	page := markdown(command.Tree())
	for _, want := range []string{
		"## weft network create\n", "    weft network create [OPTIONS] NETWORK\n", "| `-d`, `--driver STRING` | `bridge` |",
		"Also: `list`", "[`weft network ls`](#weft-network-ls)", "`-H`, `--host STRING`",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page has no %q", want)
		}
	}
}

// The pages are those of a tree of files, one for each command, and the same each time for one date.
func TestManPages(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "86400")
	one, two := t.TempDir(), t.TempDir()
	for _, dir := range []string{one, two} {
		if err := run([]string{"man", dir}); err != nil {
			t.Fatal(err)
		}
	}
	pages, err := filepath.Glob(one + "/*.1")
	if err != nil || len(pages) < 30 {
		t.Fatalf("%d pages, %v", len(pages), err)
	}
	for _, p := range pages {
		a, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(two, filepath.Base(p)))
		if err != nil || string(a) != string(b) {
			t.Errorf("%s differs from one run to the next: %v", filepath.Base(p), err)
		}
	}
	text, err := os.ReadFile(one + "/weft-network-create.1")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`.TH "WEFT-NETWORK-CREATE" "1" "Jan 1970"`, `--subnet`, "EXAMPLE"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the page of network create has no %q:\n%s", want, text)
		}
	}
}

func TestRunRefuses(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{nil, {"man"}, {"html", t.TempDir()}, {"markdown", t.TempDir()}} {
		if err := run(args); err == nil {
			t.Errorf("%q was accepted", args)
		}
	}
}
