// Package open turns a store's URL and options into a back end: one switch, no registration.
package open

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"weft/store"
	"weft/store/etcd"
)

// Config is a parsed URL with its options, and what the files that they name hold.
type Config struct {
	Scheme    string
	Endpoints []string // HOST:PORT
	Prefix    string
	CAFile    string
	CertFile  string
	KeyFile   string
	User      string
	TTL       time.Duration // of the host's session
	Heartbeat time.Duration // between its renewals; a third of TTL unless told otherwise

	passFile string
	password string
	tls      *tls.Config
}

// The session's time to live: 15 s unless discovery.ttl says otherwise, and never less than etcd grants reliably.
const (
	defaultTTL    = 15 * time.Second
	minTTL        = 3 * time.Second
	maxTTL        = time.Hour
	defaultPrefix = "weft"
	etcdPort      = "2379"
)

// supported are the schemes that Open knows.
const supported = "etcd://HOST:PORT[,HOST:PORT…][/PREFIX] and embedded"

// Parse checks a URL and its options without touching anything but the files that they name. No error shows a password.
func Parse(raw string, opts map[string]string) (Config, error) {
	c := Config{Prefix: defaultPrefix}
	shown := Redact(raw)
	scheme, rest, ok := strings.Cut(raw, "://")
	if !ok {
		return c, fmt.Errorf("cluster store %q is no URL: supported are %s", shown, supported)
	}
	c.Scheme = scheme
	switch scheme {
	case "etcd":
	case "consul", "zk":
		return c, fmt.Errorf("cluster store scheme %s:// is not supported yet by this version: supported are %s", scheme, supported)
	default:
		return c, fmt.Errorf("unknown cluster store scheme %q: supported are %s", scheme, supported)
	}
	if strings.Contains(rest, "@") {
		return c, errors.New("the cluster store's URL must not hold a password: use --cluster-store-opt kv.user=… and kv.passwordfile=…")
	}
	hosts, path, _ := strings.Cut(rest, "/")
	for h := range strings.SplitSeq(hosts, ",") {
		ep, err := endpoint(h)
		if err != nil {
			return c, fmt.Errorf("cluster store %q: %w", shown, err)
		}
		c.Endpoints = append(c.Endpoints, ep)
	}
	if p := strings.Trim(path, "/"); p != "" {
		c.Prefix = p
	}
	if err := c.options(opts); err != nil {
		return c, err
	}
	if strings.ContainsFunc(c.Prefix, func(r rune) bool { return strings.ContainsRune("?#%@\\", r) || r <= ' ' || !unicode.IsPrint(r) }) || !utf8.ValidString(c.Prefix) {
		return c, fmt.Errorf("cluster store %q: the prefix %q must be a plain path", shown, c.Prefix)
	}
	return c, c.read()
}

func endpoint(s string) (string, error) {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		host, port = s, etcdPort
		if strings.ContainsAny(s, ":[]") {
			inner, ok := strings.CutPrefix(s, "[")
			var closed bool
			if host, closed = strings.CutSuffix(inner, "]"); !ok || !closed {
				return "", fmt.Errorf("%q is not HOST:PORT", s)
			}
		}
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", fmt.Errorf("%q is no port", port)
	}
	if _, err := netip.ParseAddr(host); err != nil && !hostname(host) {
		return "", fmt.Errorf("%q has no host", s)
	}
	return net.JoinHostPort(host, port), nil
}

// hostname tells a name that DNS could know: ASCII letters, digits, hyphens, underscores and dots.
func hostname(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_.", r))
	})
}

func (c *Config) options(opts map[string]string) error {
	c.TTL = defaultTTL
	for _, k := range slices.Sorted(maps.Keys(opts)) {
		v := opts[k]
		var err error
		switch k {
		case "kv.cacertfile":
			c.CAFile = v
		case "kv.certfile":
			c.CertFile = v
		case "kv.keyfile":
			c.KeyFile = v
		case "kv.path":
			if c.Prefix = strings.Trim(v, "/"); c.Prefix == "" {
				err = errors.New("it must not be empty")
			}
		case "kv.user":
			c.User = v
		case "kv.passwordfile":
			c.passFile = v
		case "discovery.ttl":
			c.TTL, err = seconds(v)
		case "discovery.heartbeat":
			c.Heartbeat, err = seconds(v)
		default:
			return fmt.Errorf("unknown --cluster-store-opt %s: known are discovery.heartbeat, discovery.ttl, kv.cacertfile, kv.certfile, kv.keyfile, kv.passwordfile, kv.path and kv.user", k)
		}
		if err != nil {
			return fmt.Errorf("--cluster-store-opt %s=%s: %w", k, v, err)
		}
	}
	if c.TTL < minTTL || c.TTL > maxTTL {
		return fmt.Errorf("--cluster-store-opt discovery.ttl=%d: it must be from %d to %d seconds", c.TTL/time.Second, minTTL/time.Second, maxTTL/time.Second)
	}
	if c.Heartbeat == 0 {
		c.Heartbeat = c.TTL / 3
	}
	if c.Heartbeat >= c.TTL {
		return fmt.Errorf("--cluster-store-opt discovery.heartbeat=%d: it must be less than discovery.ttl (%d)", c.Heartbeat/time.Second, c.TTL/time.Second)
	}
	if (c.CertFile == "") != (c.KeyFile == "") {
		return errors.New("--cluster-store-opt kv.certfile and kv.keyfile go together: one of them is missing")
	}
	if (c.User == "") != (c.passFile == "") {
		return errors.New("--cluster-store-opt kv.user and kv.passwordfile go together: one of them is missing")
	}
	return nil
}

func seconds(s string) (time.Duration, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n <= 0 || n > int(maxTTL/time.Second) {
		return 0, errors.New("it must be a number of seconds")
	}
	return time.Duration(n) * time.Second, nil
}

// Open returns the back end. It does not wait for it to answer.
func Open(raw string, opts map[string]string, log *slog.Logger) (store.Store, error) {
	c, err := Parse(raw, opts)
	if err != nil {
		return nil, err
	}
	eps := make([]string, len(c.Endpoints))
	for i, e := range c.Endpoints {
		u := url.URL{Scheme: "http", Host: e}
		if c.tls != nil {
			u.Scheme = "https"
		}
		eps[i] = u.String()
	}
	return etcd.New(etcd.Config{Endpoints: eps, Prefix: c.Prefix, TLS: c.tls, Username: c.User, Password: c.password, Log: log})
}

// read reads the files that the options name.
func (c *Config) read() error {
	if c.passFile != "" {
		b, err := os.ReadFile(c.passFile)
		if err != nil {
			return fmt.Errorf("--cluster-store-opt kv.passwordfile: %w", err)
		}
		if c.password = strings.TrimRight(string(b), "\r\n"); c.password == "" {
			return fmt.Errorf("--cluster-store-opt kv.passwordfile: %s is empty", c.passFile)
		}
	}
	if c.CAFile == "" && c.CertFile == "" {
		return nil
	}
	c.tls = &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CAFile != "" {
		b, err := os.ReadFile(c.CAFile)
		if err != nil {
			return fmt.Errorf("--cluster-store-opt kv.cacertfile: %w", err)
		}
		c.tls.RootCAs = x509.NewCertPool()
		if !c.tls.RootCAs.AppendCertsFromPEM(b) {
			return fmt.Errorf("--cluster-store-opt kv.cacertfile: %s holds no certificate", c.CAFile)
		}
	}
	if c.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
		if err != nil {
			return fmt.Errorf("--cluster-store-opt kv.certfile, kv.keyfile: %w", err)
		}
		c.tls.Certificates = []tls.Certificate{pair}
	}
	return nil
}

// Redact returns the URL as it may be shown: Parse lets no secret into one, but what was typed may hold one, and "@" in it.
func Redact(raw string) string {
	scheme, rest, ok := strings.Cut(raw, "://")
	if !ok {
		scheme, rest = "", raw
	} else {
		scheme += "://"
	}
	return scheme + rest[strings.LastIndex(rest, "@")+1:]
}
