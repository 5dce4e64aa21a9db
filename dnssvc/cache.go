package dnssvc

import (
	"container/list"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	maxCacheBytes = 1 << 20   // of packed answers, keys and book-keeping
	maxCached     = 8 << 10   // a longer answer is not kept
	keptOverhead  = 256       // what an answer costs beside its own bytes and its name's
	maxTTL        = time.Hour // of an answer, whatever it says
	maxNegative   = 5 * time.Minute
)

// cache keeps forwarded answers as long as they say, and not more than its bytes hold: who was asked for longest ago goes first.
type cache struct {
	mu    sync.Mutex // guards all
	kept  map[key]*list.Element
	order *list.List // of *kept, the latest asked first
	bytes int
}

type kept struct {
	key  key
	msg  []byte
	from time.Time
	till time.Time
}

func (k *kept) cost() int { return keptOverhead + len(k.msg) + len(k.key.name) + len(k.key.upstreams) }

func newCache() *cache { return &cache{kept: map[key]*list.Element{}, order: list.New()} }

// get returns an answer, with what is left of its TTLs, or nil.
func (c *cache) get(k key) *dns.Msg {
	now := time.Now()
	c.mu.Lock()
	e := c.kept[k]
	if e == nil {
		c.mu.Unlock()
		return nil
	}
	v := e.Value.(*kept)
	if !now.Before(v.till) {
		c.drop(e)
		c.mu.Unlock()
		return nil
	}
	c.order.MoveToFront(e)
	c.mu.Unlock()
	m := new(dns.Msg)
	if m.Unpack(v.msg) != nil {
		return nil
	}
	age := uint32(now.Sub(v.from) / time.Second)
	for rr := range records(m) {
		h := rr.Header()
		h.Ttl -= min(h.Ttl, age)
	}
	return m
}

// put keeps an answer, if it may be kept; packed is m.
func (c *cache) put(k key, m *dns.Msg, packed []byte) {
	ttl := lifetime(m)
	if ttl <= 0 || len(packed) > maxCached {
		return
	}
	now := time.Now()
	v := &kept{key: k, msg: packed, from: now, till: now.Add(ttl)}
	c.mu.Lock()
	defer c.mu.Unlock()
	if old := c.kept[k]; old != nil {
		c.drop(old)
	}
	c.kept[k] = c.order.PushFront(v)
	c.bytes += v.cost()
	for c.bytes > maxCacheBytes {
		c.drop(c.order.Back())
	}
}

func (c *cache) drop(e *list.Element) {
	v := c.order.Remove(e).(*kept)
	delete(c.kept, v.key)
	c.bytes -= v.cost()
}

// lifetime is how long an answer may be kept: as long as the shortest of its records; one that denies (RFC 2308) as its SOA says; what is
// neither, not at all.
func lifetime(m *dns.Msg) time.Duration {
	if m.Truncated || m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError {
		return 0
	}
	limit, shortest := maxTTL, uint32(maxTTL/time.Second)
	if m.Rcode == dns.RcodeNameError || !answered(m) {
		limit = maxNegative
		soa := authority(m)
		if soa == nil {
			return 0
		}
		shortest = min(shortest, soa.Minttl)
	}
	for rr := range records(m) {
		shortest = min(shortest, rr.Header().Ttl)
	}
	return min(limit, time.Duration(shortest)*time.Second)
}

// answered tells whether the answer has a record of the type that was asked for.
func answered(m *dns.Msg) bool {
	for _, rr := range m.Answer {
		if t := rr.Header().Rrtype; len(m.Question) == 1 && (t == m.Question[0].Qtype || m.Question[0].Qtype == dns.TypeANY) {
			return true
		}
	}
	return false
}

func authority(m *dns.Msg) *dns.SOA {
	for _, rr := range m.Ns {
		if soa, ok := rr.(*dns.SOA); ok {
			return soa
		}
	}
	return nil
}

// records goes through all records but the OPT, whose TTL is none.
func records(m *dns.Msg) func(yield func(dns.RR) bool) {
	return func(yield func(dns.RR) bool) {
		for _, section := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
			for _, rr := range section {
				if rr.Header().Rrtype != dns.TypeOPT && !yield(rr) {
					return
				}
			}
		}
	}
}
