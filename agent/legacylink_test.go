package agent

import (
	"errors"
	"io/fs"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft/store/record"
)

func ports(proto string, first, last uint16) record.PortSpec {
	return record.PortSpec{Proto: proto, First: first, Last: last}
}

// Docker's own rules (links/links.go), with its example of a database.
func TestLinkEnv(t *testing.T) {
	t.Parallel()
	linking := &record.Sandbox{Name: "web", Env: []string{"DB_ENV_MINE=kept"}}
	for name, tc := range map[string]struct {
		alias  string
		target record.Sandbox
		want   []string
	}{
		"one port": {"db", record.Sandbox{
			Expose: []record.PortSpec{ports("tcp", 5432, 5432)},
			Env:    []string{"USER=pg", "PATH=/bin", "HOME=/", "EMPTY=", "NOVALUE", "MINE=theirs"},
		}, []string{
			"DB_PORT=tcp://172.17.0.5:5432", "DB_PORT_5432_TCP=tcp://172.17.0.5:5432", "DB_PORT_5432_TCP_ADDR=172.17.0.5", "DB_PORT_5432_TCP_PORT=5432",
			"DB_PORT_5432_TCP_PROTO=tcp", "DB_NAME=/web/db", "DB_ENV_USER=pg", "DB_ENV_EMPTY=",
		}},
		"no port": {"my-db", record.Sandbox{}, []string{"MY_DB_NAME=/web/my-db"}},
		"published and exposed, tcp before udp": {"a", record.Sandbox{
			Ports: []record.PortSpec{ports("udp", 53, 53)}, Expose: []record.PortSpec{ports("tcp", 53, 53), ports("udp", 53, 53)},
		}, []string{
			"A_PORT=tcp://172.17.0.5:53",
			"A_PORT_53_TCP_START=tcp://172.17.0.5:53", "A_PORT_53_TCP_ADDR=172.17.0.5", "A_PORT_53_TCP_PROTO=tcp", "A_PORT_53_TCP_PORT_START=53",
			"A_PORT_53_UDP_END=udp://172.17.0.5:53", "A_PORT_53_UDP_PORT_END=53",
			"A_PORT_53_TCP=tcp://172.17.0.5:53", "A_PORT_53_TCP_ADDR=172.17.0.5", "A_PORT_53_TCP_PORT=53", "A_PORT_53_TCP_PROTO=tcp",
			"A_PORT_53_UDP=udp://172.17.0.5:53", "A_PORT_53_UDP_ADDR=172.17.0.5", "A_PORT_53_UDP_PORT=53", "A_PORT_53_UDP_PROTO=udp",
			"A_NAME=/web/a",
		}},
		"a range and one behind a gap": {"a", record.Sandbox{Expose: []record.PortSpec{ports("tcp", 90, 90), ports("tcp", 80, 81)}}, []string{
			"A_PORT=tcp://172.17.0.5:80",
			"A_PORT_80_TCP_START=tcp://172.17.0.5:80", "A_PORT_80_TCP_ADDR=172.17.0.5", "A_PORT_80_TCP_PROTO=tcp", "A_PORT_80_TCP_PORT_START=80",
			"A_PORT_81_TCP_END=tcp://172.17.0.5:81", "A_PORT_81_TCP_PORT_END=81",
			"A_PORT_80_TCP=tcp://172.17.0.5:80", "A_PORT_80_TCP_ADDR=172.17.0.5", "A_PORT_80_TCP_PORT=80", "A_PORT_80_TCP_PROTO=tcp",
			"A_PORT_81_TCP=tcp://172.17.0.5:81", "A_PORT_81_TCP_ADDR=172.17.0.5", "A_PORT_81_TCP_PORT=81", "A_PORT_81_TCP_PROTO=tcp",
			"A_PORT_90_TCP=tcp://172.17.0.5:90", "A_PORT_90_TCP_ADDR=172.17.0.5", "A_PORT_90_TCP_PORT=90", "A_PORT_90_TCP_PROTO=tcp",
			"A_NAME=/web/a",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := linkEnv(linking, []legacyLink{{alias: tc.alias, target: &tc.target, addrs: []netip.Addr{ip("172.17.0.5")}}})
			if d := cmp.Diff(tc.want, got); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
	wide := record.Sandbox{Expose: []record.PortSpec{ports("tcp", 1, 65535)}}
	if got := linkEnv(linking, []legacyLink{{alias: "a", target: &wide, addrs: []netip.Addr{ip("172.17.0.5")}}}); len(got) != 1+6+4*maxLinkPorts+1 {
		t.Errorf("a wide range gives %d variables", len(got))
	}
}

func TestHostsLines(t *testing.T) {
	t.Parallel()
	db := &record.Sandbox{Name: "db", Hostname: "6e5cdeb2d300"}
	for want, l := range map[string]legacyLink{
		"172.17.0.5\twebdb 6e5cdeb2d300 db\n":                     {alias: "webdb", target: db, addrs: []netip.Addr{ip("172.17.0.5")}},
		"172.17.0.5\tdb 6e5cdeb2d300\nfd00::5\tdb 6e5cdeb2d300\n": {alias: "db", target: db, addrs: []netip.Addr{ip("172.17.0.5"), ip("fd00::5")}},
		"": {alias: "db", target: db},
	} {
		if got := hostsLines([]legacyLink{l}); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// What the user says of ndots is in the file alone: some resolvers take the first, and some the last.
func TestResolvConfOfANetworkOfOnesOwn(t *testing.T) {
	t.Parallel()
	for want, options := range map[string][]string{
		"nameserver 127.0.0.11\noptions ndots:0\n":           nil,
		"nameserver 127.0.0.11\noptions ndots:0 timeout:1\n": {"timeout:1"},
		"nameserver 127.0.0.11\noptions ndots:3\n":           {"ndots:3"},
	} {
		if got := (&Agent{}).resolvFile(&record.Sandbox{DNSOptions: options}); got != want {
			t.Errorf("options %v: %q, want %q", options, got, want)
		}
	}
}

func TestResolvConfOfTheDefaultNetwork(t *testing.T) {
	t.Parallel()
	v4 := record.Sandbox{Attachments: []record.Attachment{{Addrs: []netip.Addr{ip("172.17.0.2")}}}}
	dual := record.Sandbox{Attachments: []record.Attachment{{Addrs: []netip.Addr{ip("172.17.0.2"), ip("fd00::2")}}}}
	with := func(s record.Sandbox, f func(*record.Sandbox)) record.Sandbox { f(&s); return s }
	for name, tc := range map[string]struct {
		host, stub string
		s          record.Sandbox
		want       string
	}{
		"as the host":                        {"# c\nsearch old\nnameserver 192.0.2.1\nnameserver 192.0.2.2\nsearch corp.example lan\noptions timeout:1\noptions rotate\n", "", v4, "nameserver 192.0.2.1\nnameserver 192.0.2.2\nsearch corp.example lan\noptions timeout:1 rotate\n"},
		"no loopback":                        {"nameserver 127.0.0.1\nnameserver ::1\nnameserver 192.0.2.1\ndomain lan\n", "", v4, "nameserver 192.0.2.1\nsearch lan\n"},
		"nobody is left":                     {"nameserver 127.0.0.1\n", "", v4, "nameserver 8.8.8.8\nnameserver 8.8.4.4\n"},
		"no file":                            {"", "", v4, "nameserver 8.8.8.8\nnameserver 8.8.4.4\n"},
		"behind systemd's stub":              {"nameserver 127.0.0.53\noptions edns0\n", "nameserver 192.0.2.7\nsearch lan\n", v4, "nameserver 192.0.2.7\nsearch lan\n"},
		"IPv6 servers only for who has IPv6": {"nameserver 2001:db8::1\nnameserver 192.0.2.1\n", "", v4, "nameserver 192.0.2.1\n"},
		"IPv6 servers for who has IPv6":      {"nameserver 2001:db8::1\nnameserver 192.0.2.1\n", "", dual, "nameserver 2001:db8::1\nnameserver 192.0.2.1\n"},
		"what the user asked for": {"nameserver 192.0.2.1\nsearch lan\noptions rotate\n", "", with(v4, func(s *record.Sandbox) {
			s.DNS, s.DNSSearch, s.DNSOptions = []netip.Addr{ip("9.9.9.9")}, []string{"a", "b"}, []string{"ndots:2"}
		}), "nameserver 9.9.9.9\nsearch a b\noptions ndots:2\n"},
		"no search at all":                     {"nameserver 192.0.2.1\nsearch lan\n", "", with(v4, func(s *record.Sandbox) { s.DNSSearch = []string{"."} }), "nameserver 192.0.2.1\n"},
		"what makes no sense is not passed on": {"nameserver\nnameserver x y\nnonsense a b\nnameserver 192.0.2.1 trailing\n", "", v4, "nameserver 192.0.2.1\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			files := map[string]string{hostResolvConf: tc.host}
			if tc.stub != "" {
				files[systemdResolvConf] = tc.stub
			}
			got := hostResolv(func(path string) ([]byte, error) {
				if text, ok := files[path]; ok && text != "" {
					return []byte(text), nil
				}
				return nil, fs.ErrNotExist
			}).own(&tc.s).String()
			if got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func FuzzResolvConf(f *testing.F) {
	f.Add("nameserver 127.0.0.1\nsearch a b\noptions c\n")
	f.Add("nameserver 2001:db8::1%eth0\n\x00")
	f.Fuzz(func(t *testing.T, text string) {
		s := &record.Sandbox{}
		got := parseResolvConf(parseResolvConf(text).own(s).String())
		if len(got.servers) == 0 {
			t.Errorf("%q leaves no server", text)
		}
		for _, a := range got.servers {
			if addr, err := netip.ParseAddr(a); err != nil || addr.IsLoopback() {
				t.Errorf("%q leaves the server %q: %v", text, a, err)
			}
		}
		if slices.ContainsFunc(got.search, func(w string) bool { return strings.ContainsAny(w, " \n") }) {
			t.Error(errors.New("a word has a space in it"))
		}
	})
}
