package dnssvc

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// message is an answer to "name. A" with records in the form of zone files; one that begins with '!' is in the authority section.
func message(t testing.TB, rcode int, records ...string) *dns.Msg {
	t.Helper()
	m := new(dns.Msg)
	m.SetRcode(query("name", dns.TypeA), rcode)
	for _, s := range records {
		authority := s[0] == '!'
		if authority {
			s = s[1:]
		}
		rr, err := dns.NewRR(s)
		if err != nil {
			t.Fatal(err)
		}
		if authority {
			m.Ns = append(m.Ns, rr)
		} else {
			m.Answer = append(m.Answer, rr)
		}
	}
	return m
}

func TestLifetime(t *testing.T) {
	for _, c := range []struct {
		what    string
		rcode   int
		records []string
		want    time.Duration
	}{
		{"the shortest record's", dns.RcodeSuccess, []string{"name. 60 A 192.0.2.1", "name. 30 A 192.0.2.2"}, 30 * time.Second},
		{"also behind an alias", dns.RcodeSuccess, []string{"name. 10 CNAME x.", "x. 30 A 192.0.2.2"}, 10 * time.Second},
		{"also in the authority", dns.RcodeSuccess, []string{"name. 60 A 192.0.2.1", "!name. 20 NS x."}, 20 * time.Second},
		{"no longer than an hour", dns.RcodeSuccess, []string{"name. 604800 A 192.0.2.1"}, time.Hour},
		{"none with a TTL of 0", dns.RcodeSuccess, []string{"name. 0 A 192.0.2.1"}, 0},
		{"a denial's: its SOA's minimum", dns.RcodeNameError, []string{"!. 600 SOA a. b. 1 2 3 4 45"}, 45 * time.Second},
		{"or its SOA's own", dns.RcodeNameError, []string{"!. 20 SOA a. b. 1 2 3 4 45"}, 20 * time.Second},
		{"no longer than minutes", dns.RcodeNameError, []string{"!. 9999 SOA a. b. 1 2 3 4 9999"}, maxNegative},
		{"no record of the type is a denial", dns.RcodeSuccess, []string{"!. 600 SOA a. b. 1 2 3 4 45"}, 45 * time.Second},
		{"also behind an alias", dns.RcodeSuccess, []string{"name. 99 CNAME x.", "!. 600 SOA a. b. 1 2 3 4 45"}, 45 * time.Second},
		{"none without a SOA", dns.RcodeNameError, nil, 0},
		{"none of a referral", dns.RcodeSuccess, []string{"!com. 600 NS a."}, 0},
		{"none of a failure", dns.RcodeServerFailure, []string{"name. 60 A 192.0.2.1"}, 0},
	} {
		t.Run(c.what, func(t *testing.T) {
			if got := lifetime(message(t, c.rcode, c.records...)); got != c.want {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
	cut := message(t, dns.RcodeSuccess, "name. 60 A 192.0.2.1")
	cut.Truncated = true
	if got := lifetime(cut); got != 0 {
		t.Errorf("half an answer is kept for %v", got)
	}
}

func (c *cache) keep(t testing.TB, k key, m *dns.Msg) {
	t.Helper()
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	c.put(k, m, b)
}

func TestCacheAges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, k := newCache(), key{name: "name.", qtype: dns.TypeA}
		c.keep(t, k, message(t, dns.RcodeSuccess, "name. 10 A 192.0.2.1", "name. 100 A 192.0.2.2"))
		time.Sleep(4*time.Second + 500*time.Millisecond)
		m := c.get(k)
		if m == nil || m.Answer[0].Header().Ttl != 6 || m.Answer[1].Header().Ttl != 96 {
			t.Fatalf("after 4.5 s: %v", m)
		}
		time.Sleep(6 * time.Second)
		if m := c.get(k); m != nil {
			t.Errorf("after its end: %v", m)
		}
		if c.bytes != 0 || len(c.kept) != 0 || c.order.Len() != 0 {
			t.Errorf("%d bytes are left of it", c.bytes)
		}
	})
}

func TestCacheTellsQuestionsApart(t *testing.T) {
	c := newCache()
	base := key{name: "name.", qtype: dns.TypeA, upstreams: "x"}
	c.keep(t, base, message(t, dns.RcodeSuccess, "name. 10 A 192.0.2.1"))
	for _, change := range []func(*key){
		func(k *key) { k.name = "nane." },
		func(k *key) { k.qtype = dns.TypeAAAA },
		func(k *key) { k.do = true },
		func(k *key) { k.cd = true },
		func(k *key) { k.upstreams = "y" },
	} {
		k := base
		change(&k)
		if c.get(k) != nil {
			t.Errorf("%+v has the answer of %+v", k, base)
		}
	}
	if c.get(base) == nil {
		t.Error("the question itself has no answer")
	}
}

// The cache stays within its bytes, whatever is put into it, and what is asked for stays longest.
func TestCacheIsBounded(t *testing.T) {
	c := newCache()
	hot := key{name: "hot."}
	c.keep(t, hot, message(t, dns.RcodeSuccess, "name. 1000 A 192.0.2.1"))
	for i := range 3 * maxCacheBytes / keptOverhead {
		c.keep(t, key{name: fmt.Sprintf("n%d.", i)}, message(t, dns.RcodeSuccess, "name. 1000 A 192.0.2.1"))
		if i%100 == 0 && c.get(hot) == nil {
			t.Fatalf("the name that is asked for was dropped after %d others", i)
		}
	}
	sum := 0
	for e := c.order.Front(); e != nil; e = e.Next() {
		sum += e.Value.(*kept).cost()
	}
	if c.bytes > maxCacheBytes || sum != c.bytes || len(c.kept) != c.order.Len() {
		t.Errorf("%d bytes by count, %d by sum, limit %d", c.bytes, sum, maxCacheBytes)
	}
	var big []string
	for i := range 600 {
		big = append(big, fmt.Sprintf("name. 1000 A 10.0.%d.%d", i/250, i%250))
	}
	c.keep(t, key{name: "big."}, message(t, dns.RcodeSuccess, big...))
	if c.get(key{name: "big."}) != nil {
		t.Error("a huge answer was kept")
	}
}
