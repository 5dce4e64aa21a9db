package kernel_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"weft/kernel"
	"weft/kernel/netnstest"
)

// A host that comes to forward IPv6 goes on to take its own routes from its routers; what took none takes none.
func TestAHostThatForwardsKeepsItsRouters(t *testing.T) {
	t.Parallel()
	host := netnstest.NS(t, "host")
	dir := filepath.Join(t.TempDir(), "netns")
	k := open(t, host, dir)
	t.Cleanup(func() { clearDir(t, dir) })
	file := func(link string) string { return "/proc/sys/net/ipv6/conf/" + link + "/accept_ra" }
	netnstest.In(t, host, func() error { return os.WriteFile(file("default"), []byte("0"), 0o644) })
	put := []kernel.Op{{Verb: kernel.Put, Obj: object(kernel.KindSysctl, kernel.HostNS, "net/ipv6/conf/all/forwarding", "", kernel.Sysctl{Value: "1"})}}
	for range 2 {
		must(t, k, put)
	}
	netnstest.In(t, host, func() error {
		for link, want := range map[string]string{"lo": "2", "all": "2", "default": "0"} {
			b, err := os.ReadFile(file(link))
			if got := strings.TrimSpace(string(b)); err != nil || got != want {
				t.Errorf("accept_ra of %s is %s, %v; want %s", link, got, err, want)
			}
		}
		return nil
	})
	if left := kernel.Diff(kernel.State{put[0].Obj.Key: put[0].Obj}, (subject{k, dir, host}).read(t)); len(left) > 0 {
		t.Errorf("would do again: %v", left)
	}
}
