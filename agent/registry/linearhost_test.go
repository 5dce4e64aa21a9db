package registry_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"weft/agent/registry"
	"weft/store"
	"weft/store/follow"
	"weft/store/record"
)

// claimant is one agent's registry, with a store of its own.
type claimant struct {
	*registry.Registry
	id      int
	st      *watchful
	link    *link
	as      registry.Actor
	session store.Session
}

func newClaimant(t *testing.T, i int, s store.Store, l *link) *claimant {
	t.Helper()
	h := &claimant{id: i, st: &watchful{Store: s}, link: l}
	f := follow.New(follow.Config{Store: s, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { f.Run(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait(); _ = s.Close() })
	h.Registry = registry.New(registry.Config{Store: h.st, Now: time.Now, Picture: f.Picture, Random: rand.IntN})
	h.as = registry.Actor{Host: record.HostID(fmt.Sprintf("h%d", i)), Incarnation: 1}
	if _, err := h.EnsureCluster(t.Context(), record.Cluster{ID: "c", VXLANPort: 4789}); err != nil {
		t.Fatal(err)
	}
	if !h.join(t.Context()) {
		t.Fatal("the first session cannot be opened")
	}
	if _, _, err := h.RegisterHost(t.Context(), record.Host{
		ID: h.as.Host, Name: string(h.as.Host), VTEP: netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}), Incarnation: 1, MTU: 1500,
	}); err != nil {
		t.Fatal(err)
	}
	return h
}

// join opens a session, as an agent does that has lost its own.
func (h *claimant) join(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, linearCall)
	defer cancel()
	l := registry.Life{Liveness: record.Liveness{Host: h.as.Host, Incarnation: 1, Instance: fmt.Sprint(h.id)}, TTL: 10 * time.Second}
	if h.session != nil {
		l.Resume = h.session.ID()
		h.session.Leave()
	}
	s, err := h.OpenLiveness(ctx, l)
	if err != nil {
		return false
	}
	h.session, h.as.Session = s, s
	return true
}

// watchful notes what its caller is not told: that an attempt had an unknown outcome, and may be applied later.
type watchful struct {
	store.Store
	unknown atomic.Int32
}

func (w *watchful) Txn(ctx context.Context, t store.Txn) (store.Rev, error) {
	rev, err := w.Store.Txn(ctx, t)
	if errors.Is(err, store.ErrUnknown) {
		w.unknown.Add(1)
	}
	return rev, err
}

// careless leaves out the conditions on some keys.
type careless struct {
	store.Store
	of []string
}

func (c careless) Txn(ctx context.Context, t store.Txn) (store.Rev, error) {
	var some []store.Cond
	for _, cond := range t.If {
		if !slices.ContainsFunc(c.of, func(prefix string) bool { return strings.HasPrefix(cond.Key.Name, prefix) }) {
			some = append(some, cond)
		}
	}
	t.If = some
	wait(ctx, time.Duration(rand.IntN(int(8*time.Millisecond)))) // as a store far away: what was chosen may have been taken meanwhile
	return c.Store.Txn(ctx, t)
}

// networks are those that were made, or may have been.
type networks struct {
	mu  sync.Mutex // guards ids
	ids []record.NetworkID
}

// note takes in what has become of a network.
func (n *networks) note(q ask, a answer, known bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case q.verb == toCreate && (a.how == done || !known):
		n.ids = append(n.ids, q.net)
	case q.verb == toRemove && (a.how == done || a.how == notFound):
		n.ids = slices.DeleteFunc(n.ids, func(id record.NetworkID) bool { return id == q.net })
	}
}

func (n *networks) one() (record.NetworkID, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.ids) == 0 {
		return "", false
	}
	return n.ids[rand.IntN(len(n.ids))], true
}

// contend has all hosts claim and release the same few things until ctx ends, and returns what each was answered.
func contend(ctx context.Context, hosts []*claimant) []porcupine.Operation {
	var mu sync.Mutex // guards ops
	var ops []porcupine.Operation
	nets := &networks{}
	begun := time.Now()
	var wg sync.WaitGroup
	for _, h := range hosts {
		wg.Go(func() {
			mine := map[record.EndpointID]record.NetworkID{}
			for ctx.Err() == nil {
				q, ok := h.choose(nets, mine)
				if !ok {
					continue
				}
				h.st.unknown.Store(0)
				call := time.Since(begun)
				a, known := h.do(q)
				o := porcupine.Operation{ClientId: h.id, Input: q, Call: int64(call), Output: a, Return: int64(time.Since(begun))}
				late := o
				late.Output, late.Return = answer{how: outcomeless}, never
				nets.note(q, a, known)
				mu.Lock()
				if known {
					ops = append(ops, o)
				}
				if n := h.st.unknown.Load(); n > 0 || !known {
					ops = append(ops, late)
				}
				mu.Unlock()
				if !known || a.how == outcomeless {
					h.join(ctx)
				}
				wait(ctx, time.Duration(rand.IntN(int(20*time.Millisecond))))
			}
		})
	}
	wg.Wait()
	return ops
}

// choose is what a host wants next.
func (h *claimant) choose(nets *networks, mine map[record.EndpointID]record.NetworkID) (ask, bool) {
	n, any := nets.one()
	switch k := rand.IntN(20); {
	case k < 2 || !any:
		return ask{verb: toCreate, net: record.NetworkID(registry.NewID()), name: fmt.Sprint("n", rand.IntN(3)), what: fmt.Sprintf("10.%d.0.0/24", rand.IntN(3))}, true
	case k < 3:
		return ask{verb: toReadAll}, true
	case k < 6:
		return ask{verb: toRemove, net: n}, true
	case k < 8:
		return ask{verb: toReadNet, net: n}, true
	case k < 14 || len(mine) == 0:
		q := ask{verb: toAttach, net: n, name: fmt.Sprint("c", rand.IntN(4)), what: fmt.Sprint(rand.IntN(4) + 2), ep: record.EndpointID(registry.NewID())}
		mine[q.ep] = n
		return q, true
	}
	for ep, n := range mine {
		delete(mine, ep)
		return ask{verb: toDetach, net: n, ep: ep}, true
	}
	return ask{}, false
}

// do asks the registry, or the store itself for a read; known is false where the answer says nothing.
func (h *claimant) do(q ask) (a answer, known bool) {
	ctx, cancel := context.WithTimeout(context.Background(), linearCall)
	defer cancel()
	var err error
	switch q.verb {
	case toCreate:
		var n *record.Network
		n, _, _, err = h.CreateNetwork(ctx, h.as, registry.NetworkSpec{Name: q.name, Driver: "overlay", Subnets: []string{q.what}, ID: q.net})
		if err == nil {
			return answer{how: done, vni: n.VNI}, true
		}
	case toRemove:
		_, err = h.RemoveNetwork(ctx, h.as, q.net)
		if err != nil && registry.KindOf(err) != registry.NotFound {
			again, cancel := context.WithTimeout(context.Background(), linearCall)
			defer cancel()
			_ = h.FinishRemoval(again, h.as, q.net) // what it had begun, it must not leave
		}
	case toAttach:
		addr := netip.AddrFrom4([4]byte{10, 9, 0, q.what[0] - '0'})
		_, err = h.CreateEndpoint(ctx, h.as, &record.Endpoint{
			ID: q.ep, Network: q.net, Host: h.as.Host, Incarnation: 1, Sandbox: record.SandboxID(q.ep), Name: q.name, Addrs: []netip.Addr{addr},
		})
	case toDetach:
		_, err = h.DeleteEndpoint(ctx, h.as, q.net, q.ep)
	default:
		holders, err := h.read(ctx, q)
		return answer{how: done, holders: holders}, err == nil
	}
	return h.outcome(q, err)
}

// outcome is what an error says of a change. Where an attempt of it had an unknown outcome, that is counted elsewhere.
func (h *claimant) outcome(q ask, err error) (a answer, known bool) {
	var addr *registry.AddrTakenError
	var name *registry.NameTakenError
	switch kind := registry.KindOf(err); {
	case err == nil:
		return answer{how: done}, true
	case errors.As(err, &addr):
		return answer{how: addrTaken}, true
	case errors.As(err, &name):
		return answer{how: nameTaken}, true
	case kind == registry.NotFound && q.verb != toCreate:
		return answer{how: notFound}, true
	case kind == registry.InUse && q.verb == toRemove && strings.Contains(err.Error(), "active endpoints"):
		return answer{how: inUse}, true
	case kind != 0:
		return answer{how: refused}, true
	case errors.Is(err, store.ErrUnreachable) && !errors.Is(err, store.ErrUnknown):
		return answer{how: refused}, true // surely not applied
	}
	return answer{how: outcomeless}, false
}

// read tells who has what.
func (h *claimant) read(ctx context.Context, q ask) (map[string]string, error) {
	partition := record.NetPartition(q.net)
	if q.verb == toReadAll {
		partition = store.Meta
	}
	l, err := h.st.List(ctx, partition)
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	p := record.Empty().Apply(partition, store.Batch{Rev: l.Rev, Resync: true, Puts: l.Entries})
	for _, e := range l.Entries { // the claims
		dir, of, _ := strings.Cut(e.Key.Name, "/")
		switch dir {
		case "addr":
			out["addr "+of[len(of)-1:]] = string(e.Value)
		case "name", "names":
			out["name "+of] = string(e.Value)
		case "vnis":
			out["vni "+of] = string(e.Value)
		}
	}
	own := func(what, owner string) {
		if o, claimed := out[what]; !claimed || o != owner {
			out["claimed wrongly: "+what] = owner
		}
	}
	if net, ok := p.Net(q.net); ok && q.verb == toReadNet {
		for ep := range net.Endpoints() {
			own("name "+ep.Name, string(ep.ID))
			for _, a := range ep.Addrs {
				s := a.String()
				own("addr "+s[len(s)-1:], string(ep.ID))
			}
		}
	}
	for n := range p.Networks() {
		own("name "+n.Name, string(n.ID))
		own(fmt.Sprint("vni ", n.VNI), string(n.ID))
		for _, pool := range n.Pools {
			what := "pool " + pool.Subnet.String()
			if _, twice := out[what]; twice {
				what = "twice: " + what
			}
			out[what] = string(n.ID)
		}
	}
	return out, nil
}
