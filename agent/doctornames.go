package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/miekg/dns"

	"weft/agent/doctor"
	"weft/kernel"
	"weft/store/record"
)

// What is asked of the resolvers: names of a network at one of its sandboxes, and one question at each of the others.
const (
	namesAsked   = 200
	resolversMax = 500
	answerWait   = time.Second
	resolver     = "127.0.0.11:53"
)

// asker is a sandbox whose resolver can be asked, as the sandbox would.
type asker struct {
	name, netns string
}

// examineNames asks the resolvers of this host's sandboxes, from inside, and compares what they say with the records.
func (a *Agent) examineNames(ctx context.Context) []doctor.Check {
	askers, networks := a.askers()
	var out []doctor.Check
	for _, n := range networks {
		c := doctor.Names{Network: n.Name}
		eps := a.sample(n)
		c.Asked = len(eps)
		c.Wrong, c.Err = staying(ctx, a.clock, func(ctx context.Context) ([]string, error) { return a.wrongNames(ctx, askers[n.ID][0], n, eps) }, func(s string) string { return s })
		if errors.Is(c.Err, errSilent) {
			c.Silent, c.Err = []string{askers[n.ID][0].name}, nil
		}
		out = append(out, c.Check())
	}
	if silent, err := staying(ctx, a.clock, func(ctx context.Context) ([]string, error) { return a.silentResolvers(ctx), nil }, func(s string) string { return s }); err == nil && len(silent) > 0 {
		out = append(out, doctor.Names{Silent: silent}.Check())
	}
	return out
}

// askers are the sandboxes with a resolver of weft's, by their networks that have names. In a namespace of others, another may answer.
func (a *Agent) askers() (map[record.NetworkID][]asker, []*record.Network) {
	out := map[record.NetworkID][]asker{}
	for _, s := range a.boxes.snapshot() {
		if !s.Up || s.NetworkMode != "" || s.External != "" || !a.hasNames(s) {
			continue
		}
		for _, at := range s.Attachments {
			out[at.Network] = append(out[at.Network], asker{s.Name, a.runner.NetnsPath(string(s.ID))})
		}
	}
	var networks []*record.Network
	for id, as := range out {
		slices.SortFunc(as, func(x, y asker) int { return cmp.Compare(x.name, y.name) })
		if n, ok := a.picture().Network(id); ok && !a.isDefaultNet(id) {
			networks = append(networks, n)
		}
	}
	slices.SortFunc(networks, func(x, y *record.Network) int { return cmp.Compare(x.Name, y.Name) })
	return out, networks
}

// sample is a network's endpoints, some of them where there are many.
func (a *Agent) sample(n *record.Network) []record.EndpointID {
	net, ok := a.picture().Net(n.ID)
	if !ok {
		return nil
	}
	var out []record.EndpointID
	for ep := range net.Endpoints() {
		out = append(out, ep.ID)
	}
	rand.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out[:min(len(out), namesAsked)]
}

// errSilent says that a resolver does not answer.
var errSilent = errors.New("no answer from the resolver")

// wrongNames asks for some endpoints as NAME.NETWORK, and returns those whose answer is not what the newest records say.
func (a *Agent) wrongNames(ctx context.Context, by asker, n *record.Network, eps []record.EndpointID) ([]string, error) {
	if s, err := a.boxes.find(by.name); err != nil || !s.Up {
		return nil, nil // it has just gone
	}
	q, err := question(by)
	if err != nil {
		return nil, err
	}
	defer func() { _ = q.Close() }()
	var out []string
	for _, id := range eps {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		net, ok := a.picture().Net(n.ID)
		if !ok {
			return nil, nil
		}
		ep, ok := net.Endpoint(id)
		if !ok {
			continue
		}
		name := ep.Name + "." + n.Name
		got, err := ask(q, name, ep.Addrs)
		if err != nil {
			return nil, err
		}
		answered := ep.Running && a.usable(ep)
		if wrong := doctor.WrongAnswer(name, ep.Addrs, answered, got); wrong != "" {
			out = append(out, wrong)
		}
	}
	return out, nil
}

// silentResolvers names the sandboxes whose resolver does not answer a question about themselves.
func (a *Agent) silentResolvers(ctx context.Context) []string {
	byNetwork, _ := a.askers()
	all := map[string]asker{}
	for _, as := range byNetwork {
		for _, by := range as {
			if len(all) < resolversMax {
				all[by.name] = by
			}
		}
	}
	var out []string
	for _, by := range all {
		if ctx.Err() != nil {
			return nil
		}
		q, err := question(by)
		if err != nil { // it has just gone
			continue
		}
		if _, err := ask(q, by.name, []netip.Addr{netip.IPv4Unspecified()}); err != nil {
			out = append(out, by.name)
		}
		_ = q.Close()
	}
	slices.Sort(out)
	return out
}

// question opens the way to a sandbox's resolver, as the sandbox's own processes have it.
func question(by asker) (*dns.Conn, error) {
	var c net.Conn
	err := kernel.Within(by.netns, func() (err error) {
		c, err = net.Dial("udp4", resolver)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("ask the resolver of %s: %w", by.name, err)
	}
	return &dns.Conn{Conn: c}, nil
}

// ask asks for the addresses of a name, of those families that like has.
func ask(q *dns.Conn, name string, like []netip.Addr) ([]netip.Addr, error) {
	var out []netip.Addr
	for typ, six := range map[uint16]bool{dns.TypeA: false, dns.TypeAAAA: true} {
		if !slices.ContainsFunc(like, func(a netip.Addr) bool { return a.Is6() == six }) {
			continue
		}
		m := new(dns.Msg).SetQuestion(dns.Fqdn(name), typ)
		r, _, err := (&dns.Client{Timeout: answerWait}).ExchangeWithConn(m, q)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errSilent, err)
		}
		for _, rr := range r.Answer {
			var a netip.Addr
			switch rr := rr.(type) {
			case *dns.A:
				a, _ = netip.AddrFromSlice(rr.A.To4())
			case *dns.AAAA:
				a, _ = netip.AddrFromSlice(rr.AAAA)
			}
			if a.IsValid() {
				out = append(out, a)
			}
		}
	}
	return out, nil
}
