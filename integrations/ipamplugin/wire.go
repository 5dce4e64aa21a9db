package ipamplugin

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

// mediaType is of protocol version 1.2, as Docker asks.
const mediaType = "application/vnd.docker.plugins.v1.2+json"

// wire is how a plugin is reached.
type wire struct {
	client *http.Client
	scheme string
}

func newWire(at place) (*wire, error) {
	t := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			c, err := (&net.Dialer{}).DialContext(ctx, at.network, at.address)
			if err != nil {
				return nil, &unbegun{err}
			}
			return c, nil
		},
		DisableKeepAlives:      true, // one that the plugin ends while a call is sent on it would leave the call in doubt
		MaxResponseHeaderBytes: 64 << 10, DisableCompression: true,
	}
	w := &wire{client: &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}, scheme: "http"}
	if at.tls == nil {
		return w, nil
	}
	cfg, err := at.tls.config(at.address)
	if err != nil {
		return nil, err
	}
	t.TLSClientConfig, w.scheme = cfg, "https"
	return w, nil
}

func (f *tlsFiles) config(address string) (*tls.Config, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		host = "plugin"
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: host, InsecureSkipVerify: f.InsecureSkipVerify} //nolint:gosec // the administrator's word, as with Docker
	if f.CAFile != "" {
		pem, err := os.ReadFile(f.CAFile)
		if err != nil {
			return nil, fmt.Errorf("read its CAFile: %w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("its CAFile %s has no certificate", f.CAFile)
		}
	}
	if f.CertFile == "" && f.KeyFile == "" {
		return cfg, nil
	}
	pair, err := tls.LoadX509KeyPair(f.CertFile, f.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("read its CertFile and KeyFile: %w", err)
	}
	cfg.Certificates = []tls.Certificate{pair}
	return cfg, nil
}

// unbegun marks an error from before anything was sent: the call can be made again without harm.
type unbegun struct{ err error }

func (u *unbegun) Error() string { return u.err.Error() }
func (u *unbegun) Unwrap() error { return u.err }

// repeat says whether a call whose outcome is not known may be made again.
type repeat bool

const (
	once  repeat = false // it gives something out, which would be lost
	again repeat = true
)

// call asks the plugin. What could not be begun is begun again until Patience ends, as Docker does: a plugin may be starting.
func (p *Plugin) call(ctx context.Context, method string, in, out any, may repeat) error {
	body := []byte{}
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return fmt.Errorf("IPAM plugin %s: %s: %w", p.name, method, err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	pause := firstPause
	for {
		err := p.try(ctx, method, body, out)
		var not *unbegun
		var doubt *DoubtError
		begun := !errors.As(err, &not)
		if err == nil || ctx.Err() != nil || begun && (may == once || !errors.As(err, &doubt)) {
			return p.explain(ctx, method, err, begun)
		}
		select {
		case <-time.After(pause):
			pause = min(2*pause, lastPause)
		case <-ctx.Done():
			return p.explain(ctx, method, err, begun)
		}
	}
}

// explain says what became of a call that failed.
func (p *Plugin) explain(ctx context.Context, method string, err error, begun bool) error {
	var refused *Refusal
	switch {
	case err == nil, errors.As(err, &refused):
		return err
	case !begun:
		return fmt.Errorf("IPAM plugin %s: %s: it cannot be reached: %w", p.name, method, err)
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		err = fmt.Errorf("it has not answered in time: %w", ctx.Err())
	}
	var doubt *DoubtError
	if errors.As(err, &doubt) {
		return err
	}
	return &DoubtError{Plugin: p.name, Call: method, Err: err}
}

func (p *Plugin) try(ctx context.Context, method string, body []byte, out any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.wire.scheme+"://plugin/"+method, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Accept", mediaType)
	req.Header.Set("Content-Type", mediaType)
	resp, err := p.wire.client.Do(req)
	if err != nil {
		return &DoubtError{Plugin: p.name, Call: method, Err: err}
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxReply+1))
	if err != nil {
		return &DoubtError{Plugin: p.name, Call: method, Err: err}
	}
	return parseReply(p.name, method, resp.StatusCode, raw, out)
}

// parseReply reads an answer into out. An answer that is an error, in any of the ways in which plugins say so, is a *Refusal; one that cannot be
// read is a *DoubtError.
func parseReply(plugin, method string, code int, raw []byte, out any) error {
	doubt := func(format string, args ...any) error {
		return &DoubtError{Plugin: plugin, Call: method, Err: fmt.Errorf(format, args...)}
	}
	if len(raw) > maxReply {
		return doubt("the answer has more than %d bytes", maxReply)
	}
	var said struct{ Error, Err string }
	err := json.Unmarshal(raw, &said)
	switch why := said.Error + said.Err; {
	case err == nil && why != "":
		return &Refusal{plugin, method, plain(why)}
	case code != http.StatusOK:
		return &Refusal{plugin, method, fmt.Sprintf("status %d: %s", code, plain(string(raw)))}
	case err != nil:
		return doubt("the answer is no JSON: %w", err)
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return doubt("the answer has another form: %w", err)
	}
	return nil
}

// plain makes a text of a plugin's fit an error of one line.
func plain(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s[:min(len(s), maxText)], "?"))
	return strings.TrimSpace(s)
}
