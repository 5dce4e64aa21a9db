// Package record is what the cluster agrees on: the typed records and their keys, their codec, and an immutable, indexed snapshot of
// them that a DNS answer, a kernel plan and an inspect reply all read alike.
package record

import (
	"encoding/json"
	"net/netip"
	"slices"
	"time"
)

// Schema is written into every record. A reader takes records of its own or a lower schema, and keeps fields that it does not know.
const Schema = 1

// IDs. Networks, endpoints and sandboxes have 64 hex digits, as Docker's; hosts 32.
type (
	NetworkID  string
	EndpointID string
	SandboxID  string
	HostID     string
)

// MAC is a hardware address in lower-case colon form, comparable and printable.
type MAC string

// extra carries the fields of a stored record that this version does not know; they are written back as they came.
type extra map[string]json.RawMessage

// Cluster is meta/cluster: written once, create-if-absent; every agent remembers its ID.
type Cluster struct {
	ID        string     `json:"id"`
	VXLANPort uint16     `json:"vxlan_port"`
	AddrPools []AddrPool `json:"addr_pools,omitempty"` // where automatic pools are taken from; empty: the built-in list
	Created   time.Time  `json:"created"`
	History   string     `json:"history,omitempty"` // another one where the records came from another store or a backup: revisions of before mean nothing
	// Generation orders histories: that of a later one is greater. Zero, in records of before it was written, is the first.
	Generation uint64 `json:"generation,omitempty"`
	// Superseded is what the store said before its records were put there: that they had moved elsewhere. It is said again where that is undone.
	Superseded *Move `json:"superseded,omitempty"`
	extra      extra //nolint:unused // kept by the codec
}

// Succeeds tells whether these records were put where they are after those of old were. Records that were never moved nor restored have no
// history, and come before all that were.
func (r *Cluster) Succeeds(old *Cluster) bool {
	if r.Generation == old.Generation {
		return old.History == "" && r.History != ""
	}
	return r.Generation > old.Generation
}

// AddrPool is a range that automatic pools of prefix length Size are cut from.
type AddrPool struct {
	Base netip.Prefix `json:"base"`
	Size int          `json:"size"`
}

// NetworkState tells whether endpoints may be made in a network.
type NetworkState string

// A network is active from its creation on; deleting while its remover makes sure that it has no endpoint.
const (
	Active   NetworkState = "active"
	Deleting NetworkState = "deleting"
)

// Network is meta/networks/<id>.
type Network struct {
	ID       NetworkID         `json:"id"`
	Name     string            `json:"name"` // as the user spelled it
	Driver   string            `json:"driver"`
	Scope    string            `json:"scope"`
	Created  time.Time         `json:"created"`
	Pools    []Pool            `json:"pools"`
	VNI      uint32            `json:"vni,omitempty"`
	MTU      int               `json:"mtu"`
	Internal bool              `json:"internal,omitempty"`
	Options  map[string]string `json:"options,omitempty"`
	Labels   map[string]string `json:"labels,omitempty"`
	IPAMOpts map[string]string `json:"ipam_opts,omitempty"`
	// IPAMDriver is the plugin that gives out the addresses; "" or "default" is weft itself.
	IPAMDriver string       `json:"ipam_driver,omitempty"`
	IPv6       bool         `json:"ipv6,omitempty"`        // dual stack
	Attachable bool         `json:"attachable,omitempty"`  // as asked for; every network can be attached to
	ConfigOnly bool         `json:"config_only,omitempty"` // settings for others; nothing attaches to it
	ConfigFrom string       `json:"config_from,omitempty"` // name of the config-only network that the settings were copied from
	State      NetworkState `json:"state"`
	Deleter    *Deleter     `json:"deleter,omitempty"` // who set State to Deleting
	extra      extra
}

// Deleter is the host, and its incarnation, that is removing a network.
type Deleter struct {
	Host        HostID `json:"host"`
	Incarnation uint64 `json:"incarnation"`
}

// Pool is one subnet of a network.
type Pool struct {
	Subnet  netip.Prefix          `json:"subnet"`
	Gateway netip.Addr            `json:"gateway"`
	IPRange netip.Prefix          `json:"ip_range,omitzero"` // where automatic addresses come from; zero: the whole subnet
	Aux     map[string]netip.Addr `json:"aux,omitempty"`     // never given out
	Auto    bool                  `json:"auto,omitempty"`    // chosen by weft
	Handle  string                `json:"handle,omitempty"`  // what the IPAM plugin that chose it calls it
}

// Host is meta/hosts/<id>, written by its host only.
type Host struct {
	ID          HostID     `json:"id"`
	Name        string     `json:"name"`
	Advertise   string     `json:"advertise"` // host:port of the peer gRPC
	VTEP        netip.Addr `json:"vtep"`
	Incarnation uint64     `json:"incarnation"`
	Version     string     `json:"version"`
	Routes      []Route    `json:"routes,omitempty"` // prefixes the host routes elsewhere than into weft
	MTU         int        `json:"mtu"`              // of the underlay
	Started     time.Time  `json:"started"`
	PublicKey   string     `json:"public_key,omitempty"` // SHA-256 of the public key of its certificate, hex; "": it has none
	extra       extra
}

// Route is a prefix that a host has a route into, and through which interface.
type Route struct {
	Prefix netip.Prefix `json:"prefix"`
	Link   string       `json:"link"`
}

// Fence is meta/fences/<host>: the last incarnation of that host that was cleared.
type Fence struct {
	Host        HostID `json:"host"`
	Incarnation uint64 `json:"incarnation"`
	By          HostID `json:"by"`
	Clearing    bool   `json:"clearing,omitempty"` // what it covers is still being deleted, by By; where that dies, anybody goes on
	Removing    bool   `json:"removing,omitempty"` // with Clearing: the host's own record goes last
	Revoked     string `json:"revoked,omitempty"`  // Host.PublicKey of a host that was removed: nobody trusts that key again
	// RevokedBefore are those of its earlier removals.
	RevokedBefore []string `json:"revoked_before,omitempty"`
	extra         extra
}

// Revokes tells whether a key of the host is not trusted any more.
func (f *Fence) Revokes(key string) bool {
	return key != "" && (f.Revoked == key || slices.Contains(f.RevokedBefore, key))
}

// Revoke notes that a key of the host is not to be trusted again; "" is none.
func (f *Fence) Revoke(key string) {
	if key == "" || f.Revokes(key) {
		return
	}
	if f.Revoked != "" {
		f.RevokedBefore = append(slices.Clip(f.RevokedBefore), f.Revoked)
	}
	f.Revoked = key
}

// Liveness is alive/<host>.
type Liveness struct {
	Host        HostID `json:"host"`
	Incarnation uint64 `json:"incarnation"`
	Instance    string `json:"instance"` // one agent process
	extra       extra
}

// Link is a name for another sandbox that only the linking sandbox sees.
type Link struct {
	Target string `json:"target"`
	Alias  string `json:"alias"`
	// Sandbox is the target itself, of a link on the default network: there it must exist, and stays the target whatever it is called later.
	Sandbox SandboxID `json:"sandbox,omitempty"`
}

// Endpoint is net/<network>/ep/<id>: one interface of one sandbox in one network.
type Endpoint struct {
	ID          EndpointID   `json:"id"`
	Network     NetworkID    `json:"network"`
	Host        HostID       `json:"host"`
	Incarnation uint64       `json:"incarnation"`
	Sandbox     SandboxID    `json:"sandbox"`
	Name        string       `json:"name"` // the sandbox's name; unique in the network
	Hostname    string       `json:"hostname,omitempty"`
	Aliases     []string     `json:"aliases,omitempty"`
	VIPAliases  []string     `json:"vip_aliases,omitempty"` // aliases with one virtual address, balanced over the members
	Links       []Link       `json:"links,omitempty"`
	Addrs       []netip.Addr `json:"addrs"`            // one, or one of each family
	Static      bool         `json:"static,omitempty"` // the address was asked for: kept while stopped
	MAC         MAC          `json:"mac"`
	StaticMAC   bool         `json:"static_mac,omitempty"` // it was asked for, and is claimed by a key of its own
	Running     bool         `json:"running"`
	extra       extra
}
