package open

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The session's time to live: 15 s unless discovery.ttl says otherwise, and never less than etcd grants reliably.
const (
	defaultTTL = 15 * time.Second
	minTTL     = 3 * time.Second
	maxTTL     = time.Hour
)

// options are the values of --cluster-store-opt.
type options struct {
	ca, cert, key, serverName     string
	path                          string
	user, passwordFile, tokenFile string
	certificate                   string
	ttl, heartbeat                time.Duration
}

// takers put an option's value in its place.
var takers = map[string]func(o *options, v string) error{
	"kv.cacertfile":       func(o *options, v string) error { return name(&o.ca, v) },
	"kv.certfile":         func(o *options, v string) error { return name(&o.cert, v) },
	"kv.keyfile":          func(o *options, v string) error { return name(&o.key, v) },
	"kv.certificate":      func(o *options, v string) error { return oneOf(&o.certificate, v, hostCertificate) },
	"kv.servername":       func(o *options, v string) error { return server(&o.serverName, v) },
	"kv.path":             func(o *options, v string) error { return name(&o.path, strings.Trim(v, "/")) },
	"kv.user":             func(o *options, v string) error { return name(&o.user, v) },
	"kv.passwordfile":     func(o *options, v string) error { return name(&o.passwordFile, v) },
	"kv.tokenfile":        func(o *options, v string) error { return name(&o.tokenFile, v) },
	"discovery.ttl":       func(o *options, v string) error { return seconds(&o.ttl, v) },
	"discovery.heartbeat": func(o *options, v string) error { return seconds(&o.heartbeat, v) },
}

// Names are all options, sorted.
func Names() []string { return slices.Sorted(maps.Keys(takers)) }

// Timing returns what the options say about a host's session: for how long it outlives its host, and how often that renews it (0: as often
// as is usual for what the back end grants).
func Timing(opts map[string]string) (ttl, heartbeat time.Duration, err error) {
	o, err := parseOptions(opts)
	return o.ttl, o.heartbeat, err
}

func parseOptions(opts map[string]string) (options, error) {
	o := options{ttl: defaultTTL}
	for _, k := range slices.Sorted(maps.Keys(opts)) {
		take, ok := takers[k]
		if !ok {
			return o, fmt.Errorf("unknown --cluster-store-opt %s: known are %s", k, strings.Join(Names(), ", "))
		}
		if err := take(&o, opts[k]); err != nil {
			return o, fmt.Errorf("--cluster-store-opt %s=%s: %w", k, opts[k], err)
		}
	}
	return o, o.check()
}

// hostCertificate is the value of kv.certificate: the one that the cluster's authority has given to this host.
const hostCertificate = "host"

// check refuses what is half given, on any back end.
func (o options) check() error {
	switch {
	case o.ttl < minTTL || o.ttl > maxTTL:
		return fmt.Errorf("--cluster-store-opt discovery.ttl=%d: it must be from %d to %d seconds", o.ttl/time.Second, minTTL/time.Second, maxTTL/time.Second)
	case o.heartbeat >= o.ttl:
		return fmt.Errorf("--cluster-store-opt discovery.heartbeat=%d: it must be less than discovery.ttl (%d)", o.heartbeat/time.Second, o.ttl/time.Second)
	case (o.cert == "") != (o.key == ""):
		return errors.New("--cluster-store-opt kv.certfile and kv.keyfile go together: one of them is missing")
	case o.certificate != "" && (o.ca != "" || o.cert != "" || o.serverName != ""):
		return errors.New("--cluster-store-opt kv.certificate=host goes with none of kv.cacertfile, kv.certfile, kv.keyfile and kv.servername: the cluster's authority stands for them")
	case o.serverName != "" && o.ca == "" && o.cert == "":
		return errors.New("--cluster-store-opt kv.servername is for TLS, which is not used without kv.cacertfile or kv.certfile and kv.keyfile")
	}
	return nil
}

// suit refuses what the back end of a URL could not use: it would be used less safely than its user believes.
func (o options) suit(name string) error {
	s := schemes[name]
	switch {
	case s.token && o.user != "":
		return fmt.Errorf("--cluster-store-opt kv.user: %s has no users with passwords, give kv.tokenfile", s.title)
	case s.token && o.passwordFile != "":
		return fmt.Errorf("--cluster-store-opt kv.passwordfile: %s has no users with passwords, give kv.tokenfile", s.title)
	case !s.token && o.tokenFile != "":
		return fmt.Errorf("--cluster-store-opt kv.tokenfile: %s takes no token, give kv.user and kv.passwordfile", s.title)
	case o.certificate != "" && name != "etcd":
		return fmt.Errorf("--cluster-store-opt kv.certificate=host is for an etcd that an agent embeds, and not for %s", s.title)
	case (o.user == "") != (o.passwordFile == ""):
		return errors.New("--cluster-store-opt kv.user and kv.passwordfile go together: one of them is missing")
	}
	return nil
}

var errEmpty = errors.New("it must not be empty")

func name(to *string, v string) error {
	if *to = v; v == "" {
		return errEmpty
	}
	return nil
}

func server(to *string, v string) error {
	*to = v
	if _, err := netip.ParseAddr(v); err != nil && !hostname(v) {
		return errors.New("it must be a host's name or address")
	}
	return nil
}

func oneOf(to *string, v, only string) error {
	if *to = v; v != only {
		return fmt.Errorf("it can be %s", only)
	}
	return nil
}

func seconds(to *time.Duration, s string) error {
	n, err := strconv.Atoi(s)
	if err != nil || n <= 0 || n > int(maxTTL/time.Second) {
		return fmt.Errorf("it must be a number of seconds from 1 to %d", maxTTL/time.Second)
	}
	*to = time.Duration(n) * time.Second
	return nil
}
