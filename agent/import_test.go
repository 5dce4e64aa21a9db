package agent

import (
	"net/netip"
	"testing"

	"weft/ipam"
	"weft/store"
	"weft/store/record"
)

func TestAnAttachmentTakesWhatIsKeptForItsName(t *testing.T) {
	// Given an address that is kept for web1, with a MAC address of its own or with the one that follows from it
	kept := ip("10.1.0.9")
	withMAC := func(mac string) *record.Net {
		k := &record.Kept{ID: "old", Network: front, Name: "web1", Addrs: []netip.Addr{kept}, MAC: record.MAC(mac)}
		b, err := record.Encode(k)
		if err != nil {
			t.Fatal(err)
		}
		part := record.NetPartition(front)
		net, _ := record.Empty().Apply(part, store.Batch{Rev: 3, Puts: []store.Entry{
			{Key: record.KeptKey(front, "web1"), Value: b, Rev: 3}, {Key: record.AddrKey(front, kept), Value: []byte("old"), Rev: 3},
		}}).Net(front)
		return net
	}
	const other = "02:00:00:00:00:77"
	for name, c := range map[string]struct {
		mac, sandbox string
		want         record.Attachment
		take         bool
		gotMAC       record.MAC
	}{
		"its name":                    {mac: other, sandbox: "Web1", take: true, gotMAC: other},
		"its name, no MAC":            {sandbox: "web1", take: true},
		"a MAC that follows":          {mac: ipam.MAC(kept), sandbox: "web1", take: true},
		"it asks for that address":    {mac: other, sandbox: "web1", want: record.Attachment{IP: kept}, take: true, gotMAC: other},
		"it asks for another address": {mac: other, sandbox: "web1", want: record.Attachment{IP: ip("10.1.0.7")}},
		"it asks for another MAC":     {mac: other, sandbox: "web1", want: record.Attachment{MAC: "02:00:00:00:00:01"}, take: true, gotMAC: "02:00:00:00:00:01"},
		"it had an address before":    {mac: other, sandbox: "web1", want: record.Attachment{Addrs: []netip.Addr{ip("10.1.0.7")}}},
		"another name":                {mac: other, sandbox: "web2"},
	} {
		at := c.want
		if got := takeKept(withMAC(c.mac), c.sandbox, &at); got != c.take || at.MAC != c.gotMAC || c.take && (len(at.Addrs) != 1 || at.Addrs[0] != kept) {
			t.Errorf("%s: %v, %+v", name, got, at)
		}
	}

	// And one whose claim has gone to another is not taken
	part := record.NetPartition(front)
	b, err := record.Encode(&record.Kept{ID: "old", Network: front, Name: "web1", Addrs: []netip.Addr{kept}})
	if err != nil {
		t.Fatal(err)
	}
	net, _ := record.Empty().Apply(part, store.Batch{Rev: 3, Puts: []store.Entry{{Key: record.KeptKey(front, "web1"), Value: b, Rev: 3}}}).Net(front)
	if at := (record.Attachment{}); takeKept(net, "web1", &at) {
		t.Errorf("took %+v", at)
	}
}
