package record

import (
	"iter"
	"reflect"

	"weft/store"
)

// What differs between two pictures, each as it was and as it is; nil where it was not there, or is not. What only one of the two pictures knows of
// (a partition that was not read yet, or is not followed any more) differs in nothing: unknown is not none.

// NetworkChanges yields the networks that s and an older picture have differently. Of a union, those of the cluster.
func (s *Snapshot) NetworkChanges(old *Snapshot) iter.Seq2[*Network, *Network] {
	return metaChanges(s, old, func(m metaPart) map[NetworkID]*Network { return m.networks })
}

// HostChanges yields the hosts that s and an older picture have differently.
func (s *Snapshot) HostChanges(old *Snapshot) iter.Seq2[*Host, *Host] {
	return metaChanges(s, old, func(m metaPart) map[HostID]*Host { return m.hosts })
}

func metaChanges[K comparable, V any](s, old *Snapshot, of func(metaPart) map[K]*V) iter.Seq2[*V, *V] {
	was, is := old.revs[store.Meta], s.revs[store.Meta]
	if was == 0 || is == 0 || was == is {
		return func(func(*V, *V) bool) {}
	}
	return mapChanges(of(old.meta), of(s.meta))
}

// mapChanges compares records by their pointers: one that was not written again is the same.
func mapChanges[K comparable, V any](was, is map[K]*V) iter.Seq2[*V, *V] {
	return func(yield func(*V, *V) bool) {
		for k, v := range was {
			if is[k] != v && !yield(v, is[k]) {
				return
			}
		}
		for k, v := range is {
			if was[k] == nil && !yield(nil, v) {
				return
			}
		}
	}
}

// EndpointChanges yields the endpoints that s and an older picture have differently. Its work grows with what has changed, not with the pictures.
func (s *Snapshot) EndpointChanges(old *Snapshot) iter.Seq2[*Endpoint, *Endpoint] {
	return func(yield func(*Endpoint, *Endpoint) bool) {
		for id, is := range s.nets {
			was := old.nets[id]
			if was == nil || was == is {
				continue
			}
			for a, b := range is.changes(was) {
				if !yield(a, b) {
					return
				}
			}
		}
	}
}

// changes passes over the parts that both share. Pictures that do not come from each other (one was read anew) share none, nor the seed of their parts.
func (n *Net) changes(old *Net) iter.Seq2[*Endpoint, *Endpoint] {
	return func(yield func(*Endpoint, *Endpoint) bool) {
		for i, part := range old.eps.parts {
			if n.shares(old, i) {
				continue
			}
			for id, was := range part {
				if is, _ := n.Endpoint(id); is != was.Endpoint && !yield(was.Endpoint, is) {
					return
				}
			}
		}
		for i, part := range n.eps.parts {
			if n.shares(old, i) {
				continue
			}
			for id, is := range part {
				if _, had := old.Endpoint(id); !had && !yield(nil, is.Endpoint) {
					return
				}
			}
		}
	}
}

func (n *Net) shares(old *Net, i int) bool {
	return n.seed == old.seed && reflect.ValueOf(n.eps.parts[i]).Pointer() == reflect.ValueOf(old.eps.parts[i]).Pointer()
}
