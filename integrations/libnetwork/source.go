package libnetwork

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
)

// Source is where Docker's tree is, and how to get there.
type Source struct {
	Scheme    string   // etcd2, consul or zk
	Endpoints []string // HOST:PORT
	Prefix    string   // the path of the --cluster-store URL
	Path      string   // kv.path, where the tree is looked for in the second place
	TLS       *tls.Config
	User      string // with Password: etcd's or ZooKeeper's
	Password  string
	Token     string // Consul's
}

// defaultPorts are the stores' own, by scheme.
var defaultPorts = map[string]string{"etcd2": "2379", "consul": "8500", "zk": "2181"}

const supported = "etcd2://HOST:PORT[,HOST:PORT…][/PREFIX], consul://… and zk://…"

// ParseSource reads the URL, as it was given to dockerd but for etcd's scheme, and the options, as --cluster-store-opt had them. It touches
// nothing but the files that they name. No error shows a password.
func ParseSource(raw string, opts map[string]string) (Source, error) {
	var s Source
	scheme, rest, ok := strings.Cut(raw, "://")
	if strings.Contains(rest, "@") {
		return s, errors.New("the URL of the old store must not hold a password: use --from-opt kv.user=… and kv.passwordfile=…")
	}
	switch {
	case !ok:
		return s, fmt.Errorf("%q is no URL of a store: supported are %s", raw, supported)
	case scheme == "etcd":
		return s, fmt.Errorf("etcd:// is etcd's v3 API, and Docker kept its networks in the v2 API, which is apart from it: write etcd2://%s", rest)
	case defaultPorts[scheme] == "":
		return s, fmt.Errorf("unknown scheme %q of the old store: supported are %s", scheme, supported)
	}
	s.Scheme = scheme
	hosts, path, _ := strings.Cut(rest, "/")
	for h := range strings.SplitSeq(hosts, ",") {
		e, err := endpointAddr(h, defaultPorts[scheme])
		if err != nil {
			return s, fmt.Errorf("the old store %q: %w", raw, err)
		}
		s.Endpoints = append(s.Endpoints, e)
	}
	s.Prefix = clean(path)
	return s, s.options(opts)
}

func endpointAddr(s, defaultPort string) (string, error) {
	u, err := url.Parse("any://" + s)
	if s == "" || err != nil || u.Host != s || u.Hostname() == "" || strings.Contains(u.Hostname(), ":") != strings.HasPrefix(s, "[") {
		return "", fmt.Errorf("%q is not HOST:PORT", s)
	}
	port := u.Port()
	if port == "" {
		port = defaultPort
	}
	return net.JoinHostPort(u.Hostname(), port), nil
}

// String names the source for the user.
func (s Source) String() string {
	out := s.Scheme + "://" + strings.Join(s.Endpoints, ",")
	if s.Prefix != "" {
		out += "/" + s.Prefix
	}
	return out
}
