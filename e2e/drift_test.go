package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"weft/e2e/lab"
)

// repaired is how long what somebody has taken away by hand may be missing.
const repaired = 5 * time.Second

// place is a host with a sandbox in an overlay network and one, with a published port, in a network of its own.
type place struct {
	*host
	over, own, far *box // far is the sandbox in the overlay network on the other host
	space          string
	env            []string // what weft has made, by the names that the lines of the harms use
}

// look sets what the lines are given.
func (p *place) look() {
	over, own, far := p.over.view(), p.own.view(), p.far.view()
	web, alone := p.weft("network", "ls", "--no-trunc", "-q", "-f", "name=web"), p.weft("network", "ls", "--no-trunc", "-q", "-f", "name=own")
	p.space = filepath.Join(p.RunDir(), "netns", "weft-"+web[:12])
	p.env = append(os.Environ(),
		"SPACE="+p.space, "UP=weft"+web[:10], "BR=br-"+alone[:12],
		"PORT=ep"+over.NetworkSettings.Networks["web"].EndpointID[:12], "OWN=ep"+own.NetworkSettings.Networks["own"].EndpointID[:12],
		"ADDR="+over.NetworkSettings.Networks["web"].IPAddress, "OWNADDR="+own.NetworkSettings.Networks["own"].IPAddress,
		"FAR="+far.NetworkSettings.Networks["web"].IPAddress, "FARMAC="+far.NetworkSettings.Networks["web"].MacAddress,
	)
}

// in is the namespace that a harm is done in: the host's, the overlay network's, or that of a sandbox. "" is none: what is done to files.
func (p *place) in(where string) string {
	return map[string]string{"host": p.Path, "network": p.space, "sandbox": p.over.netns, "own sandbox": p.own.netns}[where]
}

// sh runs a line.
func (p *place) sh(where, line string) (string, error) {
	args := []string{"sh", "-ec", line}
	if ns := p.in(where); ns != "" {
		args = append([]string{"nsenter", "--net=" + ns}, args...)
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = p.env
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s: in the %s: %s: %w: %s", p.Name, where, line, err, out)
	}
	return string(out), err
}

// sound is nil where everything works that the host's sandboxes and ports are for.
func (p *place) sound() error {
	const wait = 400 * time.Millisecond
	outside, far := p.c.lab.OutsideAddr().String(), p.far.addr("web")
	if _, err := p.over.greeting(far, wait); err != nil {
		return fmt.Errorf("%s to %s: %w", p.over.name, p.far.name, err)
	}
	if err := p.far.pings(p.over.addr("web"), 1400, wait); err != nil {
		return fmt.Errorf("%s to %s: %w", p.far.name, p.over.name, err)
	}
	if err := p.over.finds(p.far.name, far); err != nil {
		return err
	}
	if err := p.own.finds(p.own.name, p.own.addr("own")); err != nil {
		return err
	}
	for _, b := range []*box{p.over, p.own} {
		if err := b.says(outside, wait); err != nil {
			return fmt.Errorf("%s to the outside: %w", b.name, err)
		}
	}
	if _, err := p.c.outside().calls(p.at("8080"), wait); err != nil {
		return fmt.Errorf("the published port: %w", err)
	}
	return nil
}

// harm is a line that takes something away, and one that succeeds while it is there.
type harm struct{ what, in, line, there string }

// The rules' harms take others' rules along: they come before there are any.
var harmsOfRules = []harm{
	{"all rules of the host", "host", "nft flush ruleset", "nft list table inet weft && nft list table bridge weft"},
	{"all rules of a network", "network", "nft flush ruleset", "nft list table bridge weft"},
}

var harms = []harm{
	{"the host's table", "host", "nft delete table inet weft", "nft list table inet weft"},
	{"a network's table", "network", "nft delete table bridge weft", "nft list table bridge weft"},
	{"a sandbox's pair, from outside", "network", "ip link delete $PORT", "ip link show $PORT | grep -q LOWER_UP"},
	{"a sandbox's pair, inside", "sandbox", "ip link delete eth0", "ip addr show eth0 | grep -q $ADDR/"},
	{"the pair of one in a network of the host", "host", "ip link delete $OWN", "ip link show $OWN | grep -q LOWER_UP"},
	{"the same, inside", "own sandbox", "ip link delete eth0", "ip addr show eth0 | grep -q $OWNADDR/"},
	{"a sandbox's address", "sandbox", "ip addr flush dev eth0", "ip addr show eth0 | grep -q $ADDR/"},
	{"a sandbox's default route", "sandbox", "ip route del default", "ip route | grep -q ^default"},
	{"the same of the other", "own sandbox", "ip route del default", "ip route | grep -q ^default"},
	{"a sandbox's interface, down", "sandbox", "ip link set eth0 down", "ip link show eth0 | grep -q LOWER_UP"},
	{"a port, down", "network", "ip link set $PORT down", "ip link show $PORT | grep -q LOWER_UP"},
	{"a network's bridge", "network", "ip link delete br0", "ip link show br0 | grep -q LOWER_UP"},
	{"a network's bridge, down", "network", "ip link set br0 down", "ip link show br0 | grep -q LOWER_UP"},
	{"the host's bridge", "host", "ip link delete $BR", "ip link show $BR | grep -q LOWER_UP"},
	{"the host's bridge, down", "host", "ip link set $BR down", "ip link show $BR | grep -q LOWER_UP"},
	{"the tunnel", "network", "ip link delete vx0", "ip link show vx0 | grep -q LOWER_UP"},
	{"the tunnel, down", "network", "ip link set vx0 down", "ip link show vx0 | grep -q LOWER_UP"},
	{"an entry of the bridge", "network", "bridge fdb del $FARMAC dev vx0 master", "bridge fdb show dev vx0 | grep -q \"$FARMAC .*master br0\""},
	{"an entry of the tunnel", "network", "bridge fdb del $FARMAC dev vx0 self", "bridge fdb show dev vx0 | grep -q \"$FARMAC dst\""},
	{"a neighbour", "network", "ip neigh del $FAR dev br0", "ip neigh show $FAR dev br0 | grep -q $FARMAC"},
	{"the way into a network", "host", "ip link delete $UP", "ip route show dev $UP | grep -q 10.1.0.0/24"},
	{"the route into it", "host", "ip route del 10.1.0.0/24", "ip route show dev $UP | grep -q 10.1.0.0/24"},
	{"a network's namespace", "", "umount -l $SPACE && rm $SPACE", "nsenter --net=$SPACE ip link show vx0 | grep -q LOWER_UP"},
}

// What others have beside weft's own, of the same kinds.
var (
	besides = map[string]string{
		"host": `ip link add user0 type bridge && ip link set user0 up && ip addr add 172.31.0.1/24 dev user0
			ip link add user1 type veth peer name user2 && ip link set user1 up && ip link set user2 up master user0
			ip route add 172.30.0.0/24 via 172.31.0.2 && ip rule add from 172.31.0.3 lookup 77 && ip route add 172.29.0.0/24 dev user0 table 77
			ip link add user3 type vxlan id 4096 dstport 4790 local 172.31.0.1 && bridge fdb add 02:00:00:00:00:09 dev user3 dst 172.31.0.9
			ip neigh add 172.31.0.7 dev user0 lladdr 02:00:00:00:00:07 nud permanent
			nft 'add table inet user; add set inet user s { type ipv4_addr; elements = { 192.0.2.9 }; }'`,
		"sandbox": `ip link add user0 type bridge && ip addr add 172.31.1.1/24 dev user0 && ip link set user0 up && ip route add 172.30.1.0/24 dev user0
			nft 'add table inet user; add chain inet user c'`,
	}
	beside = map[string]string{
		"host": `ip -o link show master user0 | cut -d: -f2; ip -br addr show dev user0 | grep -o '172.*24'; ip route show 172.30.0.0/24; ip route show table 77
			ip rule show from 172.31.0.3; ip -d link show user3 | grep -o 'vxlan id.*4790'; bridge fdb show dev user3 | grep 02:00; ip neigh show 172.31.0.7
			nft list table inet user`,
		"sandbox": `ip -br addr show dev user0 | grep -o '172.*24'; ip route show 172.30.1.0/24; nft list table inet user`,
	}
)

// Whatever somebody takes away by hand is back within seconds, and what is others' stays as it is.
func TestWhatIsTakenAwayByHandComesBack(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, lab.Embedded{})
	c.start()
	echo(c, c.lab.Outside().Path, c.lab.OutsideAddr().String())

	// Given two hosts that share an overlay network, each with a network of its own
	c.hosts[0].weft("network", "create", "-d", "overlay", "--subnet", "10.1.0.0/24", "web")
	places := []*place{{host: c.hosts[0]}, {host: c.hosts[1]}}
	for i, p := range places {
		p.weft("network", "create", "own")
		p.over, p.own = p.box(fmt.Sprintf("over%d", i+1), "web").echo(), p.box(fmt.Sprintf("own%d", i+1), "own", "-p", "8080:7").echo()
	}
	places[0].far, places[1].far = places[1].over, places[0].over
	for _, p := range places {
		p.look()
		eventually(t, settle, p.sound)
	}

	// When something is taken away, now on one host, now on the other, then it is back and works
	var took []time.Duration
	try := func(hs []harm) {
		for i, h := range hs {
			p := places[i%len(places)]
			_, err := p.sh(h.in, h.line)
			must(t, err)
			began := time.Now()
			eventually(t, repaired, func() error {
				if _, err := p.sh(h.in, h.there); err != nil {
					return err
				}
				return p.sound()
			})
			took = append(took, time.Since(began).Round(10*time.Millisecond))
			t.Logf("%s: %s: back after %s", p.Name, h.what, took[len(took)-1])
		}
	}
	try(harmsOfRules)

	// And what is others' is as it was
	before := map[string]string{}
	snapshot := func(p *place, where string) string {
		out, err := p.sh(where, beside[where])
		must(t, err)
		return out
	}
	for _, p := range places {
		for where, line := range besides {
			_, err := p.sh(where, line)
			must(t, err)
			before[p.Name+where] = snapshot(p, where)
		}
	}
	try(harms)
	for _, p := range places {
		for where := range besides {
			if now := snapshot(p, where); now != before[p.Name+where] || strings.Count(now, "\n") < 3 {
				t.Errorf("%s: others had in the %s\n%s\nand have\n%s", p.Name, where, before[p.Name+where], now)
			}
		}
	}
	slices.Sort(took)
	t.Logf("back after %s in the middle, %s at most, of %d", took[len(took)/2], took[len(took)-1], len(took))
	for _, p := range places { // a probe that was lost meanwhile is noticed some seconds later
		eventually(t, patience, func() error {
			if r := p.try("doctor"); r.Code != 0 {
				return fmt.Errorf("%s is not well:\n%s%s", p.Name, r.Stdout, r.Stderr)
			}
			return nil
		})
	}
}
