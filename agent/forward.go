package agent

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"

	"weft/agent/api"
	"weft/agent/peer"
	"weft/store/record"
)

// Commands about a sandbox work from every host: where this one does not have it, those that are there are asked, and the call is passed on
// to the one that has (agent/api/forward.go). What a name, or an ID as it is shown, means here is never anybody else's, and nothing is asked about it;
// a mere beginning of an ID here gives way to the name or the ID of a sandbox elsewhere.

// findBound is how long other hosts have to say whether they have a sandbox.
const findBound = time.Second

// conner gives connections to other agents, for calls that are passed on.
type conner interface {
	Conn(ctx context.Context, h *record.Host) (grpc.ClientConnInterface, error)
}

// Route finds the host that has a sandbox.
func (a *Agent) Route(ctx context.Context, ref string) (api.Way, error) {
	here := api.Way{Ref: ref}
	if _, _, ok := external(ref); ok {
		return here, nil
	}
	var among []*record.Host
	fits := fitsNot
	host, name, insisted := strings.Cut(ref, "/")
	if insisted {
		h, err := a.findHost(host)
		if err != nil {
			return here, err
		}
		if h.ID == a.member.identity().Host {
			return api.Way{Ref: name}, nil
		}
		ref, among = name, []*record.Host{h}
	} else {
		if fits = fitOf(a.boxes.snapshot(), ref); fits == fitsExactly {
			return here, nil
		}
		among = a.others()
	}
	h, err := chooseHost(ref, fits, a.whoHas(ctx, among, ref))
	if err != nil {
		return here, a.nowhere(ref, err)
	}
	if h == nil {
		return here, nil
	}
	conns, ok := a.peers.(conner)
	if !ok {
		return here, a.unreachable(h, peer.ErrNoIdentity)
	}
	conn, err := conns.Conn(ctx, h)
	if err != nil {
		return here, a.unreachable(h, err)
	}
	return api.Way{Ref: ref, Conn: conn, Host: h.Name, Self: a.member.identity().Host}, nil
}

// others are the hosts of the cluster but this one.
func (a *Agent) others() []*record.Host {
	self := a.member.identity().Host
	return slices.DeleteFunc(slices.Collect(a.follower.Picture().Hosts()), func(h *record.Host) bool { return h.ID == self })
}

// answer is what a host said when it was asked for a sandbox.
type answer struct {
	host  *record.Host
	found []peer.Found
	err   error
}

// whoHas asks hosts for a sandbox, all at once. One that is known to be gone is not asked.
func (a *Agent) whoHas(ctx context.Context, hosts []*record.Host, ref string) []answer {
	ctx, cancel := context.WithTimeout(ctx, findBound)
	defer cancel()
	p, blind := a.follower.Picture(), !a.member.joined()
	out := make([]answer, len(hosts))
	var wg sync.WaitGroup
	for i, h := range hosts {
		if out[i] = (answer{host: h, err: peer.ErrSilent}); !blind && !a.health.Answers(p, h.ID) {
			continue
		}
		wg.Go(func() { out[i].found, out[i].err = a.peers.FindSandbox(ctx, h, ref) })
	}
	wg.Wait()
	return out
}

// nobodyHas is the error of a sandbox that no host has that answers.
type nobodyHas struct {
	ref     string
	silent  []*record.Host // that did not answer
	without []*record.Host // that could not be asked, for want of a certificate here or a common version
}

func (n *nobodyHas) Error() string { return "No such sandbox: " + n.ref }

// fit is how well a reference fits what this host has.
type fit uint8

const (
	fitsNot     fit = iota
	fitsPartly      // IDs of one or more sandboxes begin so
	fitsExactly     // it is a sandbox's name, or its ID whole or as it is shown
)

// fitOf is pure.
func fitOf(all map[record.SandboxID]*record.Sandbox, ref string) fit {
	out := fitsNot
	for id, s := range all {
		switch {
		case ref == "":
		case record.Fold(s.Name) == record.Fold(ref), string(id) == ref, record.ShortID(id) == ref:
			return fitsExactly
		case strings.HasPrefix(string(id), ref):
			out = fitsPartly
		}
	}
	return out
}

// chooseHost picks the host that a reference means, nil for this one: exact beats prefix, a prefix here beats one elsewhere, and what two others
// have is ambiguous. It is pure.
func chooseHost(ref string, here fit, answers []answer) (*record.Host, error) {
	var exact, begins []*record.Host
	nobody := &nobodyHas{ref: ref}
	several := false
	for _, a := range answers {
		switch {
		case errors.Is(a.err, peer.ErrNoIdentity), errors.Is(a.err, peer.ErrOld):
			nobody.without = append(nobody.without, a.host)
		case a.err != nil:
			nobody.silent = append(nobody.silent, a.host)
		case slices.ContainsFunc(a.found, func(f peer.Found) bool { return f.Exact }):
			exact = append(exact, a.host)
		case len(a.found) > 0:
			begins, several = append(begins, a.host), several || len(a.found) > 1
		}
	}
	switch {
	case len(exact) == 1:
		return exact[0], nil
	case len(exact) > 1:
		slices.SortFunc(exact, func(x, y *record.Host) int { return cmp.Compare(x.Name, y.Name) })
		return nil, api.Refuse(api.Invalid, "sandbox %s is ambiguous: hosts %s have one; say which, as in %s/%s", ref, hostNames(exact), exact[0].Name, ref)
	case here != fitsNot:
		return nil, nil
	case len(begins) > 1 || several:
		return nil, api.Refuse(api.Invalid, "multiple sandboxes found with the ID prefix %q", ref)
	case len(begins) == 1:
		return begins[0], nil
	}
	return nil, nobody
}

func hostNames(hosts []*record.Host) string {
	out := make([]string, 0, len(hosts))
	for _, h := range hosts {
		out = append(out, h.Name)
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

// nowhere says what to do about a sandbox that no host has that answers: the records may tell whose it is.
func (a *Agent) nowhere(ref string, err error) error {
	var n *nobodyHas
	if !errors.As(err, &n) {
		return err
	}
	if h, net := a.recorded(ref); h != nil {
		is := func(o *record.Host) bool { return o.ID == h.ID }
		switch {
		case slices.ContainsFunc(n.without, is):
			return a.unreachable(h, peer.ErrNoIdentity)
		case slices.ContainsFunc(n.silent, is):
			return api.Refuse(api.NotFound, "sandbox %s is on host %s, which does not answer: try again when it is back; where it is gone for good, weft network disconnect -f %s %s clears its record, and weft host rm %s all of that host's",
				ref, h.Name, net.Name, ref, h.Name)
		}
	}
	if len(n.silent) > 0 {
		return api.Refuse(api.NotFound, "%w; it may be on %s, which %s not answer: see weft host ls", n, hostNames(n.silent), plural(len(n.silent), "does", "do"))
	}
	return api.Refuse(api.NotFound, "%w", n)
}

func plural(n int, one, more string) string {
	if n == 1 {
		return one
	}
	return more
}

// recorded looks for a sandbox among the endpoints that this host knows of others.
func (a *Agent) recorded(ref string) (*record.Host, *record.Network) {
	p, self := a.follower.Picture(), a.member.identity().Host
	for n := range p.Networks() {
		net, ok := p.Net(n.ID)
		if !ok {
			continue
		}
		for ep := range net.Endpoints() {
			if ep.Host == self || record.Fold(ep.Name) != record.Fold(ref) && string(ep.Sandbox) != ref && record.ShortID(ep.Sandbox) != ref {
				continue
			}
			if h, ok := p.Host(ep.Host); ok {
				return h, n
			}
		}
	}
	return nil, nil
}

// unreachable says why a host that has a sandbox cannot be spoken to.
func (a *Agent) unreachable(h *record.Host, err error) error {
	if errors.Is(err, peer.ErrNoIdentity) {
		return api.Refuse(api.InUse, "the sandbox is on host %s, and hosts without certificates of their cluster cannot ask each other: give each one (weft cluster token, weftd --join)", h.Name)
	}
	return api.Refuse(api.InUse, "the sandbox is on host %s, which cannot be asked: %w", h.Name, err)
}

// unasked says why another host's sandbox was not taken out of a network by that host.
func (a *Agent) unasked(ep *record.Endpoint, n *record.Network, target string) error {
	h := &record.Host{ID: ep.Host, Name: a.hostName(ep.Host)}
	if _, err := a.identity.Current(); err != nil {
		return a.unreachable(h, peer.ErrNoIdentity)
	}
	return api.Refuse(api.NotFound, "sandbox %s is on host %s, which does not answer: try again when it is back, or clear its record with weft network disconnect -f %s %s", target, h.Name, n.Name, target)
}
