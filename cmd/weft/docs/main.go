// Command docs writes down what the weft command line is, from the commands themselves: docs/commands.md, and pages for man(1).
package main

import (
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra/doc"

	"weft/agent/about"
	"weft/cmd/weft/command"
)

//go:generate go run . markdown ../../../docs/commands.md

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "docs:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("usage: docs markdown FILE, or docs man DIRECTORY")
	}
	switch args[0] {
	case "markdown":
		return os.WriteFile(args[1], []byte(markdown(command.Tree())), 0o644)
	case "man":
		return man(args[1])
	}
	return fmt.Errorf("there are no %q: it is markdown or man", args[0])
}

// man writes a page for each command. Their date is SOURCE_DATE_EPOCH's where that is set, so that a build can be repeated.
func man(dir string) error {
	when := time.Now()
	if s, err := strconv.ParseInt(os.Getenv("SOURCE_DATE_EPOCH"), 10, 64); err == nil {
		when = time.Unix(s, 0).UTC()
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	root := command.Tree()
	root.DisableAutoGenTag = true
	return doc.GenManTree(root, &doc.GenManHeader{Section: "1", Manual: "weft", Source: "weft " + about.Version, Date: &when}, dir)
}
