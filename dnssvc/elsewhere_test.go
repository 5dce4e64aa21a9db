package dnssvc

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/miekg/dns"
)

// elsewhere is a DNS server on loopback that tests tell what to do. It answers "N.many." with N addresses, "alias." with an alias,
// "no…" with NXDOMAIN, and other names with 192.0.2.1.
type elsewhere struct {
	addr  netip.AddrPort
	do    atomic.Pointer[func(w dns.ResponseWriter, q, good *dns.Msg)]
	asked atomic.Int32

	mu   sync.Mutex
	seen []*dns.Msg
	from []string
}

func newElsewhere(t testing.TB, addr string) *elsewhere {
	t.Helper()
	e := &elsewhere{}
	e.obey(func(w dns.ResponseWriter, _, good *dns.Msg) { _ = w.WriteMsg(good) })
	udp, err := net.ListenPacket("udp4", addr)
	if err != nil {
		t.Fatal(err)
	}
	tcp, err := net.Listen("tcp4", udp.LocalAddr().String())
	if err != nil {
		_ = udp.Close()
		t.Fatal(err)
	}
	e.addr = netip.MustParseAddrPort(udp.LocalAddr().String())
	var wg sync.WaitGroup
	all := []*dns.Server{{PacketConn: udp, Handler: e}, {Listener: tcp, Handler: e}}
	for _, s := range all {
		up := make(chan struct{})
		s.NotifyStartedFunc = func() { close(up) }
		wg.Go(func() {
			if err := s.ActivateAndServe(); err != nil && !errors.Is(err, net.ErrClosed) {
				t.Error(err)
			}
		})
		<-up
	}
	t.Cleanup(func() {
		for _, s := range all {
			if err := s.Shutdown(); err != nil {
				t.Error(err)
			}
		}
		wg.Wait()
	})
	return e
}

func (e *elsewhere) obey(do func(w dns.ResponseWriter, q, good *dns.Msg)) { e.do.Store(&do) }

func (e *elsewhere) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	e.mu.Lock()
	e.seen, e.from = append(e.seen, q.Copy()), append(e.from, w.RemoteAddr().String())
	e.mu.Unlock()
	if q.Question[0].Name != "." { // which is a probe
		e.asked.Add(1)
	}
	good := new(dns.Msg)
	good.SetReply(q)
	good.RecursionAvailable = true
	name := q.Question[0].Name
	rr := func(format string, args ...any) dns.RR {
		rr, err := dns.NewRR(fmt.Sprintf(format, args...))
		if err != nil {
			panic(err)
		}
		return rr
	}
	var n int
	switch _, err := fmt.Sscanf(name, "%d.many.", &n); {
	case strings.HasPrefix(name, "no"):
		good.Rcode = dns.RcodeNameError
		good.Ns = append(good.Ns, rr("example. 60 SOA a. b. 1 2 3 4 30"))
	case err == nil:
		for i := range n {
			good.Answer = append(good.Answer, rr("%s 60 A 10.9.%d.%d", name, i/250, i%250))
		}
	default:
		good.Answer = append(good.Answer, rr("%s 60 A 192.0.2.1", name))
	}
	if o := q.IsEdns0(); o != nil {
		good.SetEdns0(4096, o.Do())
	}
	if w.RemoteAddr().Network() == "udp" {
		good.Truncate(1232)
	}
	(*e.do.Load())(w, q, good)
}

func (e *elsewhere) count() int { return int(e.asked.Load()) }
