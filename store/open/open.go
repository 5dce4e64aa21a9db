// Package open turns a store's URL and options into a back end: one switch, no registration.
package open

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"

	"weft/store"
	"weft/store/consul"
	"weft/store/credential"
	"weft/store/etcd"
	"weft/store/zk"
)

// Options are what no URL says.
type Options struct {
	Dial func(ctx context.Context, network, address string) (net.Conn, error) // nil: from where this process is
	Log  *slog.Logger                                                         // nil: none
	// Certificate is what kv.certificate=host is made with; nil: this host has none.
	Certificate *tls.Config
}

// Open returns the back end. It does not wait for it to answer.
func Open(raw string, opts map[string]string, o Options) (store.Store, error) {
	c, err := Parse(raw, opts)
	if err != nil {
		return nil, err
	}
	return c.Open(o)
}

// Open returns the back end.
func (c Config) Open(o Options) (store.Store, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	id, err := c.identity(o.Log)
	if err != nil {
		return nil, err
	}
	if c.HostCertificate {
		if o.Certificate == nil {
			return nil, errors.New("--cluster-store-opt kv.certificate=host: this host has no certificate of its cluster; join first (`weft cluster token`, weftd --join)")
		}
		id.tls = refusing(o.Certificate)
	}
	c.warn(o.Log)
	switch c.Scheme {
	case "etcd":
		return etcd.New(etcd.Config{Endpoints: urls(c.Endpoints, id.tls != nil), Prefix: c.Prefix, TLS: id.tls, User: c.User, Password: id.password, Dial: o.Dial, Log: o.Log})
	case "consul":
		return consul.New(consul.Config{Endpoints: c.Endpoints, Prefix: c.Prefix, TLS: id.tls, Token: id.token, Dial: o.Dial, Log: o.Log})
	case "zk":
		return zk.New(zk.Config{Endpoints: c.Endpoints, Prefix: c.Prefix, TLS: id.tls, User: c.User, Password: id.password, Dial: o.Dial, Log: o.Log})
	}
	return nil, fmt.Errorf("no back end for %s://", c.Scheme)
}

// refusing makes a refusal of what is wrong with the server's certificate, as the back ends know it.
func refusing(c *tls.Config) *tls.Config {
	c = c.Clone()
	verify := c.VerifyConnection
	c.VerifyConnection = func(cs tls.ConnectionState) error {
		if err := verify(cs); err != nil {
			return fmt.Errorf("%w: the store's server: %w", store.ErrRefused, err)
		}
		return nil
	}
	return c
}

// urls are endpoints as etcd's client wants them: those alone tell it to use TLS.
func urls(endpoints []string, secure bool) []string {
	out := make([]string, len(endpoints))
	for i, e := range endpoints {
		u := url.URL{Scheme: "http", Host: e}
		if secure {
			u.Scheme = "https"
		}
		out[i] = u.String()
	}
	return out
}

// identity is what the files hold that the options name.
type identity struct {
	tls      *tls.Config
	password func() (string, error)
	token    func() (string, error)
}

// identity reads the files.
func (c Config) identity(log *slog.Logger) (identity, error) {
	var id identity
	var err error
	if c.secure() {
		id.tls, err = credential.TLS{
			CAFile: c.CAFile, CertFile: c.CertFile, KeyFile: c.KeyFile, ServerName: c.ServerName, Hosts: c.hosts(), Log: log,
		}.Config()
		if err != nil {
			return id, fmt.Errorf("--cluster-store-opt kv.cacertfile, kv.certfile, kv.keyfile: %w", err)
		}
	}
	if c.PasswordFile != "" {
		if id.password, err = credential.Secret(c.PasswordFile, log); err != nil {
			return id, fmt.Errorf("--cluster-store-opt kv.passwordfile: %w", err)
		}
	}
	if c.TokenFile != "" {
		if id.token, err = credential.Secret(c.TokenFile, log); err != nil {
			return id, fmt.Errorf("--cluster-store-opt kv.tokenfile: %w", err)
		}
	}
	return id, nil
}

func (c Config) secure() bool { return c.CAFile != "" || c.CertFile != "" }

func (c Config) hosts() []string {
	var out []string
	for _, e := range c.Endpoints {
		if host, _, err := net.SplitHostPort(e); err == nil {
			out = append(out, host)
		}
	}
	return out
}

// warn says what works and should not be left so. Files that everybody may read are no error: an orchestrator that mounts secrets sets
// modes as it likes, on a disk of its own.
func (c Config) warn(log *slog.Logger) {
	for opt, path := range map[string]string{"kv.keyfile": c.KeyFile, "kv.passwordfile": c.PasswordFile, "kv.tokenfile": c.TokenFile} {
		if path != "" && credential.Exposed(path) {
			log.Warn("every user of this machine may read a secret of the cluster store: chmod o-r", "option", opt, "file", path)
		}
	}
	if !c.secure() && !c.HostCertificate && (c.PasswordFile != "" || c.TokenFile != "") {
		log.Warn("the secret goes to the cluster store in clear: give kv.cacertfile to use TLS")
	}
}
