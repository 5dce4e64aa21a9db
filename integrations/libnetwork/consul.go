package libnetwork

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
)

// consul is Consul's KV store. Its HTTP API is asked directly: two kinds of GET are all that is needed.
type consul struct{ web }

type consulPair struct {
	Key   string
	Value []byte // base64 in the answer
}

// tree is one answer of the leader: all keys as they were together.
func (c *consul) tree(ctx context.Context, dir string) (Tree, error) {
	body, err := c.list(ctx, dir, url.Values{"recurse": {"true"}, "consistent": {"true"}})
	if err != nil {
		return nil, err
	}
	return parseConsul(body, dir)
}

func parseConsul(body []byte, dir string) (Tree, error) {
	var pairs []consulPair
	if err := json.Unmarshal(body, &pairs); err != nil {
		return nil, fmt.Errorf("it does not answer as Consul does: %w", err)
	}
	t := Tree{}
	for _, p := range pairs {
		if err := t.put(within(clean(dir), p.Key), p.Value); err != nil {
			return nil, err
		}
	}
	return t, nil
}

func (c *consul) names(ctx context.Context, dir string) ([]string, error) {
	body, err := c.list(ctx, dir, url.Values{"keys": {"true"}, "separator": {"/"}, "consistent": {"true"}})
	if err != nil {
		return nil, err
	}
	var keys []string
	if err := json.Unmarshal(body, &keys); err != nil {
		return nil, fmt.Errorf("it does not answer as Consul does: %w", err)
	}
	for i, k := range keys {
		keys[i] = lastPart(k)
	}
	slices.Sort(keys)
	return slices.Compact(keys), nil
}

func (c *consul) list(ctx context.Context, dir string, query url.Values) ([]byte, error) {
	if dir != "" {
		dir += "/"
	}
	status, body, err := c.get(ctx, "/v1/kv/"+escape(dir), query)
	switch {
	case err != nil:
		return nil, err
	case status == http.StatusNotFound && len(body) == 0:
		return nil, errNothing
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return nil, fmt.Errorf("it refuses: %s; give --from-opt kv.tokenfile=…", brief(body))
	case status != http.StatusOK:
		return nil, fmt.Errorf("it does not answer as Consul does: %d %s", status, brief(body))
	}
	return body, nil
}
