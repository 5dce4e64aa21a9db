package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"weft/e2e/lab"
)

// tell goes through all that the demo shows, with the hosts left as they are then.
func (d *demo) tell(ctx context.Context) error {
	for _, part := range []func(context.Context) error{d.startHosts, d.makeNetwork, d.runServers, d.fetchByName, d.killAgent} {
		ctx, cancel := context.WithTimeoutCause(ctx, stepTime, errors.New("this took too long"))
		err := part(ctx)
		cancel()
		if err != nil {
			return err
		}
	}
	return nil
}

// startHosts brings three hosts up. The first has the store, so the others follow it.
func (d *demo) startHosts(ctx context.Context) error {
	done := d.step("Three hosts, an agent on each; the first one's also keeps the records")
	for i := range hostCount {
		h, err := d.lab.AddHost(fmt.Sprintf("host%d", i+1))
		if err != nil {
			return err
		}
		d.hosts = append(d.hosts, h)
	}
	group, starting := errgroup.WithContext(ctx)
	for _, h := range d.hosts {
		group.Go(func() error {
			if err := h.Up(starting); err != nil {
				return &hostError{h, err}
			}
			if err := h.Joined(starting); err != nil {
				return &hostError{h, err}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	done()
	_, err := d.weft(ctx, d.hosts[0], "host", "ls")
	return err
}

func (d *demo) makeNetwork(ctx context.Context) error {
	d.step("A network of two subnets, made on one host and known on all")()
	if _, err := d.weft(ctx, d.hosts[0], "network", "create", "-d", "overlay", "--subnet", "10.1.0.0/24", "--subnet", "10.2.0.0/24", "web"); err != nil {
		return err
	}
	// The news needs a few milliseconds to the other hosts, and may lose against the next line.
	if _, err := d.hosts[2].Weft(ctx, "network", "inspect", "web"); err != nil {
		return &hostError{d.hosts[2], err}
	}
	_, err := d.weft(ctx, d.hosts[2], "network", "ls")
	return err
}

func (d *demo) runServers(ctx context.Context) error {
	d.step("Two web servers on two hosts and in two subnets, with a common alias")()
	if _, err := d.weft(ctx, d.hosts[0], "run", "-d", "--name", "web1", "--network", "web", "--network-alias", "www", "--", "weft", "demo", "serve", "web1 on host1"); err != nil {
		return err
	}
	_, err := d.weft(ctx, d.hosts[1], "run", "-d", "--name", "web2", "--network", "web", "--network-alias", "www", "--ip", "10.2.0.20", "--", "weft", "demo", "serve", "web2 on host2")
	return err
}

func (d *demo) fetchByName(ctx context.Context) error {
	d.step("A client on the third host: a name, an alias that rotates")()
	if _, err := d.weft(ctx, d.hosts[2], "run", "--rm", "--name", "client", "--network", "web", "--", "weft", "demo", "fetch", "http://web2", "http://www", "http://www", "http://www", "http://www"); err != nil {
		return err
	}
	_, err := d.weft(ctx, d.hosts[2], "endpoint", "ls")
	return err
}

// steadyTime is how long the one connection lasts during which the agent is killed.
const steadyTime = 1500 * time.Millisecond

// killAgent kills the agent of a server's host in the middle of a connection, and starts it again.
func (d *demo) killAgent(ctx context.Context) error {
	d.step("An agent is killed in the middle of a connection")()
	client, server := d.hosts[2], d.hosts[1]
	args := []string{"run", "--rm", "--name", "steady", "--network", "web", "--", "weft", "demo", "fetch", "--for", steadyTime.String(), "http://web2"}
	d.command(client.Name, "weft", append(args, "&"))
	cmd := client.Command(ctx, d.real(args)...)
	began := &firstByte{seen: make(chan struct{})}
	var errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = began, &errs
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	fail := func(h *lab.Host, err error) error {
		_ = cmd.Process.Kill()
		<-ended
		return &hostError{h, err}
	}
	select {
	case <-began.seen:
	case err := <-ended:
		return &hostError{client, fmt.Errorf("the client ended early: %w: %s", errors.Join(err, ctx.Err()), errs.String())}
	}
	pid := server.PID()
	d.command(server.Name, "kill", []string{"-9", fmt.Sprint(pid), " # its weftd"})
	if err := server.Kill(); err != nil {
		return fail(server, err)
	}
	away := time.Now()
	select { // some of the connection goes on without any agent there
	case <-time.After(steadyTime / 3):
	case <-ctx.Done():
		return fail(server, ctx.Err())
	}
	d.command(server.Name, "weftd", []string{"--state-dir", server.StateDir, "…", "&"})
	if err := server.Up(ctx); err != nil {
		return fail(server, err)
	}
	d.note(fmt.Sprintf("the agent answers again; it was away for %s", shown(time.Since(away))))
	if err := <-ended; err != nil {
		return &hostError{client, fmt.Errorf("the connection suffered: %w: %s%s", err, began.text.String(), errs.String())}
	}
	d.output(strings.TrimPrefix(began.text.String(), connectedLine+"\n"))
	if _, err := d.weft(ctx, server, "run", "--rm", "--name", "after", "--network", "web", "--", "weft", "demo", "fetch", "http://web1"); err != nil {
		return err
	}
	return nil
}

// firstByte keeps what is written and tells when there is something.
type firstByte struct {
	text strings.Builder
	seen chan struct{}
}

func (f *firstByte) Write(p []byte) (int, error) {
	if f.text.Len() == 0 && len(p) > 0 {
		close(f.seen)
	}
	return f.text.Write(p)
}

// keep says what can be done with hosts that are left up.
func (d *demo) keep() {
	weft := d.lab.WeftPath()
	short := weft
	if found, err := exec.LookPath("weft"); err == nil && found == weft {
		short = "weft"
	}
	d.step("The hosts stay up; some things to try")()
	d.say("export WEFT_HOST=" + d.hosts[0].Socket())
	d.say(short + " network inspect web")
	d.say(short + " run --rm --network web -- " + weft + " demo fetch http://www")
	d.say("ip netns exec " + prefix + "1 ip -brief address")
	d.say("tail -f " + d.hosts[0].LogPath())
	d.say("")
	d.say("Host 2's agent is at " + d.hosts[1].Socket() + ", and so on.")
	d.say("To end it: " + short + " demo --down")
}

// end takes everything down as a user would, then the hosts, and looks at what is left.
func (d *demo) end(ctx context.Context, before lab.Traces) error {
	done := d.step("The end: everything is taken down")
	for i, name := range []string{"web1", "web2"} {
		if _, err := d.weft(ctx, d.hosts[i], "rm", "-f", name); err != nil {
			return d.explain(ctx, err)
		}
	}
	if _, err := d.weft(ctx, d.hosts[0], "network", "rm", "web"); err != nil {
		return d.explain(ctx, err)
	}
	if err := d.lab.Close(); err != nil {
		return err
	}
	after, err := lab.Look()
	if err != nil {
		return err
	}
	if left := after.Since(before); len(left) > 0 {
		return fmt.Errorf("left on this machine: %s", strings.Join(left, ", "))
	}
	d.note("ip netns           nothing left")
	d.note("ip link            nothing left")
	d.note("nft list ruleset   nothing left")
	done()
	d.say("\n" + fmt.Sprintf("Done in %s. To look around yourself: weft demo --keep", shown(time.Since(d.began))))
	return nil
}
