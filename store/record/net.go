package record

import (
	"cmp"
	"fmt"
	"hash/maphash"
	"iter"
	"net/netip"
	"slices"
	"strings"

	"weft/store"
)

const netPrefix = "net/"

// Net is the picture of one network's endpoints.
type Net struct {
	ID     NetworkID
	seed   maphash.Seed
	eps    cow[EndpointID, held]
	addrs  cow[netip.Addr, EndpointID] // claims: an address is taken even where its owner's record is corrupt
	names  cow[string, EndpointID]     // claims, folded
	labels cow[string, []EndpointID]   // every DNS label of an endpoint, folded; sorted
	keeps  cow[string, heldKept]       // what is kept, by folded name
	vips   cow[string, heldVIP]        // by folded alias
	macs   cow[MAC, EndpointID]        // claims, of those that were asked for
}

type held struct {
	*Endpoint
	rev store.Rev
}

func newNet(id NetworkID) *Net { return &Net{ID: id, seed: maphash.MakeSeed()} }

// Len is the number of endpoints, running and stopped.
func (n *Net) Len() int { return n.eps.n }

// Endpoint returns an endpoint by its full ID.
func (n *Net) Endpoint(id EndpointID) (*Endpoint, bool) {
	h, ok := n.eps.get(n.seed, id)
	return h.Endpoint, ok
}

// EndpointRev is the revision of an endpoint's record, store.Absent where there is none.
func (n *Net) EndpointRev(id EndpointID) store.Rev {
	h, _ := n.eps.get(n.seed, id)
	return h.rev
}

// Endpoints returns all endpoints, in no order.
func (n *Net) Endpoints() iter.Seq[*Endpoint] {
	return func(yield func(*Endpoint) bool) {
		for _, h := range n.eps.all() {
			if !yield(h.Endpoint) {
				return
			}
		}
	}
}

// Taken tells whether an address has an owner.
func (n *Net) Taken(a netip.Addr) bool {
	_, ok := n.addrs.get(n.seed, a)
	return ok
}

// ByAddr returns the endpoint that owns an address.
func (n *Net) ByAddr(a netip.Addr) (*Endpoint, bool) {
	id, ok := n.addrs.get(n.seed, a)
	if !ok {
		return nil, false
	}
	return n.Endpoint(id)
}

// ByName returns the endpoint that owns a name, in any case.
func (n *Net) ByName(name string) (*Endpoint, bool) {
	id, ok := n.names.get(n.seed, Fold(name))
	if !ok {
		return nil, false
	}
	return n.Endpoint(id)
}

// NameTaken tells whether a name has an owner, whose record may be corrupt.
func (n *Net) NameTaken(name string) bool {
	_, ok := n.names.get(n.seed, Fold(name))
	return ok
}

// ByLabel returns the endpoints, running and stopped, that answer to a DNS label in any case: their name, the short ID of their sandbox,
// their host name, or an alias. They are sorted by ID.
func (n *Net) ByLabel(label string) []*Endpoint {
	ids, _ := n.labels.get(n.seed, Fold(label))
	out := make([]*Endpoint, 0, len(ids))
	for _, id := range ids {
		if e, ok := n.Endpoint(id); ok {
			out = append(out, e)
		}
	}
	return out
}

// netEdit holds one batch's changes of a Net.
type netEdit struct {
	eps    edit[EndpointID, held]
	addrs  edit[netip.Addr, EndpointID]
	names  edit[string, EndpointID]
	labels edit[string, []EndpointID]
	keeps  edit[string, heldKept]
	vips   edit[string, heldVIP]
	macs   edit[MAC, EndpointID]
}

func (n *Net) apply(b store.Batch, bad *badEdit) *Net {
	next := *n
	e := netEdit{
		eps:    edit[EndpointID, held]{to: &next.eps, seed: n.seed},
		addrs:  edit[netip.Addr, EndpointID]{to: &next.addrs, seed: n.seed},
		names:  edit[string, EndpointID]{to: &next.names, seed: n.seed},
		labels: edit[string, []EndpointID]{to: &next.labels, seed: n.seed},
		keeps:  edit[string, heldKept]{to: &next.keeps, seed: n.seed},
		vips:   edit[string, heldVIP]{to: &next.vips, seed: n.seed},
		macs:   edit[MAC, EndpointID]{to: &next.macs, seed: n.seed},
	}
	for _, k := range b.Dels {
		e.del(k.Name)
		bad.set(k, nil)
	}
	for _, x := range b.Puts {
		bad.set(x.Key, e.put(x))
	}
	return &next
}

func (e *netEdit) put(x store.Entry) error {
	dir, id, _ := strings.Cut(x.Key.Name, "/")
	switch dir {
	case "ep":
		r := &Endpoint{}
		if err := Decode(x.Value, r); err != nil {
			return err // the last good one stays, as its claims do
		}
		e.unlabel(EndpointID(id))
		e.eps.put(EndpointID(id), held{r, x.Rev})
		for _, l := range r.labels() {
			ids, _ := e.labels.to.get(e.labels.seed, l)
			at, _ := slices.BinarySearch(ids, r.ID)
			e.labels.put(l, slices.Insert(slices.Clone(ids), at, r.ID))
		}
	case "addr":
		a, err := netip.ParseAddr(id)
		if err != nil {
			return fmt.Errorf("key of an address: %w", err)
		}
		e.addrs.put(a, EndpointID(x.Value))
	case "name":
		e.names.put(id, EndpointID(x.Value))
	case "mac":
		e.macs.put(MAC(id), EndpointID(x.Value))
	case "kept":
		return take(x.Value, &Kept{}, func(r *Kept) { e.keeps.put(id, heldKept{r, x.Rev}) })
	case "vip":
		return take(x.Value, &VIP{}, func(r *VIP) { e.vips.put(id, heldVIP{r, x.Rev}) })
	}
	return nil
}

func (e *netEdit) del(name string) {
	dir, id, _ := strings.Cut(name, "/")
	switch dir {
	case "ep":
		e.unlabel(EndpointID(id))
		e.eps.del(EndpointID(id))
	case "addr":
		if a, err := netip.ParseAddr(id); err == nil {
			e.addrs.del(a)
		}
	case "name":
		e.names.del(id)
	case "mac":
		e.macs.del(MAC(id))
	case "kept":
		e.keeps.del(id)
	case "vip":
		e.vips.del(id)
	}
}

func (e *netEdit) unlabel(id EndpointID) {
	old, ok := e.eps.to.get(e.eps.seed, id)
	if !ok {
		return
	}
	for _, l := range old.labels() {
		ids, _ := e.labels.to.get(e.labels.seed, l)
		rest := slices.DeleteFunc(slices.Clone(ids), func(i EndpointID) bool { return i == id })
		if len(rest) == 0 {
			e.labels.del(l)
		} else {
			e.labels.put(l, rest)
		}
	}
}

// labels are the DNS labels that an endpoint answers to, folded, each once.
func (r *Endpoint) labels() []string {
	out := make([]string, 0, 3+len(r.Aliases))
	for _, l := range slices.Concat([]string{r.Name, ShortID(r.Sandbox), r.Hostname}, r.Aliases, r.VIPAliases) {
		if l != "" {
			out = append(out, Fold(l))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// SortEndpoints sorts endpoints by name and then ID, as tables show them.
func SortEndpoints(es []*Endpoint) {
	slices.SortFunc(es, func(a, b *Endpoint) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID)) })
}
