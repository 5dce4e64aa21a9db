package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"weft/e2e/lab"
	weftv1 "weft/proto/weft/v1"
	"weft/store/storetest/server"
)

type config struct {
	Dir      string
	Weftd    string
	Only     []string // parts; none: all
	Quick    bool
	Progress io.Writer
}

// bench is one run: a lab with an etcd server on a node of its own and agents on three hosts, of which the parts use what they need.
type bench struct {
	cfg    config
	report *Report
	lab    *lab.Lab
	store  *lab.Node
	hosts  []*host // a, b, c
	etcd   *server.Cluster
	made   int // names given
}

// host is a host with the clients of its agent.
type host struct {
	*lab.Host
	nets  weftv1.NetworksClient
	boxes weftv1.SandboxesClient
	home  string // a network that only this host's sandboxes are in; "" until there is one
}

// part is one subject of the report. Those without agents come first, while the machine is quiet.
type part struct {
	name   string
	title  string
	agents bool
	run    func(*bench, context.Context) error
}

func parts() []part {
	return []part{
		{"store", "a transaction", false, (*bench).measureStore},
		{"kernel", "the kernel part of an attach", false, (*bench).measureKernel},
		{"entries", "1,000 remote endpoints in the kernel", false, (*bench).measureEntries},
		{"attach", "attach and detach", true, (*bench).measureAttach},
		{"propagation", "from an attach on one host to an answer on another", true, (*bench).measurePropagation},
		{"dns", "names", true, (*bench).measureDNS},
		{"path", "throughput, request and response", true, (*bench).measurePath},
		{"churn", "an attach while 50 others are detached", true, (*bench).measureChurn},
		{"many", "the first attach into a network of 1,000 endpoints", true, (*bench).measureMany},
		{"memory", "memory", true, (*bench).measureMemory},
	}
}

func partNames() (out []string) {
	for _, p := range parts() {
		out = append(out, p.name)
	}
	return out
}

// measure runs the parts. A part that fails does not stop the others; what it says is in the report and in the error.
func measure(ctx context.Context, cfg config) (_ *Report, err error) {
	for _, name := range cfg.Only {
		if !slices.Contains(partNames(), name) {
			return nil, fmt.Errorf("--only %s: there is no such part", name)
		}
	}
	b := &bench{cfg: cfg, report: &Report{Failed: map[string]string{}}}
	if b.lab, err = lab.New(ctx, lab.Config{Dir: cfg.Dir, Weftd: cfg.Weftd, Store: b}); err != nil {
		return nil, fmt.Errorf("make the lab: %w", err)
	}
	defer func() { err = errors.Join(err, b.close()) }()
	if b.report.Machine, err = look(cfg.Dir); err != nil {
		return nil, err
	}
	if err := b.startStore(ctx); err != nil {
		return nil, err
	}
	var errs []error
	for _, p := range parts() {
		if len(cfg.Only) > 0 && !slices.Contains(cfg.Only, p.name) {
			continue
		}
		if err := b.runPart(ctx, p); err != nil {
			b.report.Failed[p.title] = err.Error()
			errs = append(errs, fmt.Errorf("measure %s: %w", p.title, err))
		}
		if ctx.Err() != nil {
			return nil, errors.New("interrupted; everything has been taken down")
		}
	}
	return b.report, errors.Join(errs...)
}

// partTime bounds one part: a wait that never ends must not leave hosts behind.
const partTime = 3 * time.Minute

func (b *bench) runPart(ctx context.Context, p part) error {
	ctx, cancel := context.WithTimeoutCause(ctx, partTime, errors.New("this part took too long"))
	defer cancel()
	began := time.Now()
	b.say("measuring %s", p.title)
	if p.agents {
		if err := b.startAgents(ctx); err != nil {
			return err
		}
	}
	err := p.run(b, ctx)
	b.say("  %s", time.Since(began).Round(100*time.Millisecond))
	return err
}

func (b *bench) say(format string, args ...any) {
	_, _ = fmt.Fprintf(b.cfg.Progress, format+"\n", args...) // progress that cannot be shown is no reason to stop
}

// n is how often something is measured.
func (b *bench) n(full, quick int) int {
	if b.cfg.Quick {
		return quick
	}
	return full
}

const etcdPort = 2379

func (b *bench) endpoint() string {
	return netip.AddrPortFrom(b.store.Addr, etcdPort).String()
}

// Args are weftd's options for the store.
func (b *bench) Args(*lab.Host) []string {
	return []string{"--cluster-store", "etcd://" + b.endpoint() + "/weft"}
}

// startStore starts an etcd server on a node of its own, with its data on the disk that look has seen.
func (b *bench) startStore(ctx context.Context) (err error) {
	b.say("starting etcd")
	if b.store, err = b.lab.AddNode("store"); err != nil {
		return err
	}
	dir := filepath.Join(b.cfg.Dir, "etcd")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("make the store's directory: %w", err)
	}
	b.etcd, err = server.Start(ctx, server.Options{
		Dir: dir, Host: b.store.Addr.String(), Port: etcdPort, Dial: b.store.Dial,
		Start: func(_ *server.Member, cmd *exec.Cmd) error { return b.store.Start(cmd) },
	})
	return err
}

// client is a plain client of etcd, on a node.
func (b *bench) client(from *lab.Node) (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{
		Endpoints: []string{b.endpoint()}, Logger: zap.NewNop(), DialTimeout: 5 * time.Second,
		DialOptions: []grpc.DialOption{grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return from.Dial(ctx, "tcp", addr)
		})},
	})
}

// startAgents brings the three hosts up, once.
func (b *bench) startAgents(ctx context.Context) error {
	if len(b.hosts) > 0 {
		return nil
	}
	for _, name := range []string{"a", "b", "c"} {
		h, err := b.lab.AddHost(name)
		if err != nil {
			return err
		}
		if err := h.Start(); err != nil {
			return err
		}
		c, err := h.Client()
		if err != nil {
			return err
		}
		b.hosts = append(b.hosts, &host{Host: h, nets: weftv1.NewNetworksClient(c), boxes: weftv1.NewSandboxesClient(c)})
	}
	for _, h := range b.hosts {
		if err := errors.Join(h.Ready(ctx), h.Joined(ctx)); err != nil {
			return fmt.Errorf("%w\nthe last lines of its log:\n%s", err, h.Log(5))
		}
	}
	return nil
}

// close ends everything, also after an interrupt.
func (b *bench) close() error {
	var errs []error
	if b.etcd != nil {
		errs = append(errs, b.etcd.Stop())
	}
	return errors.Join(append(errs, b.lab.Close())...)
}
