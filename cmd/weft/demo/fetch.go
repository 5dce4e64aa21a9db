package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"
)

const (
	requestTime   = 5 * time.Second
	requestPause  = time.Millisecond
	connectedLine = "connected"
)

// client makes requests by names that Go's own resolver finds with the sandbox's /etc/resolv.conf.
type client struct {
	http.Client
	dialed atomic.Int64
	peer   atomic.Value // string: the address that was connected to last
}

func newClient(keepAlive bool) *client {
	c := &client{}
	d := &net.Dialer{Timeout: requestTime, Resolver: &net.Resolver{PreferGo: true}}
	c.Client = http.Client{Timeout: requestTime, Transport: &http.Transport{
		DisableKeepAlives: !keepAlive,
		MaxConnsPerHost:   1,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := d.DialContext(ctx, network, addr)
			if err == nil {
				c.dialed.Add(1)
				c.peer.Store(conn.RemoteAddr().String())
			}
			return conn, err
		},
	}}
	return c
}

// get returns the answer's first line.
func (c *client) get(ctx context.Context, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	r, err := c.Do(req)
	if err != nil {
		return "", err
	}
	body, err := io.ReadAll(r.Body)
	if err = errors.Join(err, r.Body.Close()); err != nil {
		return "", err
	}
	line, _, _ := strings.Cut(string(body), "\n")
	return line, nil
}

// Fetch gets each URL once, with a lookup and a connection of its own, and prints who answered.
func Fetch(ctx context.Context, out io.Writer, urls []string) error {
	c := newClient(false)
	for _, u := range urls {
		line, err := c.get(ctx, u)
		if err != nil {
			return err
		}
		host, _, _ := net.SplitHostPort(c.peer.Load().(string))
		if _, err := fmt.Fprintf(out, "%-12s is %-10s and says: %s\n", u, host, line); err != nil {
			return err
		}
	}
	return nil
}

// FetchSteadily makes requests over one connection, one after the other, for a time, and prints what became of them. A request that gets
// no answer, or needs another connection, is lost; a loss is an error.
func FetchSteadily(ctx context.Context, out io.Writer, url string, during time.Duration) error {
	c := newClient(true)
	var sent, lost int
	var slowest time.Duration
	var why error
	for end := time.Now().Add(during); time.Now().Before(end); {
		began := time.Now()
		_, err := c.get(ctx, url)
		slowest = max(slowest, time.Since(began))
		if ctx.Err() != nil {
			break
		}
		if sent++; err != nil {
			lost++
			why = err
		}
		if sent == 1 {
			fmt.Fprintln(out, connectedLine)
		}
		select {
		case <-time.After(requestPause):
		case <-ctx.Done():
		}
	}
	fmt.Fprintf(out, "%d requests over one connection to %v, lost = %d, slowest %s\n", sent, c.peer.Load(), lost, shown(slowest))
	switch n := c.dialed.Load(); {
	case lost > 0:
		return fmt.Errorf("lost %d of %d requests: %w", lost, sent, why)
	case n != 1:
		return fmt.Errorf("%d connections were needed instead of one", n)
	}
	return nil
}
