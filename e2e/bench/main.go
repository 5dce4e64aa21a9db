// Command bench measures weft beside what it stands on: raw netlink, the raw store, bare veth, a VXLAN made by hand. It is at the end of the
// flow, beside the tests of whole hosts: it runs real agents on the hosts of a lab, with a store server of their own, and asks them what a
// user's command asks. `make bench` runs it.
//
// Read it in this order: main.go and bench.go (the lab and the order of the parts), sample.go and report.go (what becomes of the numbers),
// then one file per part. Wherever two things are compared they are measured in turns, one right after the other; what counts is the
// median of the pairs' ratios, and the interval that it lies in. No number makes the command fail: a bar that is missed is shown as such.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"weft/store/storetest/server"
)

func main() {
	if spec, ok := os.LookupEnv(childVar); ok {
		exit(runChild(context.Background(), spec, os.Stdin, os.Stdout))
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

func exit(err error) {
	if err == nil || errors.Is(err, flag.ErrHelp) {
		os.Exit(0)
	}
	fmt.Fprintf(os.Stderr, "bench: %v\n", err)
	os.Exit(1)
}

func run(ctx context.Context, args []string, out, progress io.Writer) error {
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.SetOutput(progress)
	cfg := config{Progress: progress}
	var file, only, stores string
	fs.StringVar(&file, "json", "", "write the report to this `FILE`, too")
	fs.StringVar(&cfg.Dir, "dir", "/var/tmp/weft-bench", "`directory` on a real disk, which is made and removed")
	fs.StringVar(&cfg.Weftd, "weftd", filepath.Join("bin", "weftd"), "the agent's `program`; the command is beside it")
	fs.StringVar(&only, "only", "", "comma-separated `parts` to measure: "+strings.Join(partNames(), ", "))
	fs.StringVar(&stores, "stores", "", "comma-separated `stores` to measure on: etcd, consul, zk")
	fs.StringVar(&cfg.Other, "other", "", "an agent's `program` of another version: with --only restart, every second start is an upgrade or a downgrade")
	fs.BoolVar(&cfg.Quick, "quick", false, "few samples: whether it works, not how fast it is")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if only != "" {
		cfg.Only = strings.Split(only, ",")
	}
	if stores != "" {
		for _, s := range strings.Split(stores, ",") {
			cfg.Stores = append(cfg.Stores, server.Kind(s))
		}
	}
	var err error
	if cfg.Other != "" {
		if cfg.Other, err = filepath.Abs(cfg.Other); err != nil {
			return err
		}
	}
	if cfg.Weftd, err = filepath.Abs(cfg.Weftd); err != nil {
		return err
	}
	report, err := measure(ctx, cfg)
	if report == nil {
		return err
	}
	err = errors.Join(err, report.print(out))
	if file != "" {
		err = errors.Join(err, report.save(file))
	}
	return err
}
