package agent

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"weft/agent/api"
	"weft/store/record"
)

// Links on the default network are Docker's old ones: the network has no names, so a link is a line in /etc/hosts of the linking sandbox, and
// some variables in the environment of its process. Their target must exist when they are made, and run when the sandbox starts; they belong to
// that target, whatever it is called later. The line follows the target's address for as long as the sandbox runs, the variables cannot.

// legacyLink is one with its target as it is now.
type legacyLink struct {
	alias  string
	target *record.Sandbox
	addrs  []netip.Addr // of the target, in the default network
}

// bindLink finds the target of a link that a sandbox asks for on the default network.
func (a *Agent) bindLink(l record.Link) (record.Link, error) {
	t, err := a.boxes.find(l.Target)
	if err != nil {
		return l, api.Refuse(api.NotFound, "Could not get container for %s: %w; on the default network a link needs a sandbox of this host that exists (in a network of your own it may come later)", l.Target, err)
	}
	l.Sandbox = t.ID
	return l, nil
}

// checkLinks checks what a sandbox links to in a network, and finds the targets where they have to be there.
func (a *Agent) checkLinks(name string, n *record.Network, links []record.Link) ([]record.Link, error) {
	out := slices.Clone(links)
	for i, l := range out {
		if l.Target == "" || record.Fold(l.Target) == record.Fold(name) {
			return nil, api.Refuse(api.Invalid, "invalid link %q: it must name another sandbox", l.Target+":"+l.Alias)
		}
		if !isDefault(n) {
			continue
		}
		var err error
		if out[i], err = a.bindLink(l); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// legacyLinks returns a sandbox's links on the default network; those whose target is gone are left out.
func (a *Agent) legacyLinks(s *record.Sandbox) []legacyLink {
	var out []legacyLink
	for _, at := range s.Attachments {
		for _, l := range at.Links {
			t, ok := a.boxes.get(l.Sandbox)
			if l.Sandbox == "" || !ok {
				continue
			}
			link := legacyLink{alias: cmp.Or(l.Alias, l.Target), target: t}
			if to, joined := t.Attachment(at.Network); joined && t.Up && !to.Intent {
				link.addrs = to.Addrs
			}
			out = append(out, link)
		}
	}
	return out
}

// linksRun refuses the start of a sandbox by a user while one that it links to on the default network does not run.
func (a *Agent) linksRun(s *record.Sandbox) error {
	for _, l := range a.legacyLinks(s) {
		if len(l.addrs) == 0 {
			return api.Refuse(api.InUse, "Cannot link to a non running container: /%s AS /%s/%s", l.target.Name, s.Name, l.alias)
		}
	}
	return nil
}

// hostsLines are Docker's lines of /etc/hosts: the alias, then the target's host name and name.
func hostsLines(links []legacyLink) string {
	var b strings.Builder
	for _, l := range links {
		names := []string{l.alias, l.target.Hostname}
		if l.alias != l.target.Name {
			names = append(names, l.target.Name)
		}
		for _, addr := range l.addrs {
			fmt.Fprintf(&b, "%s\t%s\n", addr, strings.Join(names, " "))
		}
	}
	return b.String()
}

// maxLinkPorts bounds what a link to a sandbox with a wide range of ports puts into an environment.
const maxLinkPorts = 256

// linkEnv are Docker's variables of links: where the target's ports are, and its own environment. Those that the sandbox sets itself are left out.
func linkEnv(s *record.Sandbox, links []legacyLink) []string {
	var out []string
	for _, l := range links {
		prefix := strings.ReplaceAll(strings.ToUpper(l.alias), "-", "_")
		if len(l.addrs) > 0 {
			ports := exposed(l.target)
			out = append(out, portEnv(prefix, l.addrs[0], ports[:min(len(ports), maxLinkPorts)])...)
		}
		out = append(out, fmt.Sprintf("%s_NAME=/%s/%s", prefix, s.Name, l.alias))
		for _, v := range l.target.Env {
			if name, value, ok := strings.Cut(v, "="); ok && name != "HOME" && name != "PATH" {
				out = append(out, fmt.Sprintf("%s_ENV_%s=%s", prefix, name, value))
			}
		}
	}
	return slices.DeleteFunc(out, func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return slices.ContainsFunc(s.Env, func(own string) bool { return strings.HasPrefix(own, name+"=") })
	})
}

// exposedPort is one port of a sandbox that it publishes or exposes.
type exposedPort struct {
	proto string
	port  int
}

func (p exposedPort) url(a netip.Addr) string { return fmt.Sprintf("%s://%s:%d", p.proto, a, p.port) }

// exposed lists a sandbox's ports by number, tcp before udp.
func exposed(s *record.Sandbox) []exposedPort {
	var out []exposedPort
	for _, r := range slices.Concat(s.Ports, s.Expose) {
		for p := int(r.First); p <= int(r.Last); p++ {
			out = append(out, exposedPort{r.Proto, p})
		}
	}
	slices.SortFunc(out, func(x, y exposedPort) int { return cmp.Or(cmp.Compare(x.port, y.port), cmp.Compare(x.proto, y.proto)) })
	return slices.Compact(out)
}

// portEnv are the variables of a target's ports: the lowest one, the ranges of ports that follow each other, and each port.
func portEnv(prefix string, a netip.Addr, ports []exposedPort) []string {
	if len(ports) == 0 {
		return nil
	}
	out := []string{fmt.Sprintf("%s_PORT=%s", prefix, ports[0].url(a))}
	name := func(p exposedPort) string {
		return fmt.Sprintf("%s_PORT_%d_%s", prefix, p.port, strings.ToUpper(p.proto))
	}
	for i := 0; i < len(ports); {
		j := contiguous(ports, i)
		if p, q := ports[i], ports[j]; j > i {
			out = append(out,
				name(p)+"_START="+p.url(a), name(p)+"_ADDR="+a.String(), name(p)+"_PROTO="+p.proto, fmt.Sprintf("%s_PORT_START=%d", name(p), p.port),
				name(q)+"_END="+q.url(a), fmt.Sprintf("%s_PORT_END=%d", name(q), q.port))
		}
		i = j + 1
	}
	for _, p := range ports {
		out = append(out, name(p)+"="+p.url(a), name(p)+"_ADDR="+a.String(), fmt.Sprintf("%s_PORT=%d", name(p), p.port), name(p)+"_PROTO="+p.proto)
	}
	return out
}

// contiguous returns the last of the ports that follow the one at i without a gap.
func contiguous(ports []exposedPort, i int) int {
	for i+1 < len(ports) && ports[i+1].port <= ports[i].port+1 {
		i++
	}
	return i
}

// relinkSoon is when a sandbox is looked at again that others were changing.
const relinkSoon = 50 * time.Millisecond

// keepLinks keeps /etc/hosts of the linking sandboxes in line with their targets until ctx ends.
func (a *Agent) keepLinks(ctx context.Context) {
	for {
		changed := a.boxes.changed.wait()
		again := a.clock.After(time.Hour)
		if !a.relink() {
			again = a.clock.After(relinkSoon)
		}
		select {
		case <-changed:
		case <-again:
		case <-ctx.Done():
			return
		}
	}
}

// relink writes each linking sandbox's file; false where it was not one's turn. What the file says already is not written.
func (a *Agent) relink() bool {
	all := true
	for id, s := range a.boxes.snapshot() {
		if !s.Up || len(a.legacyLinks(s)) == 0 {
			continue
		}
		done, free := a.boxes.tryLock(id)
		if !free {
			all = false
			continue
		}
		if s, ok := a.boxes.get(id); ok && s.Up {
			if err := a.runner.SetHosts(string(id), a.hostsFile(s)); err != nil {
				a.log.Warn("a link does not follow its target", "sandbox", s.Name, "error", err)
			}
		}
		done()
	}
	return all
}
