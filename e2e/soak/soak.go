package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"weft/e2e/lab"
	weftv1 "weft/proto/weft/v1"
	"weft/store"
	"weft/store/open"
	"weft/store/storetest/server"
)

// soak is one run.
type soak struct {
	cfg    config
	lab    *lab.Lab
	node   *lab.Node // the store's
	server *server.Cluster
	client store.Store // beside the agents'
	hosts  []*host
	world  *world
	rand   *rand.Rand
	stays  []*stayer
	probes []*way
	report *Report
	began  time.Time
}

// host is a host with the client of its agent.
type host struct {
	*lab.Host
	cluster weftv1.ClusterClient
}

// Times of the course.
const (
	storePort = 2379
	readyTime = 90 * time.Second
	agreeTime = 45 * time.Second // until all agrees after a fault: a session's bound, and time to catch up
	warmup    = 12               // actions before the first sample, so that everything has been used once
	pause     = 12               // actions between two faults, at most
)

// live runs a soak. The report is nil where it did not come so far that there is something to report.
func live(ctx context.Context, cfg config) (_ *Report, err error) {
	s := &soak{cfg: cfg, world: newWorld(cfg.Hosts), rand: rand.New(rand.NewPCG(cfg.Seed, 0)), report: newReport()}
	s.say("seed %d", cfg.Seed)
	if s.lab, err = lab.New(ctx, lab.Config{Dir: cfg.Dir, Weftd: cfg.Weftd, Weft: filepath.Join(filepath.Dir(cfg.Weftd), "weft"), Store: s}); err != nil {
		return nil, fmt.Errorf("make the lab: %w", err)
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if err := s.startStore(ctx); err != nil {
		return nil, err
	}
	if err := s.startHosts(ctx); err != nil {
		return nil, err
	}
	if err := s.startStayers(ctx); err != nil {
		return nil, err
	}
	err = s.course(ctx)
	for _, w := range s.probes {
		w.end()
		t, missing := w.tally()
		s.report.flows = append(s.report.flows, t)
		for _, m := range missing {
			s.say("lost along %s: %s", t.name, m)
		}
	}
	s.report.Took = time.Since(s.began)
	return s.report, err
}

// course is: warm up, measure, live with faults, clear, measure.
func (s *soak) course(ctx context.Context) error {
	s.began = time.Now()
	if err := errors.Join(s.churn(ctx, warmup), s.clear(ctx)); err != nil {
		return err
	}
	for time.Since(s.began) < s.cfg.Time {
		if err := s.churn(ctx, 1+s.rand.IntN(pause)); err != nil {
			return err
		}
		if err := s.fault(ctx, s.world.chooseFault(s.rand)); err != nil {
			return err
		}
		if err := s.agree(ctx); err != nil {
			return err
		}
		if err := s.measure(ctx); err != nil {
			return err
		}
	}
	return s.clear(ctx)
}

// clear takes away all that comes and goes, and measures what is left.
func (s *soak) clear(ctx context.Context) error {
	for _, a := range s.world.clearing() {
		if err := s.act(ctx, a); err != nil {
			return err
		}
	}
	if err := s.agree(ctx); err != nil {
		return err
	}
	return s.rest(ctx)
}

// rest measures when nothing moves any more: what lets go of things does so within seconds (a session's keys, a connection's end).
func (s *soak) rest(ctx context.Context) error {
	const atRest = 10 * time.Second
	for end := time.Now().Add(atRest); ; {
		last, err := s.look(ctx)
		if err != nil {
			return err
		}
		if time.Now().After(end) || len(s.report.whose) > 0 && !s.leaks(last) {
			s.takeAll(last)
			return nil
		}
		if err := wait(ctx, time.Second); err != nil {
			return err
		}
	}
}

// leaks tells whether a look would end in a leak.
func (s *soak) leaks(seen map[string]values) bool {
	for whose, v := range seen {
		for _, m := range append(append([]measure(nil), measures...), storeMeasure) {
			if sp := s.report.spans[whose][m.name]; sp != nil && m.leak(span{begin: sp.begin, end: v[m.name]}) {
				return true
			}
		}
	}
	return false
}

// measure looks once.
func (s *soak) measure(ctx context.Context) error {
	seen, err := s.look(ctx)
	if err == nil {
		s.takeAll(seen)
	}
	return err
}

func (s *soak) takeAll(seen map[string]values) {
	for _, h := range s.hosts {
		s.report.take(h.Name, seen[h.Name])
	}
	s.report.take("store", seen["store"])
}

func (s *soak) look(ctx context.Context) (map[string]values, error) {
	out := map[string]values{}
	for _, h := range s.hosts {
		v, err := sample(ctx, h)
		if err != nil {
			return nil, err
		}
		out[h.Name] = v
	}
	keys, err := s.keys(ctx)
	out["store"] = values{"keys": keys}
	return out, err
}

// keys counts the records of the cluster; the signs of life come and go with the agents.
func (s *soak) keys(ctx context.Context) (n int64, err error) {
	parts, err := s.client.(store.Partitioner).Partitions(ctx)
	if err != nil {
		return 0, fmt.Errorf("count the store's keys: %w", err)
	}
	for _, p := range parts {
		if p == store.Alive {
			continue
		}
		l, err := s.client.List(ctx, p)
		if err != nil {
			return 0, fmt.Errorf("count the store's keys: %w", err)
		}
		n += int64(len(l.Entries))
	}
	return n, nil
}

// Args are weftd's options for the store.
func (s *soak) Args(*lab.Host) []string { return []string{"--cluster-store", s.url()} }

func (s *soak) url() string {
	return fmt.Sprintf("%s://%s/weft", s.cfg.Store, netip.AddrPortFrom(s.node.Addr, storePort))
}

func (s *soak) startStore(ctx context.Context) (err error) {
	if s.node, err = s.lab.AddNode("store"); err != nil {
		return err
	}
	dir := filepath.Join(s.cfg.Dir, "store")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("make the store's directory: %w", err)
	}
	s.server, err = server.Start(ctx, server.Options{
		Kind: s.cfg.Store, Dir: dir, Host: s.node.Addr.String(), Port: storePort, Dial: s.node.Dial,
		Start: func(_ *server.Member, cmd *exec.Cmd) error { return s.node.Start(cmd) },
	})
	if err != nil {
		return err
	}
	s.client, err = open.Open(s.url(), nil, open.Options{Dial: s.node.Dial})
	return err
}

func (s *soak) startHosts(ctx context.Context) error {
	for i := range s.cfg.Hosts {
		h, err := s.lab.AddHost(fmt.Sprintf("host%d", i+1))
		if err != nil {
			return err
		}
		c, err := h.Client()
		if err != nil {
			return err
		}
		s.hosts = append(s.hosts, &host{Host: h, cluster: weftv1.NewClusterClient(c)})
		if err := s.up(ctx, h); err != nil {
			return err
		}
	}
	return nil
}

// up starts an agent and waits until it is a member that has brought its host in line.
func (s *soak) up(ctx context.Context, h *lab.Host) error {
	ctx, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	if err := errors.Join(h.Up(ctx), h.Joined(ctx)); err != nil {
		return fmt.Errorf("%w\nthe last lines of its log:\n%s", err, h.Log(8))
	}
	return nil
}

// close ends everything, also after an interrupt.
func (s *soak) close() error {
	var errs []error
	for _, w := range s.probes {
		w.end()
	}
	for _, st := range s.stays {
		st.quiet()
	}
	if s.client != nil {
		errs = append(errs, s.client.Close())
	}
	if s.server != nil {
		errs = append(errs, s.server.Stop())
	}
	return errors.Join(append(errs, s.lab.Close())...)
}

// say tells of progress, with the time since the beginning.
func (s *soak) say(format string, args ...any) {
	at := time.Duration(0)
	if !s.began.IsZero() {
		at = time.Since(s.began)
	}
	_, _ = fmt.Fprintf(s.cfg.Progress, "%7.1fs  %s\n", at.Seconds(), fmt.Sprintf(format, args...)) // progress that cannot be shown is no reason to stop
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}
