package server

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
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

// makeIdentities makes a CA, a certificate for all members and one for clients, and the files with password and token.
func makeIdentities(dir string, hosts []string) error {
	id := identityIn(dir)
	ca := &x509.Certificate{
		Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	caKey, err := issue(ca, nil, nil, id.ca, id.caKey)
	if err != nil {
		return err
	}
	srv := &x509.Certificate{
		Subject: pkix.Name{CommonName: ServerName}, DNSNames: []string{ServerName, "localhost"}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, // etcd and Consul are clients of each other
	}
	for _, h := range append(hosts, "127.0.0.1") {
		srv.IPAddresses = append(srv.IPAddresses, net.ParseIP(h))
	}
	_, err = issue(srv, ca, caKey, id.serverCert, id.serverKey)
	_, err2 := issue(clientTemplate(), ca, caKey, id.clientCert, id.clientKey)
	return errors.Join(err, err2, os.WriteFile(id.password, []byte(Password+"\n"), 0o600), os.WriteFile(id.token, []byte(Token+"\n"), 0o600))
}

// clientTemplate names no user: etcd would take a certificate's common name for one.
func clientTemplate() *x509.Certificate {
	return &x509.Certificate{
		Subject: pkix.Name{CommonName: "client"}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
}

// issue signs a certificate (by itself without a parent) and writes it with its key.
func issue(c, parent *x509.Certificate, parentKey *ecdsa.PrivateKey, certFile, keyFile string) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	if parent == nil {
		parent, parentKey = c, key
	}
	c.SerialNumber = big.NewInt(time.Now().UnixNano())
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, parentKey)
	if err != nil {
		return nil, fmt.Errorf("make a certificate: %w", err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return key, errors.Join(
		os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644),
		os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}), 0o600))
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
