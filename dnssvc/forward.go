package dnssvc

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/miekg/dns"
)

// forwarder asks other servers for all sandboxes: its cache, and what it knows of the servers' health, are everybody's.
type forwarder struct {
	ctx   context.Context // ends with the Service
	cache *cache
	pool  *pool

	mu      sync.Mutex // guards flights
	flights map[key]*flight
	wg      sync.WaitGroup
}

// flight is a question that is on its way; who asks the same meanwhile waits for its answer. Besides sparing the servers, it leaves a
// forger one question to guess at and not many (RFC 5452, 5).
type flight struct {
	done chan struct{}
	msg  []byte // packed, without OPT
	err  error
}

// key is all that an answer depends on.
type key struct {
	name      string // in lower case, fully qualified, escaped
	qtype     uint16
	do, cd    bool
	upstreams string
}

// ask is a question to forward: what its answer must repeat, and to whom.
type ask struct {
	id        uint16
	flags     uint16
	head      []byte // header and question as they came
	q         dns.Question
	edns, do  bool
	limit     int
	single    bool
	upstreams []netip.AddrPort
}

func newForwarder(ctx context.Context, log *slog.Logger, ex exchange) *forwarder {
	f := &forwarder{ctx: ctx, cache: newCache(), flights: map[key]*flight{}}
	f.pool = newPool(ctx, log, ex)
	return f
}

func (f *forwarder) wait() {
	f.wg.Wait()
	f.pool.wg.Wait()
}

// newAsk copies what is needed of a packet, which its reader will use again.
func newAsk(q *question, packet []byte, tcp bool, upstreams []netip.AddrPort) *ask {
	return &ask{
		id: uint16(packet[0])<<8 | uint16(packet[1]), flags: q.flags, head: slices.Clone(packet[:q.end]),
		q: dns.Question{Qtype: q.qtype, Qclass: q.qclass}, edns: q.edns, do: q.do,
		limit: q.limit(tcp), single: q.single(), upstreams: upstreams,
	}
}

// answer returns the packed answer to a question, within its limit; nil only when ctx has ended.
func (f *forwarder) answer(ctx context.Context, a *ask) []byte {
	name, _, err := dns.UnpackDomainName(a.head, headerLen)
	if err != nil {
		return a.fail(dns.RcodeFormatError, "")
	}
	a.q.Name = name
	m, err := f.find(ctx, a)
	switch {
	case ctx.Err() != nil:
		return nil
	case err == nil:
		return a.pack(m)
	case a.single: // no program should have to wait for a name that nobody but a server that is away might know
		return a.fail(dns.RcodeNameError, err.Error())
	}
	return a.fail(dns.RcodeServerFailure, err.Error())
}

// find returns an answer from the cache, a flight or a server.
func (f *forwarder) find(ctx context.Context, a *ask) (*dns.Msg, error) {
	k := key{
		name: strings.ToLower(a.q.Name), qtype: a.q.Qtype, do: a.do, cd: a.flags&flagUnchecked != 0,
		upstreams: fmt.Sprint(a.upstreams),
	}
	if m := f.cache.get(k); m != nil {
		return m, nil
	}
	f.mu.Lock()
	fl := f.flights[k]
	if fl == nil {
		fl = &flight{done: make(chan struct{})}
		f.flights[k] = fl
		upstreams, single := a.upstreams, a.single
		f.wg.Go(func() { f.fly(k, fl, upstreams, single) })
	}
	f.mu.Unlock()
	select {
	case <-fl.done:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if fl.err != nil {
		return nil, fl.err
	}
	m := new(dns.Msg)
	return m, m.Unpack(fl.msg)
}

// fly asks the servers and keeps what they answer.
func (f *forwarder) fly(k key, fl *flight, upstreams []netip.AddrPort, single bool) {
	defer close(fl.done)
	m, err := f.pool.race(f.ctx, newQuery(k), upstreams, single)
	if err == nil {
		dropOPT(m)
		m.Compress = true
		fl.msg, err = m.Pack()
	}
	if err == nil {
		f.cache.put(k, m, fl.msg)
	}
	fl.err = err
	f.mu.Lock()
	delete(f.flights, k)
	f.mu.Unlock()
}

// newQuery is the question as it goes out.
func newQuery(k key) *dns.Msg {
	m := new(dns.Msg)
	m.SetQuestion(k.name, k.qtype)
	m.CheckingDisabled, m.AuthenticatedData = k.cd, true // RFC 6840, 5.7: tell whether it was validated
	m.SetEdns0(ownUDPSize, k.do)
	return m
}

func dropOPT(m *dns.Msg) {
	m.Extra = slices.DeleteFunc(m.Extra, func(rr dns.RR) bool { return rr.Header().Rrtype == dns.TypeOPT })
}

// pack makes a server's answer this asker's own.
func (a *ask) pack(m *dns.Msg) []byte {
	m.Id, m.Response, m.Opcode = a.id, true, dns.OpcodeQuery
	m.Question = []dns.Question{a.q}
	m.RecursionDesired, m.RecursionAvailable, m.CheckingDisabled = a.flags&flagRecurse != 0, true, a.flags&flagUnchecked != 0
	m.Authoritative, m.Zero = false, false
	m.AuthenticatedData = m.AuthenticatedData && (a.do || a.flags&flagAuthentic != 0)
	if a.edns {
		m.SetEdns0(ownUDPSize, a.do)
	}
	m.Compress = true
	m.Truncate(a.limit)
	out, err := m.Pack()
	if err != nil || len(out) > a.limit {
		return a.fail(dns.RcodeServerFailure, "the answer cannot be passed on")
	}
	return out
}

// maxReason keeps an answer that explains itself below the 512 bytes that everybody takes.
const maxReason = 160

// fail is an answer without records; the reason goes to those who take one (RFC 8914).
func (a *ask) fail(rcode int, why string) []byte {
	m := new(dns.Msg)
	m.Id, m.Response, m.Rcode = a.id, true, rcode
	m.RecursionDesired, m.RecursionAvailable, m.CheckingDisabled = a.flags&flagRecurse != 0, true, a.flags&flagUnchecked != 0
	if a.q.Name != "" {
		m.Question = []dns.Question{a.q}
	}
	if a.edns {
		m.SetEdns0(ownUDPSize, a.do)
		if why != "" {
			o, why := m.IsEdns0(), why[:min(len(why), maxReason)]
			o.Option = append(o.Option, &dns.EDNS0_EDE{InfoCode: dns.ExtendedErrorCodeNetworkError, ExtraText: why})
		}
	}
	out, err := m.Pack()
	if err != nil || len(out) > a.limit {
		return nil
	}
	return out
}
