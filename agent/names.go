package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"weft/dnssvc"
	"weft/store"
	"weft/store/record"
)

// reachable is the newest picture that the kernel has followed: a name enters DNS here only when this host can reach its address.
func (a *Agent) reachable() *record.Snapshot {
	if p := a.appliedPicture.Load(); p != nil {
		return p
	}
	return a.picture()
}

// usable tells whether DNS may answer with an endpoint: one of this host as long as its sandbox is up here, another's as long as its host
// is alive.
func (a *Agent) usable(ep *record.Endpoint) bool {
	if ep.Host == a.member.identity().Host {
		s, ok := a.boxes.get(ep.Sandbox)
		if !ok || !s.Up {
			return false
		}
		_, attached := s.Attachment(ep.Network)
		return attached
	}
	return a.answering(a.follower.Picture())(ep.Host)
}

// resolver is what the sandbox's resolver is to know.
func (a *Agent) resolver(s *record.Sandbox) dnssvc.Sandbox {
	out := dnssvc.Sandbox{ID: string(s.ID), Netns: a.runner.NetnsPath(string(s.ID)), Servers: s.DNS, Internal: s.External == ""}
	for _, at := range s.Attachments {
		if !a.isDefaultNet(at.Network) && at.Isolated == "" { // there are no names in that
			out.Networks = append(out.Networks, dnssvc.Network{ID: at.Network, Links: at.Links})
		}
		out.Internal = out.Internal && at.NoGateway
	}
	return out
}

// serveNames opens or updates the sandbox's resolver, its /etc/hosts and its /etc/resolv.conf.
func (a *Agent) serveNames(ctx context.Context, s *record.Sandbox) error {
	if s == nil || !s.Up || s.NetworkMode != "" {
		return nil
	}
	id := string(s.ID)
	if s.External == "" { // whose files are its owner's
		if err := errors.Join(a.runner.SetHosts(id, a.hostsFile(s)), a.runner.SetResolv(id, a.resolvFile(s))); err != nil {
			return err
		}
	}
	if !a.hasNames(s) {
		a.dns.Remove(id)
		return nil
	}
	return a.dns.Set(ctx, a.resolver(s))
}

// reopensAtOnce is how many resolvers are opened at a time: most of it is to wait for threads that change their namespace.
const reopensAtOnce = 8

// reopenNames opens the resolvers of the sandboxes that the last agent left running.
func (a *Agent) reopenNames(ctx context.Context) {
	var wg sync.WaitGroup
	turns := make(chan struct{}, reopensAtOnce)
	for _, s := range a.boxes.snapshot() {
		if !s.Up {
			continue
		}
		turns <- struct{}{}
		wg.Go(func() {
			defer func() { <-turns }()
			if err := a.reopen(ctx, s.ID); err != nil && ctx.Err() == nil {
				a.log.Error("cannot answer names in a sandbox", "sandbox", s.Name, "error", err)
			}
		})
	}
	wg.Wait()
	if a.sockets != nil {
		a.sockets.dropRest()
	}
}

// freshPatience is how long questions wait for the store at an agent's start where the last life's picture could answer them: what has come since
// that was saved is to be found, too.
const freshPatience = 200 * time.Millisecond

// learnNames lets questions be answered as soon as the store has told of all networks that this host uses, or has had its time to: a name that is
// not known yet would be asked elsewhere, and its asker told that there is none.
func (a *Agent) learnNames(ctx context.Context) {
	a.awaitNames(ctx)
	if ctx.Err() == nil { // else they wait for the next agent, which finds them in the sockets
		close(a.namesKnown)
	}
}

func (a *Agent) awaitNames(ctx context.Context) {
	patience := freshPatience
	parts := []string{store.Meta}
	for _, id := range a.follower.Following() {
		parts = append(parts, record.NetPartition(id))
	}
	for _, p := range parts {
		if a.follower.Picture().Rev(p) == 0 {
			patience = seedPatience
		}
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for _, p := range parts {
		if a.follower.WaitSynced(ctx, p) != nil || a.WaitApplied(ctx, p, a.follower.Picture().Rev(p)) != nil { // the applied picture is what answers
			return
		}
	}
}

// reopen has the sandbox's turn: one that ends meanwhile must not get a resolver after it.
func (a *Agent) reopen(ctx context.Context, id record.SandboxID) error {
	done, err := a.boxes.lock(ctx, id)
	if err != nil {
		return err
	}
	defer done()
	s, _ := a.boxes.get(id)
	return a.serveNames(ctx, s)
}

// hostsFile is the sandbox's /etc/hosts.
func (a *Agent) hostsFile(s *record.Sandbox) string {
	var b strings.Builder
	b.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
	for _, at := range s.Attachments {
		for _, a := range at.Addrs {
			fmt.Fprintf(&b, "%s\t%s\n", a, s.Hostname)
		}
	}
	b.WriteString(hostsLines(a.legacyLinks(s)))
	for _, h := range s.ExtraHosts {
		if name, ip, ok := strings.Cut(h, ":"); ok {
			fmt.Fprintf(&b, "%s\t%s\n", ip, name)
		}
	}
	return b.String()
}
