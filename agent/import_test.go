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

func TestANameGetsItsImportedAddressBack(t *testing.T) {
	// Given names that have taken what was kept for them, and left again
	n := network(front, "10.1.0.0/24")
	d := newAddresses(&stepClock{})
	const mac = "02:00:00:00:00:77"
	d.remember(front, "Web1", ip("10.1.0.9"), mac)
	d.remember(front, "web2", ip("10.1.0.8"), "")
	theirs := box("o", in(front, "e9", "10.1.0.8"))
	net, _ := picture(t, 5, []*record.Network{n}, endpointOf(other, 1, theirs, theirs.Attachments[0])).Net(front)
	for name, c := range map[string]struct {
		sandbox   string
		want      record.Attachment
		preferred netip.Addr
		addr      string
		mac       record.MAC
	}{
		"again":                          {sandbox: "web1", addr: "10.1.0.9", mac: mac},
		"with a MAC of its own":          {sandbox: "web1", want: record.Attachment{MAC: "02:00:00:00:00:01"}, addr: "10.1.0.9", mac: "02:00:00:00:00:01"},
		"with an address that it had":    {sandbox: "web1", preferred: ip("10.1.0.5"), addr: "10.1.0.5"},
		"whose address is another's now": {sandbox: "web2", addr: "10.1.0.2"},
		"that had none":                  {sandbox: "web3", addr: "10.1.0.2"},
	} {
		was := d.recall(front, c.sandbox, c.want, c.preferred)
		a, err := d.choose(n, net, "e1", poolsOf(n), was.addr, false)
		if err != nil || a.String() != c.addr || a == was.addr && was.mac != c.mac {
			t.Errorf("a name %s: %s %s, %v; want %s %s", name, a, was.mac, err, c.addr, c.mac)
		}
		d.settle(front, a)
	}
}
