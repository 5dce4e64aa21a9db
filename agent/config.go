// Package agent wires one host and owns its loop: wake, snapshot, render, diff, apply. It is the only package that knows all others.
//
// Read it in this order: agent.go (how a host starts), member.go (how it joins its cluster), scope.go (whose networks are whose), boxes.go
// (what it knows of its own sandboxes), loop.go (how the kernel follows), attach.go (the one flow through all of it), lifecycle.go, views.go.
package agent

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"weft/store/open"
	"weft/store/record"
)

// Config is what weftd's options say. agent.Run checks it before it changes anything.
type Config struct {
	ClusterStore    string            // URL, or "embedded"; "": what this host learnt when it joined, else embedded
	StoreOpts       map[string]string // --cluster-store-opt
	Advertise       string            // INTERFACE[:PORT] or ADDRESS[:PORT]; "": of the default route
	DataAddr        string            // address or interface of the tunnels; "": the advertised one
	StateDir        string
	RunDir          string
	Socket          string // path of the admin socket
	VXLANPort       uint16
	EmbeddedListen  string // ADDRESS:PORT; "": loopback
	HostName        string // "": the machine's
	PluginDir       string // where IPAM plugins are looked for before Docker's directories; "": only there
	Join            string // HOST[:PORT] of the host that has the cluster's authority; "": this host joins nobody
	Token           string // with which it joins, or @FILE with it: a secret
	PeerCAFile      string // a PKI that others keep; "": the cluster's authority
	PeerCertFile    string
	PeerKeyFile     string
	CertLifetime    time.Duration // of certificates that this host signs; 0: identity.Lifetime
	LogLevel        string
	AddrPools       []record.AddrPool
	RefuseForwarded bool          // take no commands from other hosts
	StaleGrace      time.Duration // how long a host must have been lost before another may have the names of its endpoints
}

// peerPort is where agents listen for each other where --cluster-advertise names no port: that of dockerd's --cluster-advertise.
const peerPort = 2376

const embeddedScheme = "embedded"

// check refuses what can never work, before anything was touched.
func (c *Config) check() error {
	if c.ClusterStore == embeddedScheme+"://" {
		c.ClusterStore = embeddedScheme
	}
	embedded := c.ClusterStore == embeddedScheme || c.ClusterStore == ""
	if err := c.checkIdentity(); err != nil {
		return err
	}
	if embedded {
		if len(c.StoreOpts) > 0 {
			for k := range c.StoreOpts {
				if !strings.HasPrefix(k, "discovery.") {
					return fmt.Errorf("--cluster-store-opt %s: the embedded store takes no such option", k)
				}
			}
		}
		if _, _, err := open.Timing(c.StoreOpts); err != nil {
			return err
		}
	} else if _, err := open.Parse(c.ClusterStore, c.StoreOpts); err != nil {
		return err
	}
	if c.EmbeddedListen != "" {
		if !embedded {
			return errors.New("--embedded-listen is for --cluster-store=embedded only")
		}
		if _, err := netip.ParseAddrPort(c.EmbeddedListen); err != nil {
			return fmt.Errorf("--embedded-listen %s: it must be ADDRESS:PORT, such as 192.0.2.1:2379", c.EmbeddedListen)
		}
	}
	if c.StaleGrace < 0 {
		return fmt.Errorf("--stale-grace %s: it cannot be negative", c.StaleGrace)
	}
	if c.VXLANPort == 0 {
		return errors.New("--vxlan-port 0: it must be a UDP port")
	}
	for _, d := range []*string{&c.StateDir, &c.RunDir, &c.Socket} {
		abs, err := filepath.Abs(*d)
		if err != nil {
			return err
		}
		*d = abs
	}
	if c.HostName == "" {
		name, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("this machine has no host name, give --name: %w", err)
		}
		c.HostName = name
	}
	return nil
}

func (c *Config) logger() (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.LogLevel)); err != nil {
		return nil, fmt.Errorf("--log-level %s: it must be debug, info, warn or error", c.LogLevel)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})), nil
}

// advertised splits INTERFACE|ADDRESS[:PORT].
func advertised(s string) (where string, port uint16, err error) {
	if a, err := netip.ParseAddr(s); err == nil {
		return a.String(), peerPort, nil
	}
	if a, err := netip.ParseAddrPort(s); err == nil && a.Port() > 0 {
		return a.Addr().String(), a.Port(), nil
	}
	if inner, ok := strings.CutPrefix(strings.TrimSuffix(s, "]"), "["); ok { // [2001:db8::1], as Docker's users write it
		if a, err := netip.ParseAddr(inner); err == nil {
			return a.String(), peerPort, nil
		}
	}
	where, p, hasPort := strings.Cut(s, ":")
	if !hasPort {
		return s, peerPort, nil
	}
	var n uint16
	if _, err := fmt.Sscanf(p, "%d", &n); err != nil || n == 0 || fmt.Sprint(n) != p {
		return "", 0, fmt.Errorf("--cluster-advertise %s: %q is no port", s, p)
	}
	return where, n, nil
}

func (c *Config) netnsDir() string   { return filepath.Join(c.RunDir, "netns") }
func (c *Config) journalDB() string  { return filepath.Join(c.StateDir, "journal.db") }
func (c *Config) networksDB() string { return filepath.Join(c.StateDir, "networks.db") }
func (c *Config) etcdDir() string    { return filepath.Join(c.StateDir, "etcd") }
func (c *Config) sandboxDir() string { return filepath.Join(c.RunDir, "sandboxes") }
func (c *Config) storeName() string {
	if c.ClusterStore == embeddedScheme {
		return "embedded"
	}
	return open.Redact(c.ClusterStore)
}
