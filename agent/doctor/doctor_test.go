package doctor

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"weft/kernel"
	"weft/store"
	"weft/store/record"
)

var errAway = errors.New("no route to host")

// Each row is what was found out, and what is said of it: status, words of the finding, words of the remedy.
func TestChecks(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	sound := Store{Name: "etcd://h", Joined: true, Latency: time.Millisecond, Bound: 16 * time.Second}
	here, there := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	tunnel := Tunnel{Host: "h2", State: "alive", Port: 4789, Here: here, There: there, Link: "eth0", Overhead: 50}
	with := func(f func(*Tunnel)) Tunnel { x := tunnel; f(&x); return x }
	limits := Limits{Files: 10, MaxFiles: 1024, Flows: 5, MaxFlows: 100, DiskFree: 1 << 40, Dir: "/var/lib/weft"}
	pool := func(here bool) []Pool { return []Pool{{"web", netip.MustParsePrefix("10.1.0.0/24"), here}} }
	route := func(p string) []Route { return []Route{{netip.MustParsePrefix(p), "tun0"}} }
	put := kernel.Op{Verb: kernel.Put, Obj: kernel.Object{Key: kernel.Key{Kind: kernel.KindFDB, NS: "n", Link: "vx0", Dst: "02:42:0a:01:00:02"}, Spec: kernel.FDB{}}}
	del := put
	del.Verb = kernel.Del
	for name, tc := range map[string]struct {
		got             []Check
		status          Status
		finding, remedy string
	}{
		"store":                    {[]Check{sound.Check()}, OK, "answers in 1ms; a host that dies is noticed within 16s", ""},
		"store away":               {[]Check{Store{Name: "etcd://h", Joined: true, Away: errAway}.Check()}, Error, "etcd://h does not answer: no route to host", "weft store status"},
		"store not joined":         {[]Check{Store{Name: "s", Why: errAway}.Check()}, Error, "cannot join its cluster: no route", "tries again"},
		"store just joining":       {[]Check{Store{Name: "s"}.Check()}, Error, "not joined its cluster yet", "in a moment"},
		"store not believed":       {[]Check{Store{Name: "s", Joined: true, Doubt: errors.New("it is empty")}.Check()}, Error, "not believed: it is empty", "weft restore"},
		"store moved":              {[]Check{Store{Name: "zk://h", Joined: true, Moved: "etcd://h"}.Check()}, Warning, "from etcd://h to zk://h", "--cluster-store"},
		"store slow":               {[]Check{Store{Name: "s", Joined: true, Latency: time.Second}.Check()}, Warning, "takes 1s", "how busy"},
		"tunnel":                   {with(func(t *Tunnel) { t.Answers, t.RTT = true, time.Millisecond }).Check(), OK, "answers in 1ms", ""},
		"filtered out":             {with(func(t *Tunnel) { t.Heard = true }).Check(), Error, "what this host sends to UDP port 4789 of 192.0.2.2 does not arrive", "from 192.0.2.1 pass into h2"},
		"filtered in":              {tunnel.Check(), Error, "nothing of what it sends to UDP port 4789 arrives here", "from 192.0.2.2 pass into this host"},
		"no agent":                 {with(func(t *Tunnel) { t.Kernel = true }).Check(), Error, "its agent does not", "start weftd there"},
		"host lost":                {with(func(t *Tunnel) { t.State = "lost" }).Check(), Warning, "the host is lost", "weft host rm h2"},
		"host without agent":       {with(func(t *Tunnel) { t.State, t.Kernel = "detached", true }).Check(), Warning, "its kernel answers", "start weftd there"},
		"mtu":                      {with(func(t *Tunnel) { t.Answers, t.Sizes = true, &Sizes{1450, 1450, true} }).Check()[1:], OK, "1450 bytes pass both ways", ""},
		"black hole":               {with(func(t *Tunnel) { t.Answers, t.Sizes = true, &Sizes{1450, 1250, false} }).Check()[1:], Error, "more than 1250 bytes vanish", "pass 1500 bytes and ICMP; or make networks with -o com.docker.network.driver.mtu=1250"},
		"black hole back":          {with(func(t *Tunnel) { t.Answers, t.Sizes = true, &Sizes{1450, 1450, false} }).Check()[1:], Error, "those that come back vanish", "weft doctor there"},
		"checksums":                {with(func(t *Tunnel) { t.Answers, t.Sums = true, &Sums{4, 4, 0} }).Check()[1:], OK, "4 of 4", ""},
		"checksum of one lost":     {with(func(t *Tunnel) { t.Answers, t.Sums = true, &Sums{4, 3, 0} }).Check()[1:], OK, "3 of 4", ""},
		"checksums corrupted":      {with(func(t *Tunnel) { t.Answers, t.Sums = true, &Sums{4, 1, 2} }).Check()[1:], Error, "2 arrived wrong and 1 not at all", "ethtool -K eth0 tx off"},
		"checksums swallowed":      {with(func(t *Tunnel) { t.Answers, t.Sums = true, &Sums{4, 0, 0} }).Check()[1:], Error, "4 not at all", "ethtool"},
		"checksums not known":      {with(func(t *Tunnel) { t.Answers, t.SumsFailed = true, errAway }).Check()[1:], Skipped, "no route", ""},
		"clock":                    {[]Check{Clock{Synced: true}.Check()}, OK, "kept by NTP", ""},
		"clock jumped back":        {[]Check{Clock{Synced: true, Jumped: -time.Hour}.Check()}, Warning, "jumped by -1h0m0s", "chrony"},
		"clock not kept":           {[]Check{Clock{}.Check()}, Warning, "nobody keeps it", "chrony"},
		"certificate":              {[]Check{Certificate{Now: now, Until: now.AddDate(0, 0, 80)}.Check()}, OK, "good until 2026-03-22", ""},
		"no certificate":           {[]Check{Certificate{Err: errAway}.Check()}, Warning, "cannot be asked", "weft cluster token"},
		"certificate ends soon":    {[]Check{Certificate{Now: now, Until: now.AddDate(0, 0, 3)}.Check()}, Warning, "not renewed", "log"},
		"certificate ended":        {[]Check{Certificate{Now: now, Until: now.AddDate(0, 0, -1)}.Check()}, Error, "ended at 2025-12-31", "join again"},
		"features":                 {[]Check{Features(nil, nil)}, OK, "all that weft needs", ""},
		"features missing":         {[]Check{Features([]string{"VXLAN: not supported"}, nil)}, Error, "lacks VXLAN: not supported", "modprobe"},
		"features not to be tried": {[]Check{Features(nil, errAway)}, Error, "no route", "CAP_NET_ADMIN"},
		"limits":                   {limits.Check()[:1], OK, "10 of 1024 files", ""},
		"files":                    {func() []Check { l := limits; l.Files = 1000; return l.Check()[:1] }(), Warning, "1000 of 1024", "LimitNOFILE"},
		"connections":              {func() []Check { l := limits; l.Flows = 99; return l.Check()[:1] }(), Warning, "99 of 100", "nf_conntrack_max=400"},
		"bridge ports":             {func() []Check { l := limits; l.Ports, l.PortsOn = 950, "web"; return l.Check()[:1] }(), Warning, "web has 950", "other hosts"},
		"disk":                     {limits.Check()[1:], OK, "MiB free for /var/lib/weft", ""},
		"disk nearly full":         {func() []Check { l := limits; l.DiskFree = 20 << 20; return l.Check()[1:] }(), Warning, "20 MiB free", "make room"},
		"disk full":                {func() []Check { l := limits; l.DiskFree = 4096; return l.Check()[1:] }(), Error, "4 KiB free", "make room"},
		"routes":                   {Overlaps(pool(true), route("10.2.0.0/16"), nil), OK, "overlap nowhere", ""},
		"route into a network":     {Overlaps(pool(true), route("10.1.0.128/25"), nil), Error, "10.1.0.0/24 overlaps this host's route to 10.1.0.128/25 by tun0", "ip route del 10.1.0.128/25 dev tun0"},
		"route of another's":       {Overlaps(pool(false), route("10.1.0.0/24"), nil), Warning, "overlaps", "ip route del"},
		"wider route":              {Overlaps(pool(true), route("10.0.0.0/8"), nil), Warning, "overlaps", "--subnet"},
		"routes not known":         {Overlaps(nil, nil, errAway), Skipped, "no route", ""},
		"vxlan":                    {Foreign([]kernel.ForeignVXLAN{{Name: "flannel.1", VNI: 1, Port: 8472}}, 4789, nil, nil), OK, "nobody else's", ""},
		"vxlan on the port":        {Foreign([]kernel.ForeignVXLAN{{Name: "vx9", VNI: 9, Port: 4789}}, 4789, nil, nil), Error, "VNI 9, uses UDP port 4789", "ip link del vx9"},
		"vxlan of one VNI":         {Foreign([]kernel.ForeignVXLAN{{Name: "vx9", VNI: 9, Port: 4789}}, 4789, map[uint32]string{9: "web"}, nil), Error, "which is network web's", "--vxlan-port"},
		"firewalls":                {Firewalls(nil), OK, "no chain", ""},
		"firewall in the way":      {Firewalls([]string{"chain f drops all: nft insert rule x"}), Error, "chain f drops all", "nft insert rule x"},
		"kernel":                   {[]Check{Kernel{Part: "web", Objects: 7}.Check()}, OK, "7 objects as they should be", ""},
		"kernel lacks":             {[]Check{Kernel{Ops: []kernel.Op{put}, Trouble: "no buffer space"}.Check()}, Error, "1 object is missing or changed: fdb n vx0 02:42:0a:01:00:02 static; the kernel says: no buffer space", "ip monitor"},
		"kernel has too much":      {[]Check{Kernel{Ops: []kernel.Op{del, del}}.Check()}, Error, "2 objects are there that nobody wants", "ip monitor"},
		"kernel not to be read":    {[]Check{Kernel{Err: errAway}.Check()}, Error, "cannot be read: no route", "log"},
		"names":                    {[]Check{Names{Network: "web", Asked: 2}.Check()}, OK, "2 names answered as recorded", ""},
		"names wrong":              {[]Check{Names{Network: "web", Asked: 2, Wrong: []string{"a.web is 10.1.0.2, and is not answered so"}}.Check()}, Error, "1 name answered otherwise", "restart of weftd"},
		"resolver silent":          {[]Check{Names{Silent: []string{"c1"}}.Check()}, Error, "resolver of c1", "127.0.0.11"},
		"records":                  {Records{Quick: true}.Check(), OK, "what its sandboxes want", ""},
		"records differ":           {Records{Quick: true, Differ: []string{"c1 (1234), which is missing"}}.Check(), Error, "c1 (1234), which is missing", "half minute"},
		"store sound":              {Records{Keys: 12}.Check()[1:], OK, "12 keys in the store, all sound", ""},
		"store unsound": {Records{Findings: []record.Finding{{Key: store.Key{Partition: "meta", Name: "names/x"}, Wrong: "nobody has it", Do: "delete it"}, {}}}.Check()[1:], Error,
			"2 things are wrong in the store: meta/names/x: nobody has it", "delete it; `weft store check` shows the others"},
		"store not to be read": {Records{Err: errAway}.Check()[1:], Skipped, "no route", "check store"},
	} {
		if len(tc.got) != 1 {
			t.Errorf("%s: %d checks: %+v", name, len(tc.got), tc.got)
			continue
		}
		c := tc.got[0]
		if c.Status != tc.status || !strings.Contains(c.Finding, tc.finding) || !strings.Contains(c.Remedy, tc.remedy) || c.Name == "" {
			t.Errorf("%s: %+v; want %s, %q, %q", name, c, tc.status, tc.finding, tc.remedy)
		}
		if well := c.Status == OK; well != (c.Remedy == "") && c.Status != Skipped {
			t.Errorf("%s: what is well needs no remedy, and all else does: %+v", name, c)
		}
	}
}

func TestAnAnswerIsComparedWithTheRecord(t *testing.T) {
	t.Parallel()
	a, b := netip.MustParseAddr("10.1.0.2"), netip.MustParseAddr("10.1.0.3")
	for name, tc := range map[string]struct {
		answered bool
		got      []netip.Addr
		wrong    bool
	}{
		"as recorded":         {true, []netip.Addr{a}, false},
		"with others":         {true, []netip.Addr{b, a}, false},
		"not answered":        {true, nil, true},
		"another's":           {true, []netip.Addr{b}, true},
		"rightly silent":      {false, nil, false},
		"another of the name": {false, []netip.Addr{b}, false},
		"of one that is gone": {false, []netip.Addr{a}, true},
	} {
		if got := WrongAnswer("c1.web", []netip.Addr{a}, tc.answered, tc.got); (got != "") != tc.wrong {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// What is under way differs from look to look; what is wrong stays.
func TestOnlyWhatStaysIsReported(t *testing.T) {
	t.Parallel()
	same := func(s string) string { return s }
	if got := Staying([]string{"a", "b"}, []string{"b", "c"}, same); !slices.Equal(got, []string{"b"}) {
		t.Errorf("got %v", got)
	}
	if got := Staying([]string{"a"}, nil, same); len(got) != 0 {
		t.Errorf("got %v", got)
	}
}
