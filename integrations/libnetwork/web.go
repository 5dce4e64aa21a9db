package libnetwork

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// web asks the HTTP API of a store, of the first endpoint that answers.
type web struct {
	endpoints []string
	scheme    string
	client    *http.Client
	authorize func(*http.Request)
}

const (
	connectWithin = 3 * time.Second
	answerWithin  = 20 * time.Second
)

func newWeb(s Source) web {
	tr := &http.Transport{
		TLSClientConfig: s.TLS, DialContext: (&net.Dialer{Timeout: connectWithin}).DialContext, TLSHandshakeTimeout: connectWithin,
		ResponseHeaderTimeout: answerWithin,
	}
	w := web{endpoints: s.Endpoints, scheme: "http", client: &http.Client{Transport: tr}, authorize: func(*http.Request) {}}
	if s.TLS != nil {
		w.scheme = "https"
	}
	switch {
	case s.User != "":
		w.authorize = func(r *http.Request) { r.SetBasicAuth(s.User, s.Password) }
	case s.Token != "":
		w.authorize = func(r *http.Request) { r.Header.Set("X-Consul-Token", s.Token) }
	}
	return w
}

func (w web) close() { w.client.CloseIdleConnections() }

// get returns the status and the body of the first endpoint that answers. path is escaped already.
func (w web) get(ctx context.Context, path string, query url.Values) (status int, body []byte, err error) {
	var errs []error
	for _, e := range w.endpoints {
		status, body, err := w.getFrom(ctx, e, path, query)
		if err == nil && status < http.StatusInternalServerError {
			return status, body, nil
		}
		if err == nil {
			err = fmt.Errorf("%s answers %d: %s", e, status, brief(body))
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	return 0, nil, errors.Join(errs...)
}

func (w web) getFrom(ctx context.Context, endpoint, path string, query url.Values) (int, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.scheme+"://"+endpoint+path+"?"+query.Encode(), nil)
	if err != nil {
		return 0, nil, err
	}
	w.authorize(req)
	resp, err := w.client.Do(req)
	if err != nil {
		return 0, nil, unreachable(endpoint, w.scheme, err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBytes+1))
	switch {
	case err != nil:
		return 0, nil, fmt.Errorf("%s: %w", endpoint, err)
	case resp.StatusCode == http.StatusBadRequest && w.scheme == "http" && strings.Contains(string(body), "HTTPS"):
		return 0, nil, plainHTTP(endpoint)
	case len(body) > maxBytes:
		return 0, nil, fmt.Errorf("%s: it holds more than %d MiB, which Docker never wrote", endpoint, maxBytes>>20)
	}
	return resp.StatusCode, body, nil
}

// unreachable says in few words what the HTTP client says in many.
func unreachable(endpoint, scheme string, err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	var plain tls.RecordHeaderError
	switch {
	case errors.As(err, &plain), errors.Is(err, http.ErrSchemeMismatch):
		return fmt.Errorf("%s does not speak TLS: leave the kv.… files out", endpoint)
	case scheme == "http" && strings.Contains(err.Error(), "malformed HTTP"):
		return plainHTTP(endpoint)
	}
	return fmt.Errorf("%s cannot be reached: %w", endpoint, err)
}

func plainHTTP(endpoint string) error {
	return fmt.Errorf("%s does not speak plain HTTP: if it wants TLS, give kv.cacertfile, and kv.certfile with kv.keyfile", endpoint)
}

// brief is an answer's first line, of a length for an error.
func brief(body []byte) string {
	line, _, _ := strings.Cut(strings.TrimSpace(string(body)), "\n")
	return fmt.Sprintf("%.200q", line)
}

// escape makes a path of a URL of a key's path.
func escape(path string) string {
	parts := strings.Split(path, "/")
	for i, p := range parts {
		parts[i] = url.PathEscape(p)
	}
	return strings.Join(parts, "/")
}
