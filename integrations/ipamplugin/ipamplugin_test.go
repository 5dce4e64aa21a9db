package ipamplugin_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"weft/integrations/ipamplugin"
	"weft/integrations/ipamplugin/plugintest"
)

func dirs(t *testing.T) ipamplugin.Dirs {
	t.Helper()
	base, err := os.MkdirTemp("", "ipam") // short: a socket is in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(base) })
	return ipamplugin.Dirs{Sockets: []string{base + "/run"}, Specs: []string{base + "/etc", base + "/lib"}}
}

func start(t *testing.T, d ipamplugin.Dirs, name string) *plugintest.Plugin {
	t.Helper()
	p, err := plugintest.New(d.Sockets[0], name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Stop() })
	return p
}

func open(t *testing.T, d ipamplugin.Dirs, name string) *ipamplugin.Plugin {
	t.Helper()
	p, err := ipamplugin.Open(t.Context(), d, name)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// A pool's and an address's whole life, and the plugin's books after it.
func TestPoolsAndAddresses(t *testing.T) {
	t.Parallel()
	d := dirs(t)
	books := start(t, d, "keeper")
	books.Replay, books.MAC = true, true
	p := open(t, d, "keeper")
	ctx := t.Context()
	if c, err := p.Capabilities(ctx); err != nil || !c.RequiresMACAddress || !c.RequiresRequestReplay {
		t.Errorf("capabilities %+v, %v", c, err)
	}
	if l, g, err := p.Spaces(ctx); err != nil || l != "keeper-local" || g != "keeper-global" {
		t.Errorf("spaces %q, %q, %v", l, g, err)
	}
	pool, err := p.RequestPool(ctx, ipamplugin.PoolRequest{Space: "s", Pool: netip.MustParsePrefix("10.3.0.0/24")})
	if err != nil || pool.ID != "s/10.3.0.0/24" || pool.Prefix.String() != "10.3.0.0/24" || pool.Gateway.IsValid() {
		t.Fatalf("pool %+v, %v", pool, err)
	}
	one, err := p.RequestAddress(ctx, pool.ID, netip.Addr{}, map[string]string{ipamplugin.OptMAC: "02:00:00:00:00:01"})
	if err != nil || one.String() != "10.3.0.1" {
		t.Errorf("address %s, %v", one, err)
	}
	nine := netip.MustParseAddr("10.3.0.9")
	if a, err := p.RequestAddress(ctx, pool.ID, nine, map[string]string{ipamplugin.OptMAC: "02:00:00:00:00:02"}); err != nil || a != nine {
		t.Errorf("address %s, %v", a, err)
	}
	var no *ipamplugin.Refusal
	if _, err := p.RequestAddress(ctx, pool.ID, nine, nil); !errors.As(err, &no) || !strings.Contains(err.Error(), "10.3.0.9 is out already") {
		t.Errorf("a taken address: %v", err)
	}
	if got := books.Given(); !slices.Equal(got, []string{"10.3.0.1", "10.3.0.9"}) {
		t.Errorf("out are %v", got)
	}
	for _, a := range []netip.Addr{one, nine} {
		if err := p.ReleaseAddress(ctx, pool.ID, a); err != nil {
			t.Error(err)
		}
	}
	if err := p.ReleasePool(ctx, pool.ID); err != nil {
		t.Error(err)
	}
	if wrong := books.Wrong(); !slices.Equal(wrong, []string{"an address asked for without a MAC"}) || len(books.Pools()) > 0 {
		t.Errorf("wrong %v, left %v", wrong, books.Pools())
	}
}

// Plugins are found where Docker looks for them, sockets first.
func TestFind(t *testing.T) {
	t.Parallel()
	d := dirs(t)
	books := start(t, d, "real")
	socket := filepath.Join(d.Sockets[0], "real.sock")
	write := func(path, text string) {
		t.Helper()
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	write(d.Specs[0]+"/spec.spec", "unix://"+socket+"\n")
	write(d.Specs[1]+"/deep/deep.spec", "unix://"+socket)
	write(d.Specs[1]+"/json.json", `{"Name":"json","Addr":"unix://`+socket+`"}`)
	write(d.Specs[0]+"/real.spec", "unix:///nowhere")
	for _, name := range []string{"real", "spec", "deep", "json"} {
		open(t, d, name)
	}
	if n := len(books.Calls()); n != 4 {
		t.Errorf("it was activated %d times", n)
	}
	write(d.Specs[0]+"/odd.spec", "ftp://x")
	write(d.Specs[0]+"/broken.json", "{")
	write(d.Specs[0]+"/tls.json", `{"Addr":"tcp://127.0.0.1:1","TLSConfig":{"CAFile":"/nowhere/ca.pem"}}`)
	for name, want := range map[string]string{
		"nobody": "there is no nobody.sock", "../etc/passwd": "is no name", "": "is no name", "odd": "ftp://x", "broken": "broken.json", "tls": "CAFile",
	} {
		_, err := ipamplugin.Open(t.Context(), d, name)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", name, err, want)
		}
		if notFound := name == "nobody" || want == "is no name"; errors.Is(err, ipamplugin.ErrNotFound) != notFound {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// What a plugin says that cannot be is not taken for an answer.
func TestLies(t *testing.T) {
	t.Parallel()
	d := dirs(t)
	books := start(t, d, "liar")
	p := open(t, d, "liar")
	ten := netip.MustParsePrefix("10.0.0.0/24")
	var lie *ipamplugin.LieError
	var doubt *ipamplugin.DoubtError
	var no *ipamplugin.Refusal
	for _, tt := range []struct {
		answer any
		kind   any
		want   string
	}{
		{map[string]any{"PoolID": "", "Pool": "10.0.0.0/24"}, &lie, "ID"},
		{map[string]any{"PoolID": strings.Repeat("x", 5000), "Pool": "10.0.0.0/24"}, &lie, "ID"},
		{map[string]any{"PoolID": "x", "Pool": "ten"}, &lie, "no subnet"},
		{map[string]any{"PoolID": "x", "Pool": "fd00::/64"}, &lie, "other family"},
		{map[string]any{"PoolID": "x", "Pool": "10.0.1.0/24"}, &lie, "10.0.0.0/24 was asked for"},
		{map[string]any{"PoolID": "x", "Pool": "10.0.0.0/24", "Data": map[string]string{ipamplugin.OptGateway: "10.9.0.1/24"}}, &lie, "no address of 10.0.0.0/24"},
		{`{"PoolID":1}`, &doubt, "another form"},
		{`hello`, &doubt, "no JSON"},
		{strings.Repeat(" ", 2<<20), &doubt, "more than"},
		{map[string]any{"Error": "we are\n full"}, &no, "we are  full"},
		{map[string]any{"Err": "wrong key"}, &no, "wrong key"},
	} {
		books.SetHook(func(string, map[string]any) any { return tt.answer })
		_, err := p.RequestPool(t.Context(), ipamplugin.PoolRequest{Pool: ten})
		if err == nil || !errors.As(err, tt.kind) || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%.60v: %T %v, want %q", tt.answer, err, err, tt.want)
		}
	}
	for _, a := range []string{"", "10.0.0.5", "x/24", "fe80::1%eth0/64"} {
		books.SetHook(func(string, map[string]any) any { return map[string]any{"Address": a} })
		if _, err := p.RequestAddress(t.Context(), "x", netip.Addr{}, nil); !errors.As(err, &lie) {
			t.Errorf("address %q: %v", a, err)
		}
	}
	books.SetHook(func(string, map[string]any) any { return map[string]any{"Implements": []string{"VolumeDriver"}} })
	if _, err := ipamplugin.Open(t.Context(), d, "liar"); err == nil || !strings.Contains(err.Error(), "is no IPAM plugin: it implements VolumeDriver") {
		t.Error(err)
	}
}

// A plugin that hangs costs its caller no more than the caller's patience, and what it may have done is in doubt.
func TestHang(t *testing.T) {
	t.Parallel()
	d := dirs(t)
	books := start(t, d, "slow")
	p := open(t, d, "slow")
	release := make(chan struct{})
	books.SetHook(func(string, map[string]any) any { <-release; return nil })
	defer close(release)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	begun := time.Now()
	_, err := p.RequestAddress(ctx, "x", netip.Addr{}, nil)
	var doubt *ipamplugin.DoubtError
	if !errors.As(err, &doubt) || !strings.Contains(err.Error(), "has not answered in time") || time.Since(begun) > 5*time.Second {
		t.Errorf("after %s: %v", time.Since(begun), err)
	}
	if calls := books.Calls(); len(calls) > 1 && calls[len(calls)-2] != "Plugin.Activate" { // it may not have come so far in time
		t.Errorf("what gives something out was asked for twice: %v", calls)
	}
}

// A plugin that is starting is waited for; one that dies under a call is asked again only where that does no harm.
func TestDeath(t *testing.T) {
	t.Parallel()
	d := dirs(t)
	dying, err := net.Listen("unix", dieAt(t, d, "dying"))
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan int)
	go func() {
		n := 0
		for ; ; n++ {
			c, err := dying.Accept()
			if err != nil {
				ended <- n
				return
			}
			buf := make([]byte, 1)
			_, _ = c.Read(buf) // the call has begun
			_ = c.Close()
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := ipamplugin.Open(ctx, d, "dying"); err == nil {
		t.Error("a plugin that says nothing was taken for one")
	}
	if err := dying.Close(); err != nil {
		t.Fatal(err)
	}
	if n := <-ended; n < 2 {
		t.Errorf("it was asked %d times what it is, want several", n)
	}

	books := start(t, d, "late")
	p := open(t, d, "late")
	if err := books.Stop(); err != nil {
		t.Fatal(err)
	}
	back := make(chan error)
	go func() {
		<-time.After(200 * time.Millisecond)
		back <- books.Start()
	}()
	if _, err := p.RequestPool(t.Context(), ipamplugin.PoolRequest{Space: "s"}); err != nil {
		t.Errorf("a plugin that comes back was not waited for: %v", err)
	}
	if err := <-back; err != nil {
		t.Fatal(err)
	}
}

func dieAt(t *testing.T, d ipamplugin.Dirs, name string) string {
	t.Helper()
	if err := os.MkdirAll(d.Sockets[0], 0o755); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(d.Sockets[0], name+".sock")
}
