package consul

import (
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"

	"weft/store"
)

// shards is how many journals the partitions of networks share. Each costs a watching client one connection, of which Consul's agents take
// 200 from an address; fewer make each watch read more that is not its own.
const shards = 16

// shardOf is the shard of a partition. Partitions meta and alive, which every agent watches, have their own.
func shardOf(partition string) string {
	switch partition {
	case store.Meta, store.Alive:
		return partition
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(partition)) // never fails
	return networkShard(h.Sum32())
}

func allShards() []string {
	out := []string{store.Meta, store.Alive}
	for i := range shards {
		out = append(out, networkShard(uint32(i)))
	}
	return out
}

func networkShard(n uint32) string { return fmt.Sprintf("n%02x", n%shards) }

func (s *Store) root(shard string) string    { return s.prefix + shard + "/" }
func (s *Store) journal(shard string) string { return s.root(shard) + "j/" }
func (s *Store) dir(partition string) string {
	return s.root(shardOf(partition)) + "k/" + escape(partition) + "/"
}
func (s *Store) path(k store.Key) string { return s.dir(k.Partition) + escape(k.Name) }

// What is not in any shard begins with a tilde, as no shard's name does.
func (s *Store) archive(shard string) string { return s.prefix + "~old/" + shard + "/" }
func (s *Store) mark(shard string) string    { return s.prefix + "~new/" + shard }
func (s *Store) idKey() string               { return s.prefix + "~id" }

const hexDigits = "0123456789ABCDEF"

// escape makes one level of a path of any bytes. What is not plain becomes %XX; so do dots at the beginning, for Consul's client and server
// clean "." and ".." out of paths.
func escape(s string) string {
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		if plain(c) || c == '.' && i > 0 {
			b.WriteByte(c)
			continue
		}
		b.WriteByte('%')
		b.WriteByte(hexDigits[c>>4])
		b.WriteByte(hexDigits[c&15])
	}
	return b.String()
}

func plain(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_' || c == ':'
}

// unescape is false for what escape cannot have made.
func unescape(s string) (string, bool) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '/':
			return "", false
		case s[i] != '%':
			b.WriteByte(s[i])
		case i+2 >= len(s):
			return "", false
		default:
			c, err := strconv.ParseUint(s[i+1:i+3], 16, 8)
			if err != nil {
				return "", false
			}
			b.WriteByte(byte(c))
			i += 2
		}
	}
	return b.String(), b.Len() > 0
}
