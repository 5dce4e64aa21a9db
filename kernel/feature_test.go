package kernel_test

import (
	"slices"
	"testing"

	"github.com/vishvananda/netlink"

	"weft/kernel"
	"weft/kernel/netnstest"
)

func TestThisKernelCanDoWhatWeftNeeds(t *testing.T) {
	t.Parallel()
	if lacks, err := kernel.Lacks(); err != nil || len(lacks) > 0 {
		t.Errorf("it lacks %q, %v", lacks, err)
	}
}

func TestVXLANDevicesOfOthersAreSeen(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	netnstest.In(t, s.ns, func() error {
		return netlink.LinkAdd(&netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "vx9"}, VxlanId: 9, Port: 4789})
	})
	got, err := s.k.ForeignVXLANs(t.Context())
	if want := []kernel.ForeignVXLAN{{Name: "vx9", VNI: 9, Port: 4789}}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
}
