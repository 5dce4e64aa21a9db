package dnssvc

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestResolvConf(t *testing.T) {
	for _, c := range []struct{ what, text, want string }{
		{"nothing", "", "[]"},
		{"two servers and other lines", "search x\nnameserver 192.0.2.1\noptions ndots:1\nnameserver\t2001:db8::1", "[192.0.2.1:53 [2001:db8::1]:53]"},
		{"comments", "# nameserver 192.0.2.1\n;nameserver 192.0.2.2\nnameserver 192.0.2.3 # x\n", "[192.0.2.3:53]"},
		{"a link-local server", "nameserver fe80::1%eth0\n", "[[fe80::1%eth0]:53]"},
		{"one that is on loopback", "nameserver 127.0.0.53\n", "[127.0.0.53:53]"},
		{"this resolver itself", "nameserver 127.0.0.11\nnameserver ::ffff:127.0.0.11\nnameserver 192.0.2.1\n", "[192.0.2.1:53]"},
		{"one twice", "nameserver 192.0.2.1\nnameserver 192.0.2.1\n", "[192.0.2.1:53]"},
		{"what is none", "nameserver\nnameserver dns.example\nNameserver 192.0.2.1\n", "[]"},
	} {
		t.Run(c.what, func(t *testing.T) {
			if got := fmt.Sprint(parseResolvConf(c.text)); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
	if got := parseResolvConf(strings.Repeat("nameserver 192.0.2.1\n", 3) + many(20)); len(got) != maxUpstreams {
		t.Errorf("%d servers, want %d", len(got), maxUpstreams)
	}
}

func many(n int) (text string) {
	for i := range n {
		text += fmt.Sprintf("nameserver 198.51.100.%d\n", i)
	}
	return text
}

func TestHostUpstreamsIsTheHostsFile(t *testing.T) {
	b, err := os.ReadFile(hostResolvConf)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	if got, want := HostUpstreams(), parseResolvConf(string(b)); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// The file is read again soon after it changed, and not for every question.
func TestHostServersAreReadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reads, now := 0, at(1)
		h := hostServers{read: func() []netip.AddrPort { reads++; return []netip.AddrPort{now} }}
		for range 100 {
			if got := h.get(); !slices.Equal(got, []netip.AddrPort{at(1)}) {
				t.Fatal(got)
			}
		}
		if reads != 1 {
			t.Errorf("%d reads for 100 questions", reads)
		}
		now = at(2)
		time.Sleep(hostServersFor)
		if got := h.get(); !slices.Equal(got, []netip.AddrPort{at(2)}) {
			t.Errorf("after the change: %v", got)
		}
	})
}
