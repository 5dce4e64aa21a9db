package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weft/e2e/lab"
)

// Docker's page "Work with network commands" goes as it is written: on one host with bridges, and on three with overlay networks.
func TestPageOnOneHost(t *testing.T) { walkPage(t, oneHost) }

func TestPageOnThreeHosts(t *testing.T) { walkPage(t, threeHosts) }

func walkPage(t *testing.T, mode string) {
	t.Parallel()
	newPage(t, mode).run(readScript(t, "testdata/page.txt", mode))
}

// page is the script being typed.
type page struct {
	t      *testing.T
	hosts  map[string]*host // by their names in the script
	values shownValues
}

func newPage(t *testing.T, mode string) *page {
	t.Helper()
	var c *cluster
	p := &page{t: t, hosts: map[string]*host{}, values: shownValues{"driver": "bridge", "scope": "local", "attachable": "false"}}
	if mode == oneHost {
		c = newCluster(t, 1, lab.Embedded{})
		c.start()
	} else {
		c = lossy(t, 5*time.Minute)
		p.values["driver"], p.values["scope"], p.values["attachable"] = "overlay", "global", "true"
	}
	for i := range 3 {
		name := fmt.Sprintf("host%d", i+1)
		h := c.hosts[min(i, len(c.hosts)-1)]
		p.hosts[name], p.values[name], p.values["ip:"+name] = h, h.Name, h.Addr.String()
	}
	p.hosts["lonely"] = p.lonely(c)
	dir := t.TempDir()
	must(t, os.Chmod(dir, 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "index.html"), []byte("<!DOCTYPE html>\n<p>Welcome to nginx!</p>\n"), 0o644))
	p.values["www"] = dir
	return p
}

// lonely is a host whose store is nowhere.
func (p *page) lonely(c *cluster) *host {
	p.t.Helper()
	h := c.addHost("lonely")
	h.ailing = "its store is nowhere"
	h.Args = []string{"--cluster-store", "etcd://192.0.2.250:2379/weft"} // the last one counts
	h.up()
	return h
}

func (p *page) run(steps []step) {
	p.t.Helper()
	failed := 0
	for _, s := range steps {
		if err := p.step(s); err != nil {
			p.t.Errorf("%s: %s$ %s\n%v", s.at, s.host, s.line, err)
			if failed++; failed == 12 {
				p.t.Fatal("the rest would only follow from that")
			}
		}
	}
}

func (p *page) step(s step) error {
	h := p.hosts[s.host]
	if h == nil {
		return fmt.Errorf("there is no host %s", s.host)
	}
	if s.action {
		return p.act(h, s.line)
	}
	end := time.Now().Add(settle)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := p.types(h, s)
		if err == nil || !s.later || time.Now().After(end) {
			return err
		}
		<-tick.C
	}
}

// types types a command once and compares what it does.
func (p *page) types(h *host, s step) error {
	out, errs, code, err := h.typed(p.values.command(s.line))
	if err != nil {
		return err
	}
	if err := p.values.compare(s.out, out); err != nil {
		return fmt.Errorf("%w\nand to stderr, exit %d:\n%s", err, code, errs)
	}
	if err := p.values.compare(s.errs, errs); err != nil {
		return fmt.Errorf("to stderr, exit %d: %w", code, err)
	}
	if code != s.code {
		return fmt.Errorf("exit %d, want %d; stdout:\n%s", code, s.code, out)
	}
	return nil
}

// act does something to a host.
func (p *page) act(h *host, what string) error {
	if of, ok := strings.CutPrefix(what, "notices "); ok {
		h.awaitLoss(p.hosts[of])
		return nil
	}
	switch what {
	case "kill":
		return h.Host.Kill()
	case "power-off":
		return h.PowerOff(within(p.t, patience))
	case "start":
		if err := h.Host.Up(within(p.t, patience)); err != nil {
			return err
		}
		return h.Joined(within(p.t, patience))
	}
	return fmt.Errorf("nobody knows how to %s a host", what)
}

// typed runs a line in the host's namespace as its user types it.
func (h *host) typed(line string) (out, errs string, code int, err error) {
	cmd := exec.CommandContext(within(h.c.t, patience), "/bin/sh", "-c", line)
	cmd.Env = append(os.Environ(), "WEFT_HOST="+h.Socket(), "PATH="+filepath.Dir(weftPath)+":"+os.Getenv("PATH"), "LC_ALL=C")
	var o, e bytes.Buffer
	cmd.Stdout, cmd.Stderr = &o, &e
	if err := h.Node.Start(cmd); err != nil {
		return "", "", 0, err
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() < 0) {
		return "", "", 0, fmt.Errorf("%w; it printed %s%s", err, o.String(), e.String())
	}
	return o.String(), strings.TrimRight(e.String(), "\n"), cmd.ProcessState.ExitCode(), nil
}
