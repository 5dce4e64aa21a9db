package registry

import (
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"regexp"
	"slices"
	"strings"
	"time"

	"weft/ipam"
	"weft/store"
	"weft/store/record"
)

// NetworkSpec is a network as a user asks for it.
type NetworkSpec struct {
	Name     string
	Driver   string // bridge or overlay; "" is overlay
	Internal bool
	IPv6     bool // both families; else IPv4 alone
	Subnets  []string
	Gateways []string
	IPRanges []string
	Aux      map[string]string
	Options  map[string]string
	Labels   map[string]string
	IPAMOpts map[string]string
	Given    *Given // nil: weft chooses
	Builtin  bool   // it is the default network that an agent makes for itself

	ConfigOnly bool             // settings for other networks, of any driver
	ID         record.NetworkID // chosen before; "" for one of the registry's
	Attachable bool
	IPAMDriver string        // the plugin that has chosen Pools; "" is weft itself
	Pools      []record.Pool // in place of Subnets, Gateways, IPRanges and Aux
	ConfigFrom string        // name of the configuration network that the settings were copied from
}

// Given is what a network that comes from elsewhere brings along.
type Given struct {
	ID      record.NetworkID
	VNI     uint32    // 0: weft chooses, as it does where another network has it
	Created time.Time // zero: now
}

// nameForm is Docker's form of names of networks and sandboxes.
var nameForm = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`)

const maxNameLen = 253 // as a DNS name (RFC 1035); labels are checked where they are used

// CheckName refuses what cannot name a network or a sandbox; what says which of them.
func CheckName(what, name string) error {
	if !nameForm.MatchString(name) || len(name) > maxNameLen {
		return refuse(Invalid, "invalid %s name %q: it begins with a letter or digit, and goes on with letters, digits, '_', '.' or '-'", what, name)
	}
	return nil
}

// plan is a checked spec.
type plan struct {
	pools        []ipam.Pool // of a family that has none, one is chosen
	mtu          int         // 0: from the underlay
	allowOverlap bool
	given        bool
	builtin      bool
}

func (s NetworkSpec) check() (plan, error) {
	p := plan{given: s.Given != nil, builtin: s.Builtin}
	if err := s.Given.check(); err != nil {
		return p, err
	}
	if err := CheckName("network", s.Name); err != nil {
		return p, err
	}
	if len(s.Name) > 1 && len(strings.Trim(s.Name, "0123456789abcdef")) == 0 && len(s.Name) == 64 {
		return p, refuse(Invalid, "invalid network name %q: it looks like an ID", s.Name)
	}
	if !s.Builtin && slices.Contains([]string{"host", "none", "bridge"}, record.Fold(s.Name)) {
		return p, refuse(Exists, "operation is not permitted on predefined %s network: network with name %s already exists", record.Fold(s.Name), s.Name)
	}
	if err := p.checkOptions(s.driver(), s.Options); err != nil {
		return p, err
	}
	// Checked before anything whose time grows with the square of it.
	if n := s.size(); n > store.MaxValue {
		return p, refuse(Invalid, "the definition of network %s with its subnets, auxiliary addresses, options and labels takes %d bytes or more in the store, and at most %d are possible: give it less", s.Name, n, store.MaxValue)
	}
	var err error
	if p.pools, err = (ipam.Request{Subnets: s.Subnets, Gateways: s.Gateways, Ranges: s.IPRanges, Aux: s.Aux}).Parse(); err != nil {
		return p, refuse(Invalid, "%s", err)
	}
	six := ipam.Family(p.pools, true)
	if s.Driver == "bridge" && !s.ConfigOnly && (len(six) > 1 || len(p.pools)-len(six) > 1) {
		return p, refuse(Invalid, "bridge driver doesn't support multiple subnets: one IPv4 and one IPv6 are possible, and more with -d overlay")
	}
	if len(six) > 0 && !s.IPv6 {
		return p, refuse(Invalid, "IPv6 is disabled for the new network: subnet %s needs --ipv6", six[0].Subnet)
	}
	if s.IPv6 && p.mtu > 0 && p.mtu < minMTU6 {
		return p, refuse(Invalid, "invalid option %s=%d: IPv6 needs %d bytes at least (RFC 8200)", OptMTU, p.mtu, minMTU6)
	}
	return p, nil
}

// driver is "null" for a configuration network, as Docker shows it.
func (s NetworkSpec) driver() string {
	if s.ConfigOnly {
		return "null"
	}
	return cmp.Or(s.Driver, "overlay")
}

// minMTU6 is the smallest MTU of a link that carries IPv6 (RFC 8200, 5); Linux turns IPv6 off below.
const minMTU6 = 1280

// size is what the record takes at the least.
func (s NetworkSpec) size() int {
	n := 0
	for _, words := range [][]string{s.Subnets, s.Gateways, s.IPRanges} {
		for _, w := range words {
			n += len(w)
		}
	}
	for _, m := range []map[string]string{s.Aux, s.Options, s.Labels, s.IPAMOpts} {
		for k, v := range m {
			n += len(k) + len(v)
		}
	}
	return n
}

// idForm is that of networks' and endpoints' IDs.
var idForm = regexp.MustCompile(`^[0-9a-f]{64}$`)

func (g *Given) check() error {
	switch {
	case g == nil:
	case !idForm.MatchString(string(g.ID)):
		return refuse(Invalid, "invalid network ID %q: it has 64 hexadecimal digits", g.ID)
	case g.VNI > ipam.LastVNI:
		return refuse(Invalid, "invalid VNI %d: the highest is %d", g.VNI, ipam.LastVNI)
	}
	return nil
}

// NewID returns a random ID of 64 hex digits, as Docker's.
func NewID() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}
