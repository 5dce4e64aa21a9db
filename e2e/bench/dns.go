package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

const (
	dnsClients     = 8
	dnsOutstanding = 20
)

var responderAddr = netip.MustParseAddrPort("127.0.0.12:53")

// measureDNS asks the resolver in a sandbox with dnsperf, in turns with the least that could answer there: a program that turns the question
// round and puts a fixed address behind it.
func (b *bench) measureDNS(ctx context.Context) (err error) {
	network, _, err := b.network(ctx, "")
	if err != nil {
		return err
	}
	var boxes []*box
	var names strings.Builder
	for _, h := range b.hosts[:2] {
		more, err := b.boxesOn(ctx, h, b.n(10, 2))
		if err != nil {
			return err
		}
		boxes = append(boxes, more...)
	}
	for _, x := range boxes {
		if err := x.connect(ctx, network); err != nil {
			return err
		}
		fmt.Fprintf(&names, "%s A\n", x.name)
	}
	file := filepath.Join(b.cfg.Dir, "names")
	if err := os.WriteFile(file, []byte(names.String()), 0o600); err != nil {
		return fmt.Errorf("write the names to ask for: %w", err)
	}
	asking, err := b.box(ctx, b.hosts[2])
	if err != nil {
		return err
	}
	if err := asking.connect(ctx, network); err != nil {
		return err
	}
	stop, err := respond(asking.netns, responderAddr)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	var rate, latency, cpu pairs
	pids := []int{b.hosts[2].PID(), os.Getpid()}
	for i := range b.n(19, 1) {
		var got [2]dnsResult
		for j := range got {
			k := (i + j) % 2
			server := []netip.AddrPort{resolverAddr, responderAddr}[k]
			before, err := cpuTime(pids[k])
			if err != nil {
				return err
			}
			if got[k], err = dnsperf(ctx, asking.netns, server, file); err != nil {
				return err
			}
			after, err := cpuTime(pids[k])
			if err != nil {
				return err
			}
			got[k].cpu = float64((after - before).Microseconds()) / got[k].queries
		}
		rate.add(got[0].rate, got[1].rate)
		latency.add(got[0].latency, got[1].latency)
		cpu.add(got[0].cpu, got[1].cpu)
	}
	const peer = "a responder that only turns the question round"
	b.report.pair("DNS in a sandbox", "/s", peer+fmt.Sprintf("; dnsperf -c %d -q %d", dnsClients, dnsOutstanding), rate, atLeast(100_000, "/s"))
	b.report.pair("DNS in a sandbox, mean latency", "µs", peer, latency, atMost(300, "µs"))
	b.report.pair("DNS in a sandbox, CPU for one answer", "µs", peer, cpu)
	return remove(ctx, append(boxes, asking)...)
}

type dnsResult struct {
	queries, rate float64 // in all; a second
	latency, cpu  float64 // µs
}

var (
	completed   = regexp.MustCompile(`Queries completed:\s+([0-9]+)`)
	perSecond   = regexp.MustCompile(`Queries per second:\s+([0-9.]+)`)
	meanLatency = regexp.MustCompile(`Average Latency \(s\):\s+([0-9.]+)`)
	lostQueries = regexp.MustCompile(`Queries lost:\s+([0-9]+)`)
	goodCodes   = regexp.MustCompile(`Response codes:\s+NOERROR [0-9]+ \(100\.00%\)`)
)

// dnsperf runs it in a namespace. Lost queries and answers other than good ones are errors: they would make the rate worthless.
func dnsperf(ctx context.Context, ns string, server netip.AddrPort, names string) (dnsResult, error) {
	args := []string{
		"--net=" + ns, "dnsperf", "-s", server.Addr().String(), "-p", strconv.Itoa(int(server.Port())), "-d", names, "-l", "1",
		"-c", strconv.Itoa(dnsClients), "-q", strconv.Itoa(dnsOutstanding), "-t", "1",
	}
	cmd := exec.CommandContext(ctx, "nsenter", args...)
	cmd.WaitDelay = time.Second
	raw, err := cmd.CombinedOutput()
	if err != nil {
		return dnsResult{}, fmt.Errorf("dnsperf: %w\n%s", err, raw)
	}
	text := string(raw)
	lost := lostQueries.FindStringSubmatch(text)
	if lost == nil || lost[1] != "0" || !goodCodes.MatchString(text) {
		return dnsResult{}, fmt.Errorf("dnsperf against %s had lost or bad answers:\n%s", server, text)
	}
	var r dnsResult
	for _, f := range []struct {
		in    *regexp.Regexp
		to    *float64
		scale float64
	}{{completed, &r.queries, 1}, {perSecond, &r.rate, 1}, {meanLatency, &r.latency, 1e6}} {
		m := f.in.FindStringSubmatch(text)
		if m == nil {
			return r, fmt.Errorf("dnsperf said something unexpected:\n%s", text)
		}
		v, err := strconv.ParseFloat(m[1], 64)
		if err != nil {
			return r, fmt.Errorf("dnsperf: %w", err)
		}
		*f.to = v * f.scale
	}
	return r, nil
}

// respond answers every question in a namespace with one address, until stop is called.
func respond(ns string, at netip.AddrPort) (stop func() error, err error) {
	var c *net.UDPConn
	err = in(ns, func() (err error) {
		c, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(at))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("answer in a sandbox: %w", err)
	}
	_ = c.SetReadBuffer(1 << 20) // as large as it may be
	ended := make(chan error, 1)
	go func() { ended <- answerAll(c) }()
	return func() error {
		err := c.Close()
		return errors.Join(err, <-ended)
	}, nil
}

// answer is one A record for the name of the question.
var answer = []byte{0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 4, 0, 4, 10, 0, 0, 1}

func answerAll(c *net.UDPConn) error {
	buf := make([]byte, 512, 512+len(answer))
	for {
		n, from, err := c.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("answer in a sandbox: %w", err)
		}
		if n < 12 {
			continue
		}
		buf[2] |= 0x80 // a response
		buf[7] = 1     // with one answer
		if _, err := c.WriteToUDPAddrPort(append(buf[:n], answer...), from); err != nil && !errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("answer in a sandbox: %w", err)
		}
	}
}
