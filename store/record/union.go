package record

import (
	"fmt"
	"iter"
	"maps"
)

// Union is the cluster's picture with this host's own networks beside: what is shown, rendered and answered from. Networks and their endpoints are
// those of both scopes, whose IDs are never the same; all else (hosts, who lives, the revisions of partition meta) is the cluster's. It is for
// reading: Apply and With are for the pictures that it is made of, and so are the conditions of transactions. It copies nothing.
func Union(global, local *Snapshot) *Snapshot {
	if global == nil {
		global = Empty()
	}
	next := *global
	next.local = local
	return &next
}

// Local yields the networks of this host alone, in no order; of a picture that is no union, none.
func (s *Snapshot) Local() iter.Seq[*Network] {
	if s.local == nil {
		return func(func(*Network) bool) {}
	}
	return maps.Values(s.local.meta.networks)
}

// byID yields the networks of both scopes.
func (s *Snapshot) byID() iter.Seq2[NetworkID, *Network] {
	return func(yield func(NetworkID, *Network) bool) {
		for id, n := range s.meta.networks {
			if !yield(id, n) {
				return
			}
		}
		if s.local == nil {
			return
		}
		for id, n := range s.local.meta.networks {
			if _, both := s.meta.networks[id]; !both && !yield(id, n) {
				return
			}
		}
	}
}

// twice refuses a name that a network of this host has as well as one of the cluster: another host made that later.
func (s *Snapshot) twice(n *Network) error {
	if s.local == nil {
		return nil
	}
	if l, ok := s.local.NetworkByName(n.Name); ok && l.ID != n.ID {
		return fmt.Errorf("network %s is %w: it is one of this host (%s) and one of the cluster (%s); say which by its ID", n.Name, ErrAmbiguous, ShortID(l.ID), ShortID(n.ID))
	}
	return nil
}

func values[K comparable, V any](in iter.Seq2[K, V]) iter.Seq[V] {
	return func(yield func(V) bool) {
		for _, v := range in {
			if !yield(v) {
				return
			}
		}
	}
}
