package record

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"weft/store"
)

// Rule names one thing that holds in a store whose keys only weft has written.
type Rule string

// The rules. Most are invariants of docs/architecture.md; the others are what these stand on.
const (
	RuleReadable  Rule = "readable"  // every record can be read, and says what its key says
	RuleForeign   Rule = "foreign"   // no key is there that weft does not know
	RuleCluster   Rule = "cluster"   // where there are records there is a cluster, and the counter of its pools
	RuleOverlap   Rule = "overlap"   // no two pools overlap
	RuleUnclaimed Rule = "unclaimed" // what a record has is claimed for it
	RuleOrphan    Rule = "orphan"    // what is claimed belongs to a record that has it
	RuleOutside   Rule = "outside"   // an address is in a pool of its network, and not one that nobody may have
	RuleNoNetwork Rule = "network"   // endpoints are in networks that exist
	RuleNoHost    Rule = "host"      // endpoints, and signs of life, are of hosts that are registered
	RuleFenced    Rule = "fence"     // what lives is not of an incarnation that was cleared, nor of one that its host has not begun
	RuleDeleter   Rule = "deleter"   // a network that is being deleted has a deleter that lives
)

// Finding is a key that breaks a rule: what is wrong, and what to do about it.
type Finding struct {
	Key   store.Key
	Rev   store.Rev // of the key when it was read; store.Absent where it is missing
	Rule  Rule
	Wrong string
	Do    string
}

// Holdings are the partitions of a cluster. Those of networks are by name, also where the network is gone.
type Holdings struct {
	Meta, Alive store.Snapshot
	Others      map[string]store.Snapshot
}

// Check returns every violation of the rules that the holdings show, sorted by key. Where the partitions were not read at one moment, a
// violation may be one of the moments between; one that is still there when everything was read again is real.
func Check(h Holdings) []Finding {
	c := &checker{h: h, alive: map[HostID]*Liveness{}}
	c.meta = Empty().Apply(store.Meta, store.Batch{Rev: h.Meta.Rev, Puts: h.Meta.Entries})
	for _, e := range h.Alive.Entries {
		c.checkAlive(e)
	}
	for _, e := range h.Meta.Entries {
		c.checkMeta(e)
	}
	c.checkCluster()
	c.checkPools()
	for name, s := range h.Others {
		c.checkPartition(name, s)
	}
	slices.SortFunc(c.out, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Key.Partition, b.Key.Partition), cmp.Compare(a.Key.Name, b.Key.Name), cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.Wrong, b.Wrong))
	})
	return c.out
}

type checker struct {
	h     Holdings
	meta  *Snapshot
	alive map[HostID]*Liveness
	out   []Finding
}

func (c *checker) say(e store.Entry, r Rule, do, format string, args ...any) {
	c.out = append(c.out, Finding{Key: e.Key, Rev: e.Rev, Rule: r, Wrong: fmt.Sprintf(format, args...), Do: do})
}

// What to do, where it is the same for many.
const (
	doRestore = "put the record back from a backup (weft restore), or delete the key if what it is about is gone"
	doDelete  = "delete the key"
	doForeign = "weft has not written it: delete the key, or give weft a prefix of its own"
	doPublish = "if the host's agent does not put it right within a minute, restart it"
)

func (c *checker) checkAlive(e store.Entry) {
	l := &Liveness{}
	id := HostID(e.Key.Name)
	if err := Decode(e.Value, l); err != nil || l.Host != id {
		c.say(e, RuleReadable, "restart the agent of that host", "it is no sign of life of host %s%s", id, because(err))
		return
	}
	c.alive[id] = l
	if _, ok := c.meta.Host(id); !ok && c.meta.Corrupt()[HostKey(id)] == nil {
		c.say(e, RuleNoHost, "restart the agent of that host: it registers again", "host %s is alive and has no record", ShortID(id))
	}
	if f, _ := c.meta.Fence(id); f != nil && f.Incarnation >= l.Incarnation {
		c.say(e, RuleFenced, "restart the agent of that host: it begins a new incarnation", "incarnation %d of host %s lives, and all up to %d were cleared", l.Incarnation, ShortID(id), f.Incarnation)
	}
}

func because(err error) string {
	if err == nil {
		return ""
	}
	return ": " + err.Error()
}

// checkMeta checks one key of partition meta.
func (c *checker) checkMeta(e store.Entry) {
	if err := c.meta.Corrupt()[e.Key]; err != nil {
		c.say(e, RuleReadable, doRestore, "%v", err)
		return
	}
	dir, id, deep := strings.Cut(e.Key.Name, "/")
	switch {
	case dir == "networks" && deep:
		c.checkNetwork(e, NetworkID(id))
	case dir == "hosts" && deep:
		c.checkHost(e, HostID(id))
	case dir == "fences" && deep:
		if f, _ := c.meta.Fence(HostID(id)); f.Host != HostID(id) {
			c.say(e, RuleReadable, doDelete, "it is a fence of host %s", f.Host)
		}
	case dir == "names" && deep:
		n, ok := c.meta.Network(NetworkID(e.Value))
		c.owned(e, ok && Fold(n.Name) == id, "network", string(e.Value))
	case dir == "vnis" && deep:
		n, ok := c.meta.Network(NetworkID(e.Value))
		c.owned(e, ok && strconv.FormatUint(uint64(n.VNI), 10) == id, "network", string(e.Value))
	case dir == "vteps" && deep:
		h, ok := c.meta.Host(HostID(e.Value))
		c.owned(e, ok && h.VTEP.String() == id, "host", string(e.Value))
	case dir == clearedDir && deep:
		if r, _ := c.meta.Cleared(EndpointID(id)); r.Endpoint != EndpointID(id) {
			c.say(e, RuleReadable, doDelete, "it is about endpoint %s", r.Endpoint)
		}
	case dir == "moves", e.Key == ClusterKey(), e.Key == AuthorityKey(), e.Key == PoolsGenKey():
	default:
		c.say(e, RuleForeign, doForeign, "weft knows no such key")
	}
}

// owned is for a claim: its owner must be there and have what is claimed.
func (c *checker) owned(e store.Entry, ok bool, kind, owner string) {
	if !ok {
		c.say(e, RuleOrphan, doDelete, "it is claimed for %s %s, which is not there or does not have it", kind, ShortID(owner))
	}
}

func (c *checker) checkNetwork(e store.Entry, id NetworkID) {
	n, _ := c.meta.Network(id)
	if n.ID != id {
		c.say(e, RuleReadable, doRestore, "it is the record of network %s", n.ID)
		return
	}
	c.claimed(e, NetworkNameKey(n.Name), string(id), "name "+n.Name)
	if n.VNI != 0 {
		c.claimed(e, VNIKey(n.VNI), string(id), fmt.Sprintf("VNI %d", n.VNI))
	}
	if n.State == Deleting {
		c.checkDeleter(e, n)
	}
}

func (c *checker) checkDeleter(e store.Entry, n *Network) {
	const do = "any agent finishes or undoes it within a minute; if none does, run weft network rm again"
	if n.Deleter == nil {
		c.say(e, RuleDeleter, do, "network %s is being deleted by nobody", n.Name)
		return
	}
	if l, ok := c.alive[n.Deleter.Host]; !ok || l.Incarnation != n.Deleter.Incarnation {
		c.say(e, RuleDeleter, do, "network %s is being deleted by incarnation %d of host %s, which does not live", n.Name, n.Deleter.Incarnation, ShortID(n.Deleter.Host))
	}
}

func (c *checker) checkHost(e store.Entry, id HostID) {
	h, _ := c.meta.Host(id)
	if h.ID != id {
		c.say(e, RuleReadable, doRestore, "it is the record of host %s", h.ID)
		return
	}
	c.claimed(e, VTEPKey(h.VTEP), string(id), "VTEP address "+h.VTEP.String())
}

// claimed is for a record of partition meta: what it has must be claimed for it, and for no other.
func (c *checker) claimed(e store.Entry, claim store.Key, owner, what string) {
	i, ok := slices.BinarySearchFunc(c.h.Meta.Entries, claim.Name, func(e store.Entry, name string) int { return cmp.Compare(e.Key.Name, name) })
	switch {
	case !ok:
		c.say(e, RuleUnclaimed, "write "+claim.String()+" with the value "+owner, "its %s is not claimed: another may be given it", what)
	case string(c.h.Meta.Entries[i].Value) != owner:
		c.say(e, RuleUnclaimed, "remove one of the two", "its %s is claimed for %s: two have it", what, ShortID(string(c.h.Meta.Entries[i].Value)))
	}
}

func (c *checker) checkCluster() {
	networks := false
	for range c.meta.Networks() {
		networks = true
	}
	if m, _ := c.meta.Move(); m != nil && m.State == MoveRestoring {
		c.say(store.Entry{Key: MovesKey()}, RuleCluster, "run weft restore again", "a restore has not ended")
		return
	}
	if c.meta.Cluster() == nil && c.meta.Corrupt()[ClusterKey()] == nil && len(c.h.Meta.Entries) > 0 {
		c.say(store.Entry{Key: ClusterKey()}, RuleCluster, "restore it from a backup (weft restore)", "there are records, and no record of their cluster: no agent believes them")
	}
	if networks && c.meta.PoolsGen() == store.Absent {
		c.say(store.Entry{Key: PoolsGenKey()}, RuleCluster, "create and remove a network: that writes it", "there are networks, and the counter that keeps their pools apart is missing")
	}
}

// checkPools sorts all pools by their first address: one that overlaps any earlier one begins before the end of the one that reaches furthest.
func (c *checker) checkPools() {
	type pool struct {
		subnet netip.Prefix
		of     *Network
	}
	var all []pool
	for n := range c.meta.Networks() {
		for _, p := range n.Pools {
			all = append(all, pool{p.Subnet, n})
		}
	}
	slices.SortFunc(all, func(a, b pool) int {
		return cmp.Or(a.subnet.Addr().Compare(b.subnet.Addr()), cmp.Compare(a.subnet.Bits(), b.subnet.Bits()), cmp.Compare(a.of.ID, b.of.ID))
	})
	for i, p := range all {
		for j := i - 1; j >= 0; j-- {
			if o := all[j]; o.subnet.Overlaps(p.subnet) {
				e := store.Entry{Key: NetworkKey(p.of.ID), Rev: c.meta.NetworkRev(p.of.ID)}
				c.say(e, RuleOverlap, "remove one of the two networks", "pool %s of network %s overlaps %s of network %s", p.subnet, p.of.Name, o.subnet, o.of.Name)
				break
			}
		}
	}
}
