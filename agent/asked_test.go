package agent

import (
	"maps"
	"strings"
	"testing"

	"weft/agent/api"
	"weft/kernel"
	"weft/store/record"
)

func TestAskForAHardwareAddress(t *testing.T) {
	n := dual(front, "10.1.0.0/24", "fd00:1::/64")
	for name, tc := range map[string]struct {
		r    api.AttachmentRequest
		mac  record.MAC
		want string
	}{
		"none":                       {api.AttachmentRequest{}, "", ""},
		"one":                        {api.AttachmentRequest{MAC: "02-AB-00-00-00-01"}, "02:ab:00:00:00:01", ""},
		"no address":                 {api.AttachmentRequest{MAC: "x"}, "", "x is not a valid mac address"},
		"of 64 bits":                 {api.AttachmentRequest{MAC: "02:00:00:00:00:00:00:01"}, "", "not a valid mac address"},
		"a group":                    {api.AttachmentRequest{MAC: "01:00:5e:00:00:01"}, "", "not a valid mac address"},
		"zero":                       {api.AttachmentRequest{MAC: "00:00:00:00:00:00"}, "", "not a valid mac address"},
		"another address's":          {api.AttachmentRequest{MAC: "02:42:0a:01:00:07"}, "", "goes with the address 10.1.0.7 of network net-" + string(front)},
		"its own address's":          {api.AttachmentRequest{MAC: "02:42:0a:01:00:07", IP: "10.1.0.7"}, "", ""},
		"of an address elsewhere":    {api.AttachmentRequest{MAC: "02:42:0a:02:00:07"}, "02:42:0a:02:00:07", ""},
		"its own address's, in caps": {api.AttachmentRequest{MAC: "02:42:0A:01:00:07", IP: "10.1.0.7"}, "", ""},
	} {
		var at record.Attachment
		err := askFor(n, tc.r, &at)
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) || at.MAC != tc.mac {
			t.Errorf("%s: %q, %v; want %q, %q", name, at.MAC, err, tc.mac, tc.want)
		}
	}
}

func TestAskForOptions(t *testing.T) {
	n := network(front, "10.1.0.0/24")
	for name, tc := range map[string]struct {
		opts   map[string]string
		ifName string
		want   string
	}{
		"a name":                {map[string]string{optIfName: "lan0"}, "lan0", ""},
		"a long name":           {map[string]string{optIfName: "a123456789012345"}, "", "1 to 15 bytes"},
		"a name with a slash":   {map[string]string{optIfName: "a/b"}, "", "cannot be an interface's name"},
		"loopback":              {map[string]string{optIfName: "lo"}, "", "cannot be an interface's name"},
		"sysctls":               {map[string]string{optSysctls: "net.ipv4.conf.IFNAME.log_martians=1"}, "", ""},
		"sysctls of all":        {map[string]string{optSysctls: "net.ipv4.conf.all.log_martians=1"}, "", "is none of an interface"},
		"sysctls of the kernel": {map[string]string{optSysctls: "kernel.core_pattern.IFNAME.x=1"}, "", "is none of an interface"},
		"unknown":               {map[string]string{"com.docker.network.endpoint.bogus": "1"}, "", "driver option com.docker.network.endpoint.bogus is unknown"},
		"foreign":               {map[string]string{"x": "1"}, "", "driver option x is unknown"},
	} {
		var at record.Attachment
		err := askFor(n, api.AttachmentRequest{DriverOpts: tc.opts}, &at)
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) || at.IfName != tc.ifName {
			t.Errorf("%s: %q, %v; want %q, %q", name, at.IfName, err, tc.ifName, tc.want)
		}
	}
}

func TestInterfacesHaveNamesOfTheirOwn(t *testing.T) {
	s := box("a", record.Attachment{Network: front}, record.Attachment{Network: back})
	s.Attachments[0].IfName, s.Attachments[1].IfName = "eth0", "lan0"
	for name, want := range map[string]string{"": "eth1", "wan0": "wan0", "lan0": "!"} {
		at := record.Attachment{Network: "net3", IfName: name}
		if err := nameInterface(s, network(front, "10.1.0.0/24"), &at); (err != nil) != (want == "!") || err == nil && at.IfName != want {
			t.Errorf("%q: %q, %v", name, at.IfName, err)
		}
	}
	again := record.Attachment{Network: back, IfName: "lan0"}
	if err := nameInterface(s, network(front, "10.1.0.0/24"), &again); err != nil {
		t.Errorf("its own name again: %v", err)
	}
}

// What is accepted is a file of one interface, whatever it was.
func FuzzSettings(f *testing.F) {
	f.Add("net.ipv4.conf.IFNAME.log_martians=1,net.ipv6.conf.IFNAME.accept_ra=2")
	f.Add("net.ipv4.neigh.IFNAME.../../x=1")
	f.Fuzz(func(t *testing.T, s string) {
		got, err := settings(s)
		if err != nil {
			return
		}
		for dst := range maps.Keys(got) {
			if p, err := kernel.ConfPath("eth0", dst); err != nil || !strings.HasPrefix(p, "net/ipv") || strings.Contains(p, "..") && !strings.Contains(s, "..") {
				t.Errorf("%q: %q, %v", s, p, err)
			}
		}
	})
}
