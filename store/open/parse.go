package open

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Config is a parsed URL with its options.
type Config struct {
	Scheme    string
	Endpoints []string // HOST:PORT
	Prefix    string

	CAFile, CertFile, KeyFile string
	ServerName                string
	HostCertificate           bool // this host's own certificate, and its cluster's authority, stand for the files
	User, PasswordFile        string
	TokenFile                 string

	TTL       time.Duration // of the host's session; a back end raises it to its floor
	Heartbeat time.Duration // between its renewals; 0: a third of what the back end grants
}

const defaultPrefix = "weft"

// scheme is what differs between the back ends' URLs.
type scheme struct {
	port  string
	title string
	token bool // authentication is by a token, and not by user and password
}

var schemes = map[string]scheme{
	"etcd":   {port: "2379", title: "etcd"},
	"consul": {port: "8500", title: "Consul", token: true},
	"zk":     {port: "2181", title: "ZooKeeper"},
}

// supported are the URLs that Open knows.
const supported = "etcd://, consul:// or zk:// and HOST[:PORT][,HOST[:PORT]…][/PREFIX], and embedded"

// Parse checks a URL and its options without touching anything but the files that they name. No error shows a secret.
func Parse(raw string, opts map[string]string) (Config, error) {
	var c Config
	var err error
	if c.Scheme, c.Endpoints, c.Prefix, err = parseURL(raw); err != nil {
		return c, err
	}
	given, err := parseOptions(opts)
	if err != nil {
		return c, err
	}
	if err := given.suit(c.Scheme); err != nil {
		return c, err
	}
	if c.Prefix, err = prefix(c.Prefix, given.path); err != nil {
		return c, fmt.Errorf("cluster store %s: %w", Redact(raw), err)
	}
	c.CAFile, c.CertFile, c.KeyFile, c.ServerName = given.ca, given.cert, given.key, given.serverName
	c.User, c.PasswordFile, c.TokenFile = given.user, given.passwordFile, given.tokenFile
	c.HostCertificate = given.certificate == hostCertificate
	c.TTL, c.Heartbeat = given.ttl, given.heartbeat
	_, err = c.identity(slog.New(slog.DiscardHandler))
	return c, err
}

func parseURL(raw string) (name string, endpoints []string, path string, err error) {
	shown := Redact(raw)
	name, rest, ok := strings.Cut(raw, "://")
	if !ok {
		return "", nil, "", fmt.Errorf("cluster store %q is no URL: supported are %s", shown, supported)
	}
	s, ok := schemes[name]
	if !ok {
		return "", nil, "", fmt.Errorf("unknown cluster store scheme %q: supported are %s", Redact(name), supported)
	}
	if strings.Contains(rest, "@") {
		want := "kv.user=… and kv.passwordfile=…"
		if s.token {
			want = "kv.tokenfile=…"
		}
		return "", nil, "", errors.New("the cluster store's URL must not hold a password: use --cluster-store-opt " + want)
	}
	if strings.Contains(rest, "?") { // whatever it is, it is not shown: elsewhere passwords stand there
		return "", nil, "", errors.New("the cluster store's URL takes nothing after a question mark: options are given with --cluster-store-opt")
	}
	hosts, path, _ := strings.Cut(rest, "/")
	for h := range strings.SplitSeq(hosts, ",") {
		ep, err := endpoint(h, s.port)
		if err != nil {
			return "", nil, "", fmt.Errorf("cluster store %q: %w", shown, err)
		}
		if slices.Contains(endpoints, ep) {
			return "", nil, "", fmt.Errorf("cluster store %q: %s is given twice", shown, ep)
		}
		endpoints = append(endpoints, ep)
	}
	return name, endpoints, strings.Trim(path, "/"), nil
}

// prefix is the one that the URL has, or kv.path, or "weft".
func prefix(inURL, path string) (string, error) {
	p := inURL
	switch {
	case p == "" && path == "":
		p = defaultPrefix
	case p == "":
		p = path
	case path != "" && path != p:
		return "", fmt.Errorf("the URL's prefix %q and kv.path=%s differ: give one of them", p, path)
	}
	bad := func(r rune) bool { return strings.ContainsRune("?#%@\\", r) || r <= ' ' || !unicode.IsPrint(r) }
	if strings.ContainsFunc(p, bad) || !utf8.ValidString(p) {
		return "", fmt.Errorf("the prefix %q must be a plain path", p)
	}
	for level := range strings.SplitSeq(p, "/") {
		if level == "" || level == "." || level == ".." { // ZooKeeper has no such nodes, and Consul's client takes them away
			return "", fmt.Errorf("the prefix %q must be a plain path: it has a level %q", p, level)
		}
	}
	return p, nil
}

func endpoint(s, defaultPort string) (string, error) {
	if s == "" {
		return "", errors.New("an endpoint is empty: it must be HOST or HOST:PORT")
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		host, port = s, defaultPort
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

// Redact returns the URL as it may be shown: Parse lets no secret into one, but what was typed may hold one, and "@" in it.
func Redact(raw string) string {
	scheme, rest, ok := strings.Cut(raw, "://")
	if !ok {
		scheme, rest = "", raw
	} else {
		scheme += "://"
	}
	rest, _, _ = strings.Cut(rest[strings.LastIndex(rest, "@")+1:], "?") // where others take a password, too
	return scheme + rest
}
