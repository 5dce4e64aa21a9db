package record

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
)

// Encode returns the stored form of a record: JSON with the schema version as "v" and with the fields that were read and not known.
func Encode(r any) ([]byte, error) {
	b, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode %T: %w", r, err)
	}
	if len(b) < 2 || b[0] != '{' {
		return nil, fmt.Errorf("encode %T: it is no record", r)
	}
	out := fmt.Appendf(nil, `{"v":%d`, Schema)
	if len(b) > 2 {
		out = append(append(out, ','), b[1:len(b)-1]...)
	}
	if k, ok := r.(keeper); ok {
		for name, raw := range *k.kept() {
			quoted, err := json.Marshal(name)
			if err != nil {
				return nil, fmt.Errorf("encode %T: %w", r, err)
			}
			out = append(append(append(append(out, ','), quoted...), ':'), raw...)
		}
	}
	return append(out, '}'), nil
}

// keeper is a record that keeps unknown fields.
type keeper interface{ kept() *extra }

func (r *Cluster) kept() *extra  { return &r.extra }
func (r *Network) kept() *extra  { return &r.extra }
func (r *Host) kept() *extra     { return &r.extra }
func (r *Fence) kept() *extra    { return &r.extra }
func (r *Liveness) kept() *extra { return &r.extra }
func (r *Endpoint) kept() *extra { return &r.extra }
func (r *Sandbox) kept() *extra  { return &r.extra }

// KeepUnknown takes over what a later version has written in the old record of the same host.
func (r *Host) KeepUnknown(old *Host) { r.extra = old.extra }

// checked is a record that can tell whether it makes sense. One that does not is as corrupt as one that does not parse.
type checked interface {
	keeper
	check() error
}

// Decode reads the stored form into r. It refuses records of a newer schema, and such as do not make sense; of r nothing counts then.
func Decode(b []byte, r checked) error {
	bad := json.Unmarshal(b, r)
	if bad != nil && !json.Valid(b) {
		return fmt.Errorf("decode record: %w", bad)
	}
	unknown, err := unknownMembers(b, reflect.TypeOf(r).Elem())
	if err != nil {
		return err
	}
	if bad != nil { // of a schema that is known: else it may be right
		return fmt.Errorf("decode record: %w", bad)
	}
	if len(unknown) > 0 {
		if *r.kept() == nil {
			*r.kept() = extra{}
		}
		maps.Copy(*r.kept(), unknown)
	}
	if err := r.check(); err != nil {
		return fmt.Errorf("record makes no sense: %w", err)
	}
	return nil
}

// unknownMembers checks the schema of a record, and returns the members that its type does not have. A record has fewer members than its type has fields
// in nearly all cases, so the names are only compared, not decoded.
func unknownMembers(b []byte, t reflect.Type) (out extra, err error) {
	known := fieldNames(t)
	var schema *int
	for quoted, raw := range members(b) {
		name, err := unquote(quoted)
		if err != nil {
			return nil, fmt.Errorf("decode record: %w", err)
		}
		if strings.EqualFold(name, "v") {
			if err := json.Unmarshal(raw, &schema); err != nil {
				return nil, fmt.Errorf("decode record: %w", err)
			}
			continue
		}
		if isKnown(known, name) {
			continue
		}
		if out == nil {
			out = extra{}
		}
		out[name] = bytes.Clone(raw)
	}
	switch {
	case schema == nil || *schema < 1:
		return nil, errors.New("decode record: it has no schema version")
	case *schema > Schema:
		return nil, fmt.Errorf("decode record: schema %d is newer than this version's %d; upgrade this host", *schema, Schema)
	}
	return out, nil
}

// isKnown compares as encoding/json does: names match whatever their case.
func isKnown(known []string, name string) bool {
	return slices.Contains(known, name) || slices.ContainsFunc(known, func(k string) bool { return strings.EqualFold(k, name) })
}

// fields are the names that fieldNames has found, by type.
var fields sync.Map

func fieldNames(t reflect.Type) []string {
	if have, ok := fields.Load(t); ok {
		return have.([]string)
	}
	out := make([]string, 0, t.NumField())
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		if name != "" && name != "-" {
			out = append(out, name)
		}
	}
	fields.Store(t, out)
	return out
}

func (r *Cluster) check() error {
	if r.ID == "" {
		return errors.New("a cluster without an ID")
	}
	return nil
}

func (r *Network) check() error {
	switch {
	case r.ID == "" || r.Name == "":
		return errors.New("a network without an ID or a name")
	case r.State != Active && r.State != Deleting:
		return fmt.Errorf("unknown network state %q", r.State)
	case r.VNI >= 1<<24:
		return fmt.Errorf("VNI %d does not fit 24 bits", r.VNI)
	}
	for _, p := range r.Pools {
		if !p.Subnet.IsValid() || p.Subnet != p.Subnet.Masked() {
			return fmt.Errorf("subnet %s is not a network", p.Subnet)
		}
		if p.Gateway.IsValid() && !p.Subnet.Contains(p.Gateway) {
			return fmt.Errorf("gateway %s is outside %s", p.Gateway, p.Subnet)
		}
	}
	return nil
}

func (r *Host) check() error {
	if r.ID == "" || !r.VTEP.IsValid() {
		return errors.New("a host without an ID or a VTEP")
	}
	return nil
}

func (r *Fence) check() error {
	if r.Host == "" {
		return errors.New("a fence without a host")
	}
	return nil
}

func (r *Liveness) check() error {
	if r.Host == "" {
		return errors.New("a sign of life without a host")
	}
	return nil
}

func (r *Endpoint) check() error {
	if r.ID == "" || r.Network == "" || r.Host == "" || r.Name == "" {
		return errors.New("an endpoint without an ID, a network, a host or a name")
	}
	for _, a := range r.Addrs {
		if !validAddr(a) {
			return fmt.Errorf("address %s can be no endpoint's", a)
		}
	}
	return nil
}

func validAddr(a netip.Addr) bool {
	return a.IsValid() && !a.IsUnspecified() && !a.IsMulticast() && a.Zone() == ""
}

func (r *Sandbox) check() error {
	if r.ID == "" || r.Name == "" {
		return errors.New("a sandbox without an ID or a name")
	}
	return nil
}

// Decode reads the stored form of a cluster; see the function of that name.
func (r *Cluster) Decode(b []byte) error { return Decode(b, r) }

// Decode reads the stored form of a network; see the function of that name.
func (r *Network) Decode(b []byte) error { return Decode(b, r) }

// Decode reads the stored form of a host; see the function of that name.
func (r *Host) Decode(b []byte) error { return Decode(b, r) }

// Decode reads the stored form of a fence; see the function of that name.
func (r *Fence) Decode(b []byte) error { return Decode(b, r) }

// Decode reads the stored form of a liveness; see the function of that name.
func (r *Liveness) Decode(b []byte) error { return Decode(b, r) }

// Decode reads the stored form of a endpoint; see the function of that name.
func (r *Endpoint) Decode(b []byte) error { return Decode(b, r) }

// Decode reads the stored form of a sandbox; see the function of that name.
func (r *Sandbox) Decode(b []byte) error { return Decode(b, r) }
