package agent

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"weft/kernel"
	"weft/kernel/fake"
	"weft/port"
	"weft/store/memory"
	"weft/store/record"
)

// What others take away is put back as soon as it is told; what is not weft's, or is told of its own work, makes it read nothing.
func TestWhatOthersTakeAwayIsPutBack(t *testing.T) {
	const web = record.NetworkID("ccccccccccccaaaa")
	bridge := kernel.Key{Kind: kernel.KindBridge, Link: "br-cccccccccccc"}
	uplink := kernel.Key{Kind: kernel.KindVeth, Link: port.UplinkName(front)}
	table := kernel.Key{Kind: kernel.KindTable, Link: "inet weft"}
	for name, tc := range map[string]struct {
		change kernel.Change
		read   bool
	}{
		"a table":           {kernel.Change{Key: table}, true},
		"a bridge":          {kernel.Change{Key: bridge}, true},
		"a bridge's MTU":    {kernel.Change{Key: bridge, Now: kernel.Bridge{MTU: 68}}, true},
		"an uplink":         {kernel.Change{Key: uplink}, true},
		"a gateway":         {kernel.Change{Key: kernel.Key{Kind: kernel.KindAddr, Link: bridge.Link, Dst: "172.18.0.1/16"}}, true},
		"a route":           {kernel.Change{Key: kernel.Key{Kind: kernel.KindRoute, Link: uplink.Link, Dst: "10.1.0.0/24"}}, true},
		"a guest's rule":    {kernel.Change{Key: kernel.Key{Kind: kernel.KindGuest, Link: "ip filter DOCKER-USER"}}, true},
		"lost events":       {kernel.Change{Doubt: true}, true},
		"another's link":    {kernel.Change{Key: kernel.Key{Kind: kernel.KindVeth, Link: "docker0"}}, false},
		"another's address": {kernel.Change{Key: kernel.Key{Kind: kernel.KindAddr, Link: "eth0", Dst: "172.18.0.1/16"}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, k := memory.New(), fake.New(testDir)
				s := newSite(t, w, k)
				defer s.stop()
				s.write(hosts()...)
				s.write(network(front, "10.1.0.0/24"))
				s.keep(localNetwork(web, "172.18.0.0/16"), true)
				s.set(box("a", in(front, "e1", "10.1.0.2")))
				if err := s.do(t.Context(), front, "e1"); err != nil {
					t.Fatal(err)
				}
				pass(time.Second)
				s.holds("at first")
				took := func(o kernel.Object) bool { return o.Kind == kernel.KindTable && o.Link == "inet weft" }
				k.Lose(took)
				s.changes <- []kernel.Change{tc.change}
				pass(time.Second)
				k.Log()
				if tc.read {
					s.holds("a second after it was told")
				}
				reads := errors.New("it was read")
				k.Fail(fake.Fault{Reading: true, Err: reads})
				s.changes <- []kernel.Change{{Key: kernel.Key{Kind: kernel.KindVeth, Link: "docker0"}}}
				pass(time.Second)
				if err := s.failures()[string(hostPart)]; err != nil {
					t.Errorf("for another's link: %v", err)
				}
				s.changes <- []kernel.Change{tc.change}
				pass(time.Second)
				if err := s.failures()[string(hostPart)]; errors.Is(err, reads) != tc.read {
					t.Errorf("told again: %v", err)
				}
			})
		})
	}
}
