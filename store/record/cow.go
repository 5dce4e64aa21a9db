package record

import (
	"hash/maphash"
	"iter"
	"maps"
)

// shards is how many parts a cow has: a change copies one of them, not the whole.
const shards = 64

// cow is a map that is copied on write, part by part, so that one endpoint's change in a network of ten thousand stays cheap.
// Its zero value is empty. Readers of an older copy never see a change.
type cow[K comparable, V any] struct {
	parts [shards]map[K]V
	n     int
}

func (c *cow[K, V]) get(seed maphash.Seed, k K) (V, bool) {
	v, ok := c.parts[shard(seed, k)][k]
	return v, ok
}

func (c *cow[K, V]) all() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		for _, p := range c.parts {
			for k, v := range p {
				if !yield(k, v) {
					return
				}
			}
		}
	}
}

func shard[K comparable](seed maphash.Seed, k K) uint64 { return maphash.Comparable(seed, k) % shards }

// edit changes a cow that is not shared yet; it copies each part once.
type edit[K comparable, V any] struct {
	to    *cow[K, V]
	seed  maphash.Seed
	owned uint64 // bit set of the parts that were copied
}

func (e *edit[K, V]) part(k K) map[K]V {
	i := shard(e.seed, k)
	if e.owned&(1<<i) == 0 {
		e.owned |= 1 << i
		if e.to.parts[i] = maps.Clone(e.to.parts[i]); e.to.parts[i] == nil {
			e.to.parts[i] = map[K]V{}
		}
	}
	return e.to.parts[i]
}

func (e *edit[K, V]) put(k K, v V) {
	p := e.part(k)
	if _, ok := p[k]; !ok {
		e.to.n++
	}
	p[k] = v
}

func (e *edit[K, V]) del(k K) {
	if _, ok := e.to.get(e.seed, k); ok {
		delete(e.part(k), k)
		e.to.n--
	}
}
