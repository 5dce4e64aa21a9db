package dnssvc

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"weft/store"
	"weft/store/record"
)

// world builds pictures.
type world struct {
	t    testing.TB
	pic  *record.Snapshot
	rev  store.Rev
	made int
}

func newWorld(t testing.TB) *world { return &world{t: t, pic: record.Empty()} }

func (w *world) apply(partition string, puts ...store.Entry) {
	w.rev++
	for i := range puts {
		puts[i].Rev = w.rev
	}
	w.pic = w.pic.Apply(partition, store.Batch{Rev: w.rev, Puts: puts})
	if bad := w.pic.Corrupt(); len(bad) > 0 {
		w.t.Fatal(bad)
	}
}

func (w *world) encode(r any) []byte {
	w.t.Helper()
	b, err := record.Encode(r)
	if err != nil {
		w.t.Fatal(err)
	}
	return b
}

func digits(n int) string { return fmt.Sprintf("%064x", n) }

// network adds a network whose endpoints are known.
func (w *world) network(name string) record.NetworkID {
	w.t.Helper()
	w.made++
	id := record.NetworkID(digits(w.made))
	w.apply(store.Meta, store.Entry{Key: record.NetworkKey(id), Value: w.encode(&record.Network{ID: id, Name: name, State: record.Active})})
	w.apply(record.NetPartition(id))
	return id
}

// ep adds an endpoint that runs in a sandbox of its own; spec is "NAME[/HOSTNAME] ADDRESS… [ALIAS…]".
func (w *world) ep(net record.NetworkID, spec string, change ...func(*record.Endpoint)) *record.Endpoint {
	w.t.Helper()
	w.made++
	f := strings.Fields(spec)
	name, hostname, _ := strings.Cut(f[0], "/")
	ep := &record.Endpoint{
		ID: record.EndpointID(digits(w.made)), Network: net, Host: "h", Sandbox: sandboxID(name), Name: name, Hostname: hostname, Running: true,
	}
	for _, s := range f[1:] {
		if a, err := netip.ParseAddr(s); err == nil {
			ep.Addrs = append(ep.Addrs, a)
		} else {
			ep.Aliases = append(ep.Aliases, s)
		}
	}
	for _, c := range change {
		c(ep)
	}
	w.put(ep)
	return ep
}

func (w *world) put(ep *record.Endpoint) {
	w.t.Helper()
	puts := []store.Entry{
		{Key: record.EndpointKey(ep.Network, ep.ID), Value: w.encode(ep)},
		{Key: record.EndpointNameKey(ep.Network, ep.Name), Value: []byte(ep.ID)},
	}
	for _, a := range ep.Addrs {
		puts = append(puts, store.Entry{Key: record.AddrKey(ep.Network, a), Value: []byte(ep.ID)})
	}
	w.apply(record.NetPartition(ep.Network), puts...)
}

// vip gives an alias a virtual address; spec is "ALIAS ADDRESS…".
func (w *world) vip(net record.NetworkID, spec string) {
	w.t.Helper()
	f := strings.Fields(spec)
	v := &record.VIP{Network: net, Alias: f[0]}
	puts := []store.Entry{{}}
	for _, s := range f[1:] {
		v.Addrs = append(v.Addrs, netip.MustParseAddr(s))
		puts = append(puts, store.Entry{Key: record.AddrKey(net, netip.MustParseAddr(s)), Value: []byte(record.VIPOwner(f[0]))})
	}
	puts[0] = store.Entry{Key: record.VIPKey(net, f[0]), Value: w.encode(v)}
	w.apply(record.NetPartition(net), puts...)
}

func balanced(ep *record.Endpoint) { ep.VIPAliases = ep.Aliases }

func (w *world) picture() *record.Snapshot { return w.pic }

// sandboxID is the ID of the sandbox of a name: its bytes in hex, so that a test can tell its first 12 digits.
func sandboxID(name string) record.SandboxID {
	id := hex.EncodeToString([]byte(name)) + strings.Repeat("0", 64)
	return record.SandboxID(id[:64])
}

func stopped(ep *record.Endpoint) { ep.Running = false }
