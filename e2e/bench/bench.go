package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"weft/e2e/lab"
	weftv1 "weft/proto/weft/v1"
	"weft/store/storetest/server"
)

type config struct {
	Dir      string
	Weftd    string
	Other    string        // another version's agent, for the part "restart"; "": the same
	Only     []string      // parts; none: all
	Stores   []server.Kind // none: all
	Quick    bool
	Progress io.Writer
}

// bench is one run on one store: a lab with its server on a node of its own and agents on three hosts, of which the parts use what they need.
type bench struct {
	cfg    config
	kind   server.Kind
	report *Report
	lab    *lab.Lab
	store  *lab.Node
	hosts  []*host // a, b, c
	server *server.Cluster
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
	each   bool // on each store, not only on etcd
	run    func(*bench, context.Context) error
}

func parts() []part {
	return []part{
		{"store", "transactions", false, true, (*bench).measureStore},
		{"events", "from a put to the event", false, true, (*bench).measureEvents},
		{"kernel", "the kernel part of an attach", false, false, (*bench).measureKernel},
		{"entries", "1,000 remote endpoints in the kernel", false, false, (*bench).measureEntries},
		{"idle", "what idle agents ask of the store", true, true, (*bench).measureIdle},
		{"attach", "attach and detach", true, true, (*bench).measureAttach},
		{"propagation", "from an attach on one host to an answer on another", true, true, (*bench).measurePropagation},
		{"restart", "packets lost while an agent is restarted", true, true, (*bench).measureRestart},
		{"dns", "names", true, false, (*bench).measureDNS},
		{"path", "throughput, request and response", true, false, (*bench).measurePath},
		{"vip", "connections through an alias with a virtual address", true, false, (*bench).measureVIP},
		{"ports", "published ports, and the way out", true, false, (*bench).measurePorts},
		{"bridge", "networks of one host: attach, throughput", true, false, (*bench).measureBridge},
		{"churn", "an attach while 50 others are detached", true, false, (*bench).measureChurn},
		{"many", "the first attach into a network of 1,000 endpoints", true, false, (*bench).measureMany},
		{"memory", "memory", true, false, (*bench).measureMemory},
		{"start", "an agent's start with 1,000 sandboxes and 10,000 remote endpoints", true, false, (*bench).measureStart},
		{"commands", "commands that list and inspect", true, false, (*bench).measureCommands},
	}
}

func partNames() (out []string) {
	for _, p := range parts() {
		out = append(out, p.name)
	}
	return out
}

// measure runs the parts on each store. A part that fails does not stop the others; what it says is in the report and in the error.
func measure(ctx context.Context, cfg config) (*Report, error) {
	for _, name := range cfg.Only {
		if !slices.Contains(partNames(), name) {
			return nil, fmt.Errorf("--only %s: there is no such part", name)
		}
	}
	if len(cfg.Stores) == 0 {
		cfg.Stores = server.Kinds
	}
	report := &Report{Failed: map[string]string{}}
	var errs []error
	for _, kind := range cfg.Stores {
		if !slices.Contains(server.Kinds, kind) {
			return nil, fmt.Errorf("--stores %s: there is no such store", kind)
		}
		report.on(kind)
		errs = append(errs, measureOn(ctx, cfg, kind, report))
		if ctx.Err() != nil {
			return nil, errors.Join(append(errs, errors.New("interrupted; everything has been taken down"))...)
		}
	}
	return report, errors.Join(errs...)
}

// measureOn runs the parts in a lab of its own.
func measureOn(ctx context.Context, cfg config, kind server.Kind, report *Report) (err error) {
	b := &bench{cfg: cfg, kind: kind, report: report}
	if b.lab, err = lab.New(ctx, lab.Config{Dir: cfg.Dir, Weftd: cfg.Weftd, Weft: filepath.Join(filepath.Dir(cfg.Weftd), "weft"), Store: b}); err != nil {
		return fmt.Errorf("make the lab: %w", err)
	}
	defer func() { err = errors.Join(err, b.close()) }()
	if report.Machine, err = look(cfg.Dir); err != nil {
		return err
	}
	if err := b.startStore(ctx); err != nil {
		return err
	}
	var errs []error
	for _, p := range parts() {
		if len(cfg.Only) > 0 && !slices.Contains(cfg.Only, p.name) || kind != server.Etcd && !p.each {
			continue
		}
		if err := b.runPart(ctx, p); err != nil {
			report.Failed[fmt.Sprintf("%s on %s", p.title, kind)] = err.Error()
			errs = append(errs, fmt.Errorf("measure %s on %s: %w", p.title, kind, err))
		}
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(errs...)
}

// partTime bounds one part: a wait that never ends must not leave hosts behind.
const partTime = 10 * time.Minute

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

// ports are those that the servers' own documentation has for clients.
var ports = map[server.Kind]uint16{server.Etcd: 2379, server.Consul: 8500, server.ZooKeeper: 2181}

func (b *bench) endpoint() string {
	return netip.AddrPortFrom(b.store.Addr, ports[b.kind]).String()
}

// Args are weftd's options for the store.
func (b *bench) Args(*lab.Host) []string {
	return []string{"--cluster-store", string(b.kind) + "://" + b.endpoint() + "/weft"}
}

// startStore starts a server on a node of its own, with its data on the disk that look has seen.
func (b *bench) startStore(ctx context.Context) (err error) {
	b.say("starting %s", b.kind)
	if b.store, err = b.lab.AddNode("store"); err != nil {
		return err
	}
	dir := filepath.Join(b.cfg.Dir, string(b.kind))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("make the store's directory: %w", err)
	}
	b.server, err = server.Start(ctx, server.Options{
		Kind: b.kind, Dir: dir, Host: b.store.Addr.String(), Port: int(ports[b.kind]), Dial: b.store.Dial,
		Start: func(_ *server.Member, cmd *exec.Cmd) error { return b.store.Start(cmd) },
	})
	return err
}

// client is a plain client of the store, on a node.
func (b *bench) client(from *lab.Node) (raw, error) { return newRaw(b.kind, b.endpoint(), from.Dial) }

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
	if b.server != nil {
		errs = append(errs, b.server.Stop())
	}
	return errors.Join(append(errs, b.lab.Close())...)
}
