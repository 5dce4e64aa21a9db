// Command soak lets a cluster live: three hosts with a real store, sandboxes that come and go on them, agents that are killed, hosts that lose power, cables
// that are cut, a store that goes away. `make soak` runs it. Meanwhile packets between sandboxes that stay are counted and names are asked; at rest the
// records, the kernel and what was asked for must agree; and at the end, when all that came has gone again, nothing of it may be left.
//
// Read it in this order: world.go (what there is to be, and the choice of what to do next, which a seed decides), soak.go (the course of it), act.go and
// fault.go (what is done to the hosts), probe.go (packets and names), check.go (what must agree), sample.go and report.go (what is measured).
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
	"slices"
	"syscall"
	"time"

	"weft/store/storetest/server"
)

type config struct {
	Dir      string
	Weftd    string
	Store    server.Kind
	Hosts    int
	Time     time.Duration
	Seed     uint64
	Progress io.Writer
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	if err == nil || errors.Is(err, flag.ErrHelp) {
		return
	}
	fmt.Fprintf(os.Stderr, "soak: %v\n", err)
	os.Exit(1)
}

func run(ctx context.Context, args []string, out, progress io.Writer) error {
	fs := flag.NewFlagSet("soak", flag.ContinueOnError)
	fs.SetOutput(progress)
	cfg := config{Progress: progress}
	store := fs.String("store", "etcd", "the `store`: etcd, consul or zk")
	fs.StringVar(&cfg.Dir, "dir", "/var/tmp/weft-soak", "`directory` on a real disk, which is made and removed")
	fs.StringVar(&cfg.Weftd, "weftd", filepath.Join("bin", "weftd"), "the agent's `program`; the command is beside it")
	fs.IntVar(&cfg.Hosts, "hosts", 3, "`number` of hosts, 3 to 9")
	fs.DurationVar(&cfg.Time, "time", 3*time.Minute, "`how long` sandboxes come and go")
	fs.Uint64Var(&cfg.Seed, "seed", uint64(time.Now().UnixNano()), "`seed` of what is done: the same one chooses the same actions")
	if err := fs.Parse(args); err != nil {
		return err
	}
	cfg.Store = server.Kind(*store)
	switch {
	case !slices.Contains(server.Kinds, cfg.Store):
		return fmt.Errorf("--store %s: the stores are %v", *store, server.Kinds)
	case cfg.Hosts < 3 || cfg.Hosts > 9:
		return fmt.Errorf("--hosts %d: it is 3 to 9", cfg.Hosts)
	case fs.NArg() > 0:
		return fmt.Errorf("%q is no option", fs.Arg(0))
	}
	var err error
	if cfg.Weftd, err = filepath.Abs(cfg.Weftd); err != nil {
		return err
	}
	report, err := live(ctx, cfg)
	if report != nil {
		err = errors.Join(err, report.print(out))
	}
	if err != nil {
		return fmt.Errorf("with --store %s --hosts %d --seed %d: %w", cfg.Store, cfg.Hosts, cfg.Seed, err)
	}
	return report.verdict()
}
