package record

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
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

// Decode reads the stored form into r. It refuses records of a newer schema, and such as do not make sense.
func Decode(b []byte, r checked) error {
	var head struct {
		V *int `json:"v"`
	}
	if err := json.Unmarshal(b, &head); err != nil {
		return fmt.Errorf("decode record: %w", err)
	}
	switch {
	case head.V == nil || *head.V < 1:
		return errors.New("decode record: it has no schema version")
	case *head.V > Schema:
		return fmt.Errorf("decode record: schema %d is newer than this version's %d; upgrade this host", *head.V, Schema)
	}
	if err := json.Unmarshal(b, r); err != nil {
		return fmt.Errorf("decode record: %w", err)
	}
	if err := keepUnknown(b, r); err != nil {
		return err
	}
	if err := r.check(); err != nil {
		return fmt.Errorf("record makes no sense: %w", err)
	}
	return nil
}

// keepUnknown puts the fields that r's type does not have into its extra. A record has fewer members than its type has fields in nearly
// all cases, so the names are only compared, not decoded.
func keepUnknown(b []byte, r keeper) error {
	known := fieldNames(reflect.TypeOf(r).Elem())
	d := json.NewDecoder(bytes.NewReader(b))
	if _, err := d.Token(); err != nil {
		return fmt.Errorf("decode record: %w", err)
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return fmt.Errorf("decode record: %w", err)
		}
		var raw json.RawMessage
		if err := d.Decode(&raw); err != nil {
			return fmt.Errorf("decode record: %w", err)
		}
		s, _ := name.(string)
		if isKnown(known, s) {
			continue
		}
		if *r.kept() == nil {
			*r.kept() = extra{}
		}
		(*r.kept())[s] = raw
	}
	return nil
}

// isKnown compares as encoding/json does: names match whatever their case.
func isKnown(known []string, name string) bool {
	if name == "v" {
		return true
	}
	for _, k := range known {
		if strings.EqualFold(k, name) {
			return true
		}
	}
	return false
}

func fieldNames(t reflect.Type) []string {
	out := make([]string, 0, t.NumField())
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		if name != "" && name != "-" {
			out = append(out, name)
		}
	}
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
