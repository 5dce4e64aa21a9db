package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
)

// User and Password are those of a secure cluster's one user; Token is Consul's.
const (
	User     = "root"
	Password = "a-password-that-nobody-must-see"
	Token    = "d0c5e7a4-3f0b-4e0e-9c1a-70ce7a4d0c5e"
)

// ServerName is in the servers' certificates beside their addresses.
const ServerName = "store.example"

// identity is a secure cluster's certificates, as files in PEM.
type identity struct {
	ca, caKey, serverCert, serverKey, clientCert, clientKey, password, token string
}

func identityIn(dir string) *identity {
	at := func(name string) string { return filepath.Join(dir, name) }
	return &identity{
		ca: at("ca.pem"), caKey: at("ca-key.pem"), serverCert: at("server.pem"), serverKey: at("server-key.pem"),
		clientCert: at("client.pem"), clientKey: at("client-key.pem"), password: at("password"), token: at("token"),
	}
}

// identity is nil for a cluster that is not secure.
func (c *Cluster) identity() *identity {
	if !c.opts.Secure {
		return nil
	}
	return identityIn(c.opts.Dir)
}

func (c *Cluster) identityOpts() map[string]string {
	id := c.identity()
	out := map[string]string{"kv.cacertfile": id.ca, "kv.certfile": id.clientCert, "kv.keyfile": id.clientKey}
	switch c.Kind {
	case Consul:
		out["kv.tokenfile"] = id.token
	default:
		out["kv.user"], out["kv.passwordfile"] = User, id.password
	}
	return out
}

// makeIdentities makes the certificates, and the files with password and token.
func makeIdentities(dir string, hosts []string) error {
	id := identityIn(dir)
	return errors.Join(
		id.certify(hosts), replace(id.password, []byte(Password+"\n"), 0o600), replace(id.token, []byte(Token+"\n"), 0o600))
}

// certify makes a CA, a certificate for all members and one for clients.
func (id *identity) certify(hosts []string) error {
	ca, err := NewAuthority()
	if err != nil {
		return err
	}
	srv := ServerCertificate(append(hosts, ServerName, "localhost", "127.0.0.1")...)
	srv.ExtKeyUsage = append(srv.ExtKeyUsage, x509.ExtKeyUsageClientAuth) // etcd and Consul are clients of each other
	server, err := ca.Issue(srv)
	if err != nil {
		return err
	}
	client, err := ca.Issue(ClientCertificate())
	if err != nil {
		return err
	}
	return errors.Join(
		replace(id.ca, ca.Cert, 0o644), replace(id.caKey, ca.Key, 0o600),
		replace(id.serverCert, server.Cert, 0o644), replace(id.serverKey, server.Key, 0o600),
		replace(id.clientCert, client.Cert, 0o644), replace(id.clientKey, client.Key, 0o600))
}

// replace writes a file so that who reads it finds the old content or the new one, whole.
func replace(path string, content []byte, mode os.FileMode) error {
	if err := os.WriteFile(path+".new", content, mode); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// Rotate gives a secure cluster, and its clients' files, a new CA and new certificates, and starts all members again.
func (c *Cluster) Rotate(ctx context.Context) error {
	id := c.identity()
	if id == nil {
		return errors.New("this cluster has no certificates")
	}
	for _, m := range c.Members {
		if err := m.Kill(); err != nil {
			return err
		}
	}
	if err := id.certify(c.hosts()); err != nil {
		return err
	}
	for _, m := range c.Members {
		if err := m.Start(); err != nil {
			return err
		}
	}
	return c.Wait(ctx)
}

// Authority are the certificate and the key of the CA that signs a secure cluster's certificates.
func (c *Cluster) Authority() (*Authority, error) {
	id := c.identity()
	if id == nil {
		return nil, errors.New("this cluster has no certificates")
	}
	cert, err := os.ReadFile(id.ca)
	key, err2 := os.ReadFile(id.caKey)
	if err := errors.Join(err, err2); err != nil {
		return nil, err
	}
	return AuthorityOf(Pair{Cert: cert, Key: key})
}

// clientTLS is a plain client's.
func (id *identity) clientTLS() (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(id.clientCert, id.clientKey)
	if err != nil {
		return nil, err
	}
	raw, err := os.ReadFile(id.ca)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(raw)
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool, Certificates: []tls.Certificate{pair}}, nil
}
