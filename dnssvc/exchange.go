package dnssvc

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// streamTimeout is how long a whole answer is waited for where there is a part already.
const streamTimeout = 1500 * time.Millisecond

// exchangeNet asks a server over UDP and, where the answer does not fit, over TCP. Each question has a socket and so a source port of its
// own, and a random ID: both must be guessed to forge an answer (RFC 5452).
func exchangeNet(ctx context.Context, server netip.AddrPort, m *dns.Msg) (*dns.Msg, error) {
	answer, err := askUDP(ctx, server, m)
	if err == nil && answer.Rcode == dns.RcodeFormatError && m.IsEdns0() != nil && answer.IsEdns0() == nil {
		m = m.Copy() // RFC 6891, 7: a server from before EDNS
		m.Extra, m.Id = nil, dns.Id()
		answer, err = askUDP(ctx, server, m)
	}
	if err == nil && answer.Truncated {
		m = m.Copy()
		m.Id = dns.Id()
		ctx, cancel := context.WithTimeout(ctx, streamTimeout)
		defer cancel()
		if whole, err := askTCP(ctx, server, m); err == nil {
			return whole, nil
		} // else a part is better than nothing: many networks let no TCP through
	}
	return answer, err
}

func askUDP(ctx context.Context, server netip.AddrPort, m *dns.Msg) (*dns.Msg, error) {
	c, done, err := dial(ctx, "udp", server)
	if err != nil {
		return nil, err
	}
	defer done()
	out, err := m.Pack()
	if err != nil {
		return nil, fmt.Errorf("pack a question: %w", err)
	}
	if _, err := c.Write(out); err != nil {
		return nil, failure(ctx, server, err)
	}
	in := make([]byte, maxUDPAnswer)
	for {
		n, err := c.Read(in)
		if err != nil {
			return nil, failure(ctx, server, err)
		}
		answer := new(dns.Msg)
		if err := answer.Unpack(in[:n]); err != nil || !belongs(answer, m) {
			continue // forged, late or broken: the right one may still come
		}
		return answer, nil
	}
}

func askTCP(ctx context.Context, server netip.AddrPort, m *dns.Msg) (*dns.Msg, error) {
	c, done, err := dial(ctx, "tcp", server)
	if err != nil {
		return nil, err
	}
	defer done()
	framed := &dns.Conn{Conn: c}
	if err := framed.WriteMsg(m); err != nil {
		return nil, failure(ctx, server, err)
	}
	answer, err := framed.ReadMsg()
	if err != nil {
		return nil, failure(ctx, server, err)
	}
	if !belongs(answer, m) {
		return nil, fmt.Errorf("DNS server %s gave an answer to another question", server)
	}
	return answer, nil
}

// dial opens a connection that ends with ctx; done closes it.
func dial(ctx context.Context, network string, server netip.AddrPort) (c net.Conn, done func(), err error) {
	var d net.Dialer
	c, err = d.DialContext(ctx, network, server.String())
	if err != nil {
		return nil, nil, failure(ctx, server, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	return c, func() { stop(); _ = c.Close() }, nil
}

// failure names the server, and the context's end where that was the reason.
func failure(ctx context.Context, server netip.AddrPort, err error) error {
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return fmt.Errorf("ask DNS server %s: %w", server, err)
}

// belongs tells whether a message is the answer to a question.
func belongs(answer, m *dns.Msg) bool {
	if !answer.Response || answer.Id != m.Id || answer.Opcode != m.Opcode {
		return false
	}
	if len(answer.Question) == 0 { // some servers leave it out when they cannot read the question
		return answer.Rcode == dns.RcodeFormatError || answer.Rcode == dns.RcodeNotImplemented
	}
	a, q := answer.Question[0], m.Question[0]
	return len(answer.Question) == 1 && a.Qtype == q.Qtype && a.Qclass == q.Qclass && strings.EqualFold(a.Name, q.Name)
}
