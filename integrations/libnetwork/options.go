package libnetwork

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
)

// files are what the options name; their content is read once, for an import takes seconds.
type files struct{ ca, cert, key, password, token, serverName string }

func (s *Source) options(opts map[string]string) error {
	var f files
	for _, k := range slices.Sorted(maps.Keys(opts)) {
		v := opts[k]
		switch k {
		case "kv.cacertfile":
			f.ca = v
		case "kv.certfile":
			f.cert = v
		case "kv.keyfile":
			f.key = v
		case "kv.servername":
			f.serverName = v
		case "kv.user":
			s.User = v
		case "kv.passwordfile":
			f.password = v
		case "kv.tokenfile":
			f.token = v
		case "kv.path": // of Docker's discovery, and not of its networks: but who gives it may mean it so
			s.Path = clean(v)
		case "discovery.heartbeat", "discovery.ttl": // of a running dockerd
		default:
			return fmt.Errorf("unknown --from-opt %s: known are kv.cacertfile, kv.certfile, kv.keyfile, kv.passwordfile, kv.path, kv.servername, kv.tokenfile and kv.user", k)
		}
	}
	switch {
	case (f.cert == "") != (f.key == ""):
		return errors.New("--from-opt kv.certfile and kv.keyfile go together: one of them is missing")
	case (s.User == "") != (f.password == ""):
		return errors.New("--from-opt kv.user and kv.passwordfile go together: one of them is missing")
	case s.User != "" && s.Scheme == "consul":
		return errors.New("--from-opt kv.user: Consul knows tokens and no users; use kv.tokenfile")
	case f.token != "" && s.Scheme != "consul":
		return errors.New("--from-opt kv.tokenfile: only Consul knows tokens; use kv.user and kv.passwordfile")
	}
	var err, err2 error
	s.Password, err = secret("kv.passwordfile", f.password)
	s.Token, err2 = secret("kv.tokenfile", f.token)
	if err := errors.Join(err, err2); err != nil {
		return err
	}
	s.TLS, err = f.tls()
	return err
}

func secret(option, file string) (string, error) {
	if file == "" {
		return "", nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("--from-opt %s: %w", option, err)
	}
	out := strings.TrimRight(string(b), "\r\n")
	if out == "" {
		return "", fmt.Errorf("--from-opt %s: %s is empty", option, file)
	}
	return out, nil
}

// tls is nil where no option is about it. Half-given options are refused before.
func (f files) tls() (*tls.Config, error) {
	if f.ca == "" && f.cert == "" {
		if f.serverName != "" {
			return nil, errors.New("--from-opt kv.servername is for TLS: add kv.cacertfile")
		}
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: f.serverName}
	if f.ca != "" {
		b, err := os.ReadFile(f.ca)
		if err != nil {
			return nil, fmt.Errorf("--from-opt kv.cacertfile: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(b) {
			return nil, fmt.Errorf("--from-opt kv.cacertfile: %s holds no certificate", f.ca)
		}
	}
	if f.cert != "" {
		pair, err := tls.LoadX509KeyPair(f.cert, f.key)
		if err != nil {
			return nil, fmt.Errorf("--from-opt kv.certfile, kv.keyfile: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}
