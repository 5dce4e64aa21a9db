package peer

import (
	"context"
	"fmt"
	"time"

	weftv1 "weft/proto/weft/v1"
	"weft/store/record"
)

// maxAsked bounds the endpoints of one question.
const maxAsked = 1000

// Hello is a Peers' Hello. It asks each time, also over a connection on which both have met.
func (c *Clients) Hello(ctx context.Context, h *record.Host) (Greeting, error) {
	ctx, cancel := context.WithTimeout(ctx, callBound)
	defer cancel()
	l, err := c.link(h)
	if err != nil {
		return Greeting{}, err
	}
	if err := l.reach(ctx); err != nil {
		c.drop(l)
		return Greeting{}, err
	}
	return c.greet(ctx, l)
}

// Judge is a Peers' Judge.
func (c *Clients) Judge(ctx context.Context, h *record.Host, about []record.HostID) (map[record.HostID]Opinion, error) {
	q := &weftv1.JudgeRequest{}
	for _, id := range about {
		q.HostIds = append(q.HostIds, string(id))
	}
	r, err := ask(ctx, c, h, weftv1.PeersClient.Judge, q)
	if err != nil {
		return nil, err
	}
	out := map[record.HostID]Opinion{}
	for _, o := range r.Opinions {
		out[record.HostID(o.HostId)] = Opinion{Agent: o.Agent, Tunnel: o.Tunnel, Unknown: o.Unknown, Age: max(o.Age.AsDuration(), time.Duration(0))}
	}
	return out, nil
}

// Owns is a Peers' Owns.
func (c *Clients) Owns(ctx context.Context, h *record.Host, of []record.EndpointID) (has map[record.EndpointID]bool, unsure bool, err error) {
	has = map[record.EndpointID]bool{}
	for len(of) > 0 {
		part := of[:min(len(of), maxAsked)]
		of = of[len(part):]
		q := &weftv1.OwnsRequest{}
		for _, id := range part {
			q.EndpointIds = append(q.EndpointIds, string(id))
		}
		r, err := ask(ctx, c, h, weftv1.PeersClient.Owns, q)
		if err != nil {
			return nil, false, err
		}
		unsure = unsure || r.Unsure
		for _, id := range r.EndpointIds {
			has[record.EndpointID(id)] = true
		}
	}
	return has, unsure, nil
}

// Drop is a Peers' Drop.
func (c *Clients) Drop(ctx context.Context, h *record.Host, n record.NetworkID, ep record.EndpointID, live bool, reason string) (bool, error) {
	q := &weftv1.DropRequest{NetworkId: string(n), EndpointId: string(ep), Live: live, Reason: reason}
	r, err := ask(ctx, c, h, weftv1.PeersClient.Drop, q)
	return r.GetDropped(), err
}

// FindSandbox is a Peers' FindSandbox.
func (c *Clients) FindSandbox(ctx context.Context, h *record.Host, ref string) ([]Found, error) {
	r, err := ask(ctx, c, h, weftv1.PeersClient.FindSandbox, &weftv1.FindSandboxRequest{Ref: ref})
	if err != nil {
		return nil, err
	}
	var out []Found
	for _, f := range r.Found {
		out = append(out, Found{ID: record.SandboxID(f.Id), Name: f.Name, Exact: f.Exact})
	}
	return out, nil
}

// Renew asks the host that has the authority for this host's next certificate.
func (c *Clients) Renew(ctx context.Context, h *record.Host, csr []byte) (certificate, authority []byte, err error) {
	r, err := ask(ctx, c, h, weftv1.PeersClient.Renew, &weftv1.RenewRequest{Csr: csr})
	if err != nil {
		return nil, nil, fmt.Errorf("ask host %s for a certificate: %w", h.Name, err)
	}
	return r.Certificate, r.Authority, nil
}
