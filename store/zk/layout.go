package zk

import (
	"fmt"
	"net/url"
	"strings"

	"weft/store"
)

// The tree, below the prefix's node, whose data is the random ID of this history:
//
//	/%rev                     set by transactions that change nothing
//	/PARTITION/k/NAME         the entries
//	/PARTITION/log/n-NUMBER   journal: what one transaction wrote
//	/PARTITION/head           version: how many entries the journal ever had; data: the newest
//	/PARTITION/del            version: how many transactions deleted anything
//	/alive/k/NAME             ephemeral; data: the name of the node in s that goes with it
//	/alive/s/NAME@MARK        ephemeral; data: the value
//	/alive/head               set by whoever opens a session
//
// Names and partitions are escaped, and %rev is no escape. What a network that is no more leaves are five empty nodes.
const (
	keysDir   = "/k"
	logDir    = "/log"
	headLeaf  = "/head"
	delLeaf   = "/del"
	signsDir  = "/s"
	entryName = "/n-"
)

func rootOf(prefix string) string {
	parts := strings.Split(prefix, "/")
	for i, p := range parts {
		parts[i] = escape(p)
	}
	return "/" + strings.Join(parts, "/")
}

func escape(name string) string {
	if name == "." || name == ".." { // which ZooKeeper takes for steps of a path
		return strings.ReplaceAll(name, ".", "%2E")
	}
	return url.PathEscape(name)
}

func (s *Store) dir(partition string) string   { return s.root + "/" + escape(partition) }
func (s *Store) head(partition string) string  { return s.dir(partition) + headLeaf }
func (s *Store) epoch(partition string) string { return s.dir(partition) + delLeaf }
func (s *Store) path(k store.Key) string       { return s.dir(k.Partition) + keysDir + "/" + escape(k.Name) }
func (s *Store) revNode() string               { return s.root + "/%rev" }

// entry is the path of a partition's n-th journal entry, as ZooKeeper numbers sequential nodes.
func (s *Store) entry(partition string, n int64) string {
	return fmt.Sprintf("%s%s%s%010d", s.dir(partition), logDir, entryName, n)
}

// sign is the path of the node that shows by its unique name that a session holds k.
func (s *Store) sign(k store.Key, mark string) string {
	return s.dir(k.Partition) + signsDir + "/" + signName(k, mark)
}

func signName(k store.Key, mark string) string { return escape(k.Name) + "@" + mark }

// ofSign returns the key that a sign's name belongs to.
func ofSign(leaf string) (store.Key, error) {
	i := strings.LastIndexByte(leaf, '@')
	if i < 0 {
		return store.Key{}, fmt.Errorf("%q is not a sign of life", leaf)
	}
	name, err := url.PathUnescape(leaf[:i])
	return store.Key{Partition: store.Alive, Name: name}, err
}
