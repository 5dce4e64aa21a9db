// Package ipamplugin speaks Docker's plugin protocol to an IPAM plugin of this host: it finds the plugin's socket, makes sure that it gives out
// addresses, and asks it for pools and addresses. It is at the edge: what a plugin says is parsed, bounded and checked for its form here;
// whether weft wants it is the caller's to decide.
//
// The protocol is HTTP POST of JSON over a unix or TCP socket; https://docs.docker.com/engine/extend/plugin_api and libnetwork's docs/ipam.md.
package ipamplugin

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Limits of what a plugin may say, in bytes. Docker has none.
const (
	maxReply  = 1 << 20
	maxPoolID = 4 << 10
	maxText   = 1 << 10 // of an error that is passed on
)

// Call times. A call that could not be begun is begun again, as Docker does, until the caller's patience or Patience ends.
const (
	Patience   = 10 * time.Second
	firstPause = 50 * time.Millisecond
	lastPause  = time.Second
)

// ErrNotFound says that there is no plugin of a name on this host.
var ErrNotFound = errors.New("plugin not found")

// Refusal is what a plugin has answered in place of what it was asked for. It has not done it.
type Refusal struct{ Plugin, Call, Text string }

func (r *Refusal) Error() string {
	return fmt.Sprintf("IPAM plugin %s: %s: %s", r.Plugin, r.Call, r.Text)
}

// DoubtError says that a call was begun and its outcome is not known: the plugin died, hung or answered with what cannot be read.
type DoubtError struct {
	Plugin, Call string
	Err          error
}

func (d *DoubtError) Error() string {
	return fmt.Sprintf("IPAM plugin %s: %s: %v; whether it did what was asked is not known", d.Plugin, d.Call, d.Err)
}
func (d *DoubtError) Unwrap() error { return d.Err }

// Capabilities of a plugin. One that does not know the call has none.
type Capabilities struct {
	RequiresMACAddress    bool // addresses are asked for with OptMAC
	RequiresRequestReplay bool // it keeps nothing: pools and addresses are asked for again in each of its lives
}

// Options of requests.
const (
	OptMAC         = "com.docker.network.endpoint.macaddress"
	OptRequestType = "RequestAddressType"
	OptGateway     = "com.docker.network.gateway" // value of OptRequestType, and key of a pool's data
)

// PoolRequest asks for a pool.
type PoolRequest struct {
	Space   string
	Pool    netip.Prefix // zero: the plugin chooses
	Range   netip.Prefix // zero: all of it
	Options map[string]string
	V6      bool
}

// Pool is what a plugin gives.
type Pool struct {
	ID      string
	Prefix  netip.Prefix
	Gateway netip.Addr // zero: it is to be asked for
}

// Plugin is one that has been found and has said that it gives out addresses. Its methods may be called from any goroutine.
type Plugin struct {
	name string
	wire *wire
}

// Open finds a plugin in dirs and asks what it is. The error is ErrNotFound where there is none.
func Open(ctx context.Context, dirs Dirs, name string) (*Plugin, error) {
	at, err := find(dirs, name)
	if err != nil {
		return nil, err
	}
	w, err := newWire(at)
	if err != nil {
		return nil, fmt.Errorf("IPAM plugin %s: %w", name, err)
	}
	p := &Plugin{name: name, wire: w}
	var r struct{ Implements []string }
	if err := p.call(ctx, "Plugin.Activate", nil, &r, again); err != nil {
		return nil, err
	}
	if !slices.Contains(r.Implements, "IpamDriver") {
		return nil, fmt.Errorf("plugin %s is no IPAM plugin: it implements %s", name, strings.Join(r.Implements, ", "))
	}
	return p, nil
}

// Name is the plugin's.
func (p *Plugin) Name() string { return p.name }

// Capabilities asks what the plugin needs.
func (p *Plugin) Capabilities(ctx context.Context) (Capabilities, error) {
	var r struct {
		Capabilities
		Error string
	}
	err := p.call(ctx, "IpamDriver.GetCapabilities", nil, &r, again)
	var no *Refusal
	if errors.As(err, &no) {
		return Capabilities{}, nil // one from before the call was made
	}
	return r.Capabilities, err
}

// Spaces asks for the names of the plugin's address spaces.
func (p *Plugin) Spaces(ctx context.Context) (local, global string, err error) {
	var r struct {
		LocalDefaultAddressSpace, GlobalDefaultAddressSpace string
	}
	err = p.call(ctx, "IpamDriver.GetDefaultAddressSpaces", nil, &r, again)
	return r.LocalDefaultAddressSpace, r.GlobalDefaultAddressSpace, err
}

// RequestPool asks for a pool. The answer has the form of one: of the family that was asked for, and the very pool where one was.
func (p *Plugin) RequestPool(ctx context.Context, q PoolRequest) (Pool, error) {
	const call = "IpamDriver.RequestPool"
	in := struct {
		AddressSpace, Pool, SubPool string
		Options                     map[string]string
		V6                          bool
	}{q.Space, text(q.Pool), text(q.Range), q.Options, q.V6}
	var r struct {
		PoolID, Pool string
		Data         map[string]string
	}
	if err := p.call(ctx, call, in, &r, once); err != nil {
		return Pool{}, err
	}
	out, err := parsePool(r.PoolID, r.Pool, r.Data, q)
	if err != nil {
		err = &LieError{Plugin: p.name, Call: call, Text: err.Error()}
	}
	return out, err
}

// ReleasePool gives a pool back.
func (p *Plugin) ReleasePool(ctx context.Context, id string) error {
	return p.call(ctx, "IpamDriver.ReleasePool", struct{ PoolID string }{id}, &struct{}{}, again)
}

// RequestAddress asks for an address of a pool: for a, or where that is zero for one that the plugin chooses. The answer has the form of an
// address; that it lies in the pool, and is nobody else's, is for the caller to see.
func (p *Plugin) RequestAddress(ctx context.Context, poolID string, a netip.Addr, options map[string]string) (netip.Addr, error) {
	const call = "IpamDriver.RequestAddress"
	in := struct {
		PoolID, Address string
		Options         map[string]string
	}{PoolID: poolID, Options: options}
	if a.IsValid() {
		in.Address = a.String()
	}
	var r struct{ Address string }
	if err := p.call(ctx, call, in, &r, once); err != nil {
		return netip.Addr{}, err
	}
	got, err := netip.ParsePrefix(r.Address)
	if err != nil || got.Addr().Zone() != "" {
		return netip.Addr{}, &LieError{Plugin: p.name, Call: call, Text: fmt.Sprintf("the address %.60q is none: it is to be one with its prefix length, as 10.0.0.5/24", r.Address)}
	}
	return got.Addr().Unmap(), nil
}

// ReleaseAddress gives an address back.
func (p *Plugin) ReleaseAddress(ctx context.Context, poolID string, a netip.Addr) error {
	return p.call(ctx, "IpamDriver.ReleaseAddress", struct{ PoolID, Address string }{poolID, a.String()}, &struct{}{}, again)
}

// LieError says that a plugin has done something, and that what it says of it cannot be.
type LieError struct{ Plugin, Call, Text string }

func (l *LieError) Error() string {
	return fmt.Sprintf("IPAM plugin %s: the answer to %s cannot be used: %s", l.Plugin, l.Call, l.Text)
}

func text(p netip.Prefix) string {
	if !p.IsValid() {
		return ""
	}
	return p.String()
}

func parsePool(id, prefix string, data map[string]string, q PoolRequest) (Pool, error) {
	out := Pool{ID: id}
	if id == "" || len(id) > maxPoolID {
		return out, fmt.Errorf("a pool's ID has 1 to %d bytes, and this one %d", maxPoolID, len(id))
	}
	var err error
	out.Prefix, err = netip.ParsePrefix(prefix)
	switch {
	case err != nil:
		return out, fmt.Errorf("the pool %.60q is no subnet", prefix)
	case out.Prefix.Addr().Is4In6() || out.Prefix.Addr().Is6() != q.V6:
		return out, fmt.Errorf("the pool %s is of the other family", prefix)
	case q.Pool.IsValid() && out.Prefix.Masked() != q.Pool:
		return out, fmt.Errorf("the pool is %s, and %s was asked for", prefix, q.Pool)
	}
	out.Prefix = out.Prefix.Masked()
	gw, given := data[OptGateway]
	if !given {
		return out, nil
	}
	g, err := netip.ParsePrefix(gw)
	if err != nil || !out.Prefix.Contains(g.Addr()) {
		return out, fmt.Errorf("the gateway %.60q is no address of %s", gw, out.Prefix)
	}
	out.Gateway = g.Addr()
	return out, nil
}
