// Package plugintest is an IPAM plugin for tests: a real HTTP server on a unix socket that speaks Docker's protocol, keeps books of what it has
// given out, and can be told to hang, to lie and to refuse.
package plugintest

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// Plugin is a plugin and its books. It outlives its server: Stop and Start are a plugin that dies and comes back with its books.
type Plugin struct {
	Name   string
	Replay bool // it says that it must be asked again in each of its lives
	MAC    bool // it says that it must be told MAC addresses

	socket string
	server *http.Server
	done   chan struct{}

	mu    sync.Mutex // guards what follows
	pools map[string]*pool
	next  int
	calls []string
	wrong []string // what nobody should have asked
	hook  Hook
}

type pool struct {
	prefix netip.Prefix
	given  map[netip.Addr]string // by address, to which MAC or type of request
}

// Hook sees a call before it is answered. Where it returns an answer, that is what is said, and the books do not hear of the call; a nil answer
// goes on. It is called without any lock.
type Hook func(call string, request map[string]any) any

// New makes a plugin whose socket is dir/NAME.sock, started.
func New(dir, name string) (*Plugin, error) {
	p := &Plugin{Name: name, socket: filepath.Join(dir, name+".sock"), pools: map[string]*pool{}}
	return p, p.Start()
}

// Start lets the plugin listen.
func (p *Plugin) Start() error {
	if err := os.MkdirAll(filepath.Dir(p.socket), 0o755); err != nil {
		return err
	}
	l, err := net.Listen("unix", p.socket)
	if err != nil {
		return err
	}
	p.server, p.done = &http.Server{Handler: http.HandlerFunc(p.serve)}, make(chan struct{})
	go func(s *http.Server, done chan struct{}) {
		defer close(done)
		_ = s.Serve(l) // until Stop
	}(p.server, p.done)
	return nil
}

// Stop ends the plugin at once, with the calls that it is answering.
func (p *Plugin) Stop() error {
	err := p.server.Close()
	<-p.done
	if rm := os.Remove(p.socket); rm != nil && !errors.Is(rm, os.ErrNotExist) {
		err = errors.Join(err, rm)
	}
	return err
}

// SetHook puts a hook in; nil takes it out.
func (p *Plugin) SetHook(h Hook) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hook = h
}

// Given lists the addresses that are out, sorted, without gateways and the like that were asked for by their kind.
func (p *Plugin) Given() (out []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, pool := range p.pools {
		for a, kind := range pool.given {
			if kind != "com.docker.network.gateway" {
				out = append(out, a.String())
			}
		}
	}
	slices.Sort(out)
	return out
}

// Pools lists the pools that are out, sorted.
func (p *Plugin) Pools() (out []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id := range p.pools {
		out = append(out, id)
	}
	slices.Sort(out)
	return out
}

// Wrong lists what should not have been asked: a second release, a release of what was never given.
func (p *Plugin) Wrong() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.wrong)
}

// Calls lists all calls so far.
func (p *Plugin) Calls() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.calls)
}

// Forget makes the plugin one that lost its books.
func (p *Plugin) Forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pools = map[string]*pool{}
}

func (p *Plugin) serve(w http.ResponseWriter, r *http.Request) {
	request := map[string]any{}
	_ = json.NewDecoder(r.Body).Decode(&request) // of Activate, nothing
	call := strings.TrimPrefix(r.URL.Path, "/")
	p.mu.Lock()
	p.calls = append(p.calls, call)
	hook := p.hook
	p.mu.Unlock()
	var answer any
	if hook != nil {
		answer = hook(call, request)
	}
	if answer == nil {
		answer = p.answer(call, request)
	}
	w.Header().Set("Content-Type", "application/vnd.docker.plugins.v1.2+json")
	if raw, ok := answer.(string); ok {
		_, _ = w.Write([]byte(raw))
		return
	}
	_ = json.NewEncoder(w).Encode(answer) // the caller sees what it gets
}

type object = map[string]any

func (p *Plugin) answer(call string, r object) any {
	p.mu.Lock()
	defer p.mu.Unlock()
	text := func(k string) string { s, _ := r[k].(string); return s }
	fail := func(format string, args ...any) any { return object{"Error": fmt.Sprintf(format, args...)} }
	switch call {
	case "Plugin.Activate":
		return object{"Implements": []string{"IpamDriver"}}
	case "IpamDriver.GetCapabilities":
		return object{"RequiresMACAddress": p.MAC, "RequiresRequestReplay": p.Replay}
	case "IpamDriver.GetDefaultAddressSpaces":
		return object{"LocalDefaultAddressSpace": p.Name + "-local", "GlobalDefaultAddressSpace": p.Name + "-global"}
	case "IpamDriver.RequestPool":
		return p.givePool(text("AddressSpace"), text("Pool"), fail)
	case "IpamDriver.ReleasePool":
		id := text("PoolID")
		if p.pools[id] == nil {
			p.wrong = append(p.wrong, "pool "+id+" released, which is not out")
			return fail("no pool %s", id)
		}
		for a, kind := range p.pools[id].given {
			p.wrong = append(p.wrong, fmt.Sprintf("pool %s released while %s (%s) is out", id, a, kind))
		}
		delete(p.pools, id)
	case "IpamDriver.RequestAddress":
		options, _ := r["Options"].(object)
		return p.giveAddress(text("PoolID"), text("Address"), options, fail)
	case "IpamDriver.ReleaseAddress":
		pool, a := p.pools[text("PoolID")], netip.MustParseAddr(text("Address"))
		if pool == nil || pool.given[a] == "" {
			p.wrong = append(p.wrong, "address "+a.String()+" released, which is not out")
			return fail("%s is not out", a)
		}
		delete(pool.given, a)
	default:
		return fail("no call %s", call)
	}
	return object{}
}

func (p *Plugin) givePool(space, want string, fail func(string, ...any) any) any {
	prefix, err := netip.ParsePrefix(want)
	if want == "" {
		prefix, err = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 77, byte(p.next), 0}), 24), nil
		p.next++
	}
	if err != nil {
		return fail("%v", err)
	}
	id := space + "/" + prefix.String()
	if p.pools[id] == nil || !p.Replay {
		if p.pools[id] != nil {
			return fail("pool %s is out already", prefix)
		}
		p.pools[id] = &pool{prefix: prefix, given: map[netip.Addr]string{}}
	}
	return object{"PoolID": id, "Pool": prefix.String(), "Data": object{}}
}

func (p *Plugin) giveAddress(id, want string, options object, fail func(string, ...any) any) any {
	pool := p.pools[id]
	if pool == nil {
		return fail("no pool %s", id)
	}
	kind := "endpoint"
	if t, ok := options["RequestAddressType"].(string); ok {
		kind = t
	}
	mac, _ := options["com.docker.network.endpoint.macaddress"].(string)
	if p.MAC && kind == "endpoint" && mac == "" {
		p.wrong = append(p.wrong, "an address asked for without a MAC")
	}
	a, err := netip.ParseAddr(want)
	if want == "" {
		for a, err = pool.prefix.Addr().Next(), nil; pool.given[a] != ""; a = a.Next() {
		}
	}
	switch {
	case err != nil:
		return fail("%v", err)
	case !pool.prefix.Contains(a):
		return fail("%s is not in %s", a, pool.prefix)
	case pool.given[a] != "":
		return fail("%s is out already", a)
	}
	pool.given[a] = kind
	return object{"Address": netip.PrefixFrom(a, pool.prefix.Bits()).String(), "Data": object{}}
}

// Pardon forgets what should not have been asked, and what is out: for a test that has lied to bring that about.
func (p *Plugin) Pardon() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wrong = nil
}
