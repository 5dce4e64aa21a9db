package registry_test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"weft/agent/registry"
	"weft/store"
	"weft/store/memory"
	"weft/store/record"
)

// lab lets rapid write the history of a cluster: what each host does, with how old a picture, what of its transactions it does not hear of,
// and what the others do between its reads and writes. So the interleavings that break a multi-step change are found and shrunk.
type lab struct {
	t     *rapid.T
	hosts []*host
	probe *host // writes fences, and knows all
	past  history
	depth int
	stop  []context.CancelFunc // of the calls under way, innermost last
}

// turns is a host's store: before each read of a partition and each write the others may have theirs.
type turns struct {
	recorder
	lab *lab
}

func (s turns) Txn(ctx context.Context, t store.Txn) (store.Rev, error) {
	s.lab.others()
	return s.recorder.Txn(ctx, t)
}

func (s turns) List(ctx context.Context, p string) (store.Snapshot, error) {
	s.lab.others()
	return s.recorder.List(ctx, p)
}

func newLab(t *rapid.T) *lab {
	w := memory.New()
	l := &lab{t: t, probe: newHost(t, w, "")}
	l.probe.use(recorder{Client: l.probe.st, past: &l.past}, "")
	for i := range 2 {
		h := newHost(t, w, "")
		h.use(turns{recorder{Client: h.st, past: &l.past, as: &h.as}, l}, fmt.Sprintf("h%d", i))
		l.hosts = append(l.hosts, h)
	}
	return l
}

// others is called in the middle of somebody's change.
func (l *lab) others() {
	if l.depth >= 2 {
		return
	}
	switch rapid.IntRange(0, 9).Draw(l.t, "meanwhile") {
	case 0, 1, 2, 3:
		l.depth++
		defer func() { l.depth-- }()
		l.step()
	case 4:
		l.stop[len(l.stop)-1]() // the host is killed here
	}
}

func (l *lab) networks() []*record.Network {
	l.probe.look(l.t)
	return slices.Collect(l.probe.picture.Networks())
}

func (l *lab) endpoints(n *record.Network, of record.HostID) []*record.Endpoint {
	l.probe.look(l.t, n.ID)
	net, _ := l.probe.picture.Net(n.ID)
	var out []*record.Endpoint
	for ep := range net.Endpoints() {
		if ep.Host == of {
			out = append(out, ep)
		}
	}
	record.SortEndpoints(out)
	return out
}

// step does one thing. Errors are no matter: what counts is what was applied.
func (l *lab) step() {
	// Whoever waits for a removal that was killed, or that stands still beneath it, would wait for ever.
	patience := 20 * time.Millisecond
	if l.depth > 0 {
		patience = 2 * time.Millisecond
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	l.stop = append(l.stop, cancel)
	defer func() { l.stop = l.stop[:len(l.stop)-1]; cancel() }()
	h := rapid.SampledFrom(l.hosts).Draw(l.t, "host")
	if rapid.IntRange(0, 4).Draw(l.t, "unknown") == 0 {
		h.st.NextUnknown(rapid.Bool().Draw(l.t, "applied"))
	}
	nets := l.networks()
	if len(nets) == 0 {
		_, _, _, _ = h.CreateNetwork(ctx, h.as, l.spec())
		return
	}
	n := rapid.SampledFrom(nets).Draw(l.t, "network")
	if rapid.Bool().Draw(l.t, "look") {
		h.look(l.t, n.ID)
	}
	switch rapid.IntRange(0, 15).Draw(l.t, "what") {
	case 0:
		_, _, _, _ = h.CreateNetwork(ctx, h.as, l.spec())
	case 1, 2, 3:
		_, _ = h.RemoveNetwork(ctx, h.as, n.ID)
	case 4:
		_ = h.FinishRemoval(ctx, h.as, n.ID)
	case 5, 6:
		l.register(ctx, h)
	case 7, 8:
		l.clear(h)
	case 9, 10:
		_, _ = h.ImportNetwork(ctx, h.as, l.foreign())
	case 11:
		_, _ = h.ReleaseKept(ctx, h.as, n.ID, nil)
	default:
		l.attach(ctx, h, n)
	}
}

func (l *lab) spec() registry.NetworkSpec {
	s := spec(fmt.Sprintf("n%d", rapid.IntRange(0, 3).Draw(l.t, "name")))
	if rapid.Bool().Draw(l.t, "own subnet") {
		s.Subnets = []string{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(rapid.IntRange(0, 1).Draw(l.t, "subnet"))}), rapid.IntRange(15, 18).Draw(l.t, "bits")).Masked().String()}
	}
	return s
}

// attach makes an endpoint, or changes or deletes one of the host's own.
func (l *lab) attach(ctx context.Context, h *host, n *record.Network) {
	addr := fmt.Sprintf("10.0.0.%d", rapid.IntRange(2, 4).Draw(l.t, "address"))
	own := l.endpoints(n, h.as.Host)
	switch k := rapid.IntRange(0, 5).Draw(l.t, "endpoint"); {
	case k < 3 || len(own) == 0:
		ep := endpoint(n, h, fmt.Sprintf("c%d", rapid.IntRange(0, 2).Draw(l.t, "name")), addr)
		ep.VIPAliases = l.aliases()
		_, _ = h.CreateEndpoint(ctx, h.as, ep)
	case k == 3:
		vips, name := l.aliases(), fmt.Sprintf("c%d", rapid.IntRange(0, 2).Draw(l.t, "new name"))
		_, _ = h.UpdateEndpoint(ctx, h.as, n.ID, own[0].ID, func(ep *record.Endpoint) {
			ep.Addrs, ep.VIPAliases, ep.Name = []netip.Addr{netip.MustParseAddr(addr)}, vips, name
		})
	default:
		_, _ = h.DeleteEndpoint(ctx, h.as, n.ID, own[0].ID)
	}
}

// aliases are some with a virtual address, now and then more than one transaction has room for.
func (l *lab) aliases() []string {
	all := []string{"a", "B", "c", "d", "e", "f", "g", "h"}
	return all[:rapid.SampledFrom([]int{0, 0, 1, 1, 2, len(all)}).Draw(l.t, "aliases")]
}

func (l *lab) register(ctx context.Context, h *host) {
	r := record.Host{
		ID: h.as.Host, Name: string(h.as.Host), Incarnation: h.as.Incarnation,
		VTEP: netip.AddrFrom4([4]byte{192, 0, 2, byte(rapid.IntRange(1, 3).Draw(l.t, "vtep"))}),
	}
	if rapid.Bool().Draw(l.t, "route") {
		r.Routes = []record.Route{{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(rapid.IntRange(0, 3).Draw(l.t, "to")), 0}), 24), Link: "eth1"}}
	}
	_, _, _ = h.RegisterHost(ctx, r)
}

// clear sets a host's fence as another agent does; the host may notice only later.
func (l *lab) clear(h *host) {
	f, _ := l.probe.picture.Fence(h.as.Host)
	if f != nil && f.Incarnation >= h.as.Incarnation {
		h.as.Incarnation = f.Incarnation + 1
		return
	}
	b, err := record.Encode(&record.Fence{Host: h.as.Host, Incarnation: h.as.Incarnation})
	if err != nil {
		l.t.Fatal(err)
	}
	st := recorder{Client: l.probe.st, past: &l.past}
	if _, err := st.Txn(context.Background(), store.Txn{Then: []store.Op{store.Put(record.FenceKey(h.as.Host), b)}}); err != nil {
		l.t.Fatal(err)
	}
}

func TestInvariantsHoldAtEveryRevisionOfAnyHistory(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := newLab(t)
		for range rapid.IntRange(5, 30).Draw(t, "steps") {
			l.step()
		}
		l.past.replay(t)
	})
}
