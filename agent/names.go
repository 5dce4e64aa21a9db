package agent

import (
	"context"
	"fmt"
	"strings"

	"weft/dnssvc"
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
	if !a.member.joined() {
		return true // nothing is known of others now: what was true stays so
	}
	return a.peers.Answers(a.follower.Picture(), ep.Host)
}

// resolver is what the sandbox's resolver is to know.
func (a *Agent) resolver(s *record.Sandbox) dnssvc.Sandbox {
	out := dnssvc.Sandbox{ID: string(s.ID), Netns: a.runner.NetnsPath(string(s.ID)), Servers: s.DNS, Internal: true}
	for _, at := range s.Attachments {
		out.Networks = append(out.Networks, dnssvc.Network{ID: at.Network, Links: at.Links})
		out.Internal = out.Internal && at.NoGateway
	}
	return out
}

// serveNames opens or updates the sandbox's resolver, and its /etc/hosts.
func (a *Agent) serveNames(ctx context.Context, s *record.Sandbox) error {
	if s == nil || !s.Up || s.NetworkMode != "" {
		return nil
	}
	if err := a.runner.SetHosts(string(s.ID), hostsFile(s)); err != nil {
		return err
	}
	return a.dns.Set(ctx, a.resolver(s))
}

// reopenNames opens the resolvers of the sandboxes that the last agent left running.
func (a *Agent) reopenNames(ctx context.Context) {
	for _, s := range a.boxes.snapshot() {
		if !s.Up {
			continue
		}
		if err := a.reopen(ctx, s.ID); err != nil && ctx.Err() == nil {
			a.log.Error("cannot answer names in a sandbox", "sandbox", s.Name, "error", err)
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
func hostsFile(s *record.Sandbox) string {
	var b strings.Builder
	b.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
	for _, at := range s.Attachments {
		for _, a := range at.Addrs {
			fmt.Fprintf(&b, "%s\t%s\n", a, s.Hostname)
		}
	}
	for _, h := range s.ExtraHosts {
		if name, ip, ok := strings.Cut(h, ":"); ok {
			fmt.Fprintf(&b, "%s\t%s\n", ip, name)
		}
	}
	return b.String()
}

// resolvFile is the sandbox's /etc/resolv.conf; empty leaves the host's, as for a sandbox in the host's network.
func resolvFile(s *record.Sandbox) string {
	if s.NetworkMode != "" {
		return ""
	}
	var b strings.Builder
	b.WriteString("nameserver 127.0.0.11\n")
	if len(s.DNSSearch) > 0 {
		b.WriteString("search " + strings.Join(s.DNSSearch, " ") + "\n")
	}
	b.WriteString("options " + strings.Join(append([]string{"ndots:0"}, s.DNSOptions...), " ") + "\n")
	return b.String()
}
