package kernel_test

import (
	"testing"

	"weft/kernel"
)

// Given an agent that has just read what the one before left, when others change a setting before it is watched, it is told as soon as it is, and later
// changes at once.
func TestASettingThatChangesBeforeItIsWatchedIsTold(t *testing.T) {
	t.Parallel()
	s := newDualSite(t)
	sandbox := s.net.Ports[0].Netns
	set := func(value string) {
		t.Helper()
		if err := writes(func(*site) string { return sandbox }, "net/ipv6/conf/eth0/accept_ra", value)(s); err != nil {
			t.Fatal(err)
		}
	}
	told := func(value string) func(kernel.Change) bool {
		return func(c kernel.Change) bool {
			at := kernel.Key{Kind: kernel.KindConf, NS: sandbox, Link: "eth0", Dst: "ipv6/conf/accept_ra"}
			return c.Key == at && c.Now != nil && c.Now.Equal(kernel.Conf{Value: value})
		}
	}
	again := open(t, s.ns, s.set.NetnsDir)
	s.read(t, again)
	set("2")
	changes := watching(t, again, s.ns)
	changed(t, changes, told("2"))
	set("1")
	changed(t, changes, told("1"))
}
