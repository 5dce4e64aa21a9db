package zk

import (
	"context"
	"io"
	"strings"
	"time"

	"weft/store"
)

// statusWait is how long a server has to say what it is.
const statusWait = time.Second

// maxStatus is more than a server says of itself.
const maxStatus = 16 << 10

// Status asks the tree for its history, and each server what it is, as far as its four-letter words are allowed (srvr is by default).
func (s *Store) Status(ctx context.Context) (store.Status, error) {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	out := store.Status{Backend: "zookeeper", Endpoints: s.cfg.Endpoints}
	l, err := s.data.link(ctx)
	if err != nil {
		return out, err
	}
	begin := time.Now()
	if err = l.sync(ctx, s.root); err == nil {
		out.Latency = time.Since(begin)
		out.ClusterID, err = s.history(ctx, l)
	}
	if err != nil {
		return out, s.readError(l, "ask for status", err)
	}
	out.Rev = store.Rev(l.wire.zxid.Load())
	said := make([]string, len(s.cfg.Endpoints))
	_ = each(ctx, len(said), func(ctx context.Context, i int) error {
		said[i], _ = s.word(ctx, s.cfg.Endpoints[i], "srvr") // who does not answer is not known
		return nil
	})
	for i, text := range said {
		version, mode := parseServer(text)
		if out.Version == "" || s.cfg.Endpoints[i] == l.endpoint && version != "" {
			out.Version = version
		}
		if mode == "leader" || mode == "standalone" {
			out.Leader = s.cfg.Endpoints[i]
		}
	}
	return out, nil
}

// word sends a four-letter word to a server.
func (s *Store) word(ctx context.Context, endpoint, word string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, statusWait)
	defer cancel()
	c, err := s.dial(ctx, endpoint)
	if err != nil {
		return "", err
	}
	defer func() { _ = c.Close() }()
	deadline, _ := ctx.Deadline()
	if err := c.SetDeadline(deadline); err != nil {
		return "", err
	}
	if _, err := io.WriteString(c, word); err != nil {
		return "", err
	}
	text, err := io.ReadAll(io.LimitReader(c, maxStatus))
	return string(text), err
}

// parseServer finds "Zookeeper version: 3.8.0-<revision>, built on …" and "Mode: …".
func parseServer(text string) (version, mode string) {
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		switch name {
		case "Zookeeper version":
			version, _, _ = strings.Cut(value, "-")
			version, _, _ = strings.Cut(version, ",")
		case "Mode":
			mode = value
		}
	}
	return version, mode
}
