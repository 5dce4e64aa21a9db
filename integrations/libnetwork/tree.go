package libnetwork

import (
	"fmt"
	"slices"
	"strings"
)

// Tree is a part of a store: the value of each key, by its path without slashes at the ends. Directories are not in it.
type Tree map[string][]byte

// Bounds of what is read: an old store that holds more is not one that Docker wrote, and must not fill the memory of this process.
const (
	maxBytes = 256 << 20
	maxKeys  = 1 << 18
)

// root is where libnetwork kept its records, below the path of the store's URL.
const root = "docker/network/v1.0"

// put adds a key. ZooKeeper's nodes have a value also where they are directories, and libkv marks those with a byte of 1.
func (t Tree) put(path string, value []byte) error {
	if len(value) == 0 || string(value) == "\x01" {
		return nil
	}
	if len(t) >= maxKeys {
		return fmt.Errorf("it holds more than %d keys, which Docker never wrote", maxKeys)
	}
	t[clean(path)] = value
	return nil
}

// clean brings the spellings of a path in the three stores together.
func clean(path string) string {
	return strings.Join(strings.FieldsFunc(path, func(r rune) bool { return r == '/' }), "/")
}

// below returns the keys under a directory, without it, sorted.
func (t Tree) below(dir string) []string {
	var out []string
	for k := range t {
		if rest, ok := strings.CutPrefix(k, dir+"/"); ok {
			out = append(out, rest)
		}
	}
	slices.Sort(out)
	return out
}

// within is a key's path below a directory.
func within(dir, path string) string { return strings.TrimPrefix(clean(path), dir+"/") }

// lastPart is the last name of a path.
func lastPart(path string) string {
	path = clean(path)
	return path[strings.LastIndex(path, "/")+1:]
}
