package libnetwork

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
)

// etcd2 is etcd's v2 API, which servers up to 3.5 have, from 3.4 on with --enable-v2.
type etcd2 struct{ web }

// etcdAnswer is what it answers to a get (etcd's v2 API documentation).
type etcdAnswer struct {
	Node      *etcdNode `json:"node"`
	ErrorCode int       `json:"errorCode"`
	Message   string    `json:"message"`
}

type etcdNode struct {
	Key   string     `json:"key"`
	Value string     `json:"value"`
	Dir   bool       `json:"dir"`
	Nodes []etcdNode `json:"nodes"`
}

const (
	etcdKeyNotFound = 100
	maxDepth        = 64
)

// tree is one answer: all keys as they were together, by quorum.
func (e *etcd2) tree(ctx context.Context, dir string) (Tree, error) {
	node, err := e.node(ctx, dir, url.Values{"recursive": {"true"}, "quorum": {"true"}})
	if err != nil {
		return nil, err
	}
	t := Tree{}
	return t, node.collect(t, clean(dir), 0)
}

func (e *etcd2) names(ctx context.Context, dir string) ([]string, error) {
	node, err := e.node(ctx, dir, url.Values{"quorum": {"true"}})
	if err != nil {
		return nil, err
	}
	var out []string
	for _, n := range node.Nodes {
		out = append(out, lastPart(n.Key))
	}
	slices.Sort(out)
	return out, nil
}

func (e *etcd2) node(ctx context.Context, dir string, query url.Values) (*etcdNode, error) {
	status, body, err := e.get(ctx, "/v2/keys/"+escape(dir), query)
	if err != nil {
		return nil, err
	}
	return parseEtcd(status, body)
}

func parseEtcd(status int, body []byte) (*etcdNode, error) {
	var a etcdAnswer
	err := json.Unmarshal(body, &a)
	switch {
	case status == http.StatusNotFound && a.ErrorCode == etcdKeyNotFound:
		return nil, errNothing
	case status == http.StatusNotFound:
		return nil, fmt.Errorf("this server has no v2 API: if it is an etcd of 3.4 or 3.5, start it with --enable-v2; if Docker's is another one, name that")
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return nil, fmt.Errorf("it refuses: %s; give --from-opt kv.user=… and kv.passwordfile=…", brief([]byte(a.Message)))
	case status != http.StatusOK:
		return nil, fmt.Errorf("it does not answer as etcd does: %d %s", status, brief(body))
	case err != nil:
		return nil, fmt.Errorf("it does not answer as etcd does: %w", err)
	case a.Node == nil:
		return nil, fmt.Errorf("it does not answer as etcd does: %s", brief(body))
	}
	return a.Node, nil
}

// collect takes a node's values over, with their paths below dir.
func (n *etcdNode) collect(t Tree, dir string, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("%s: more than %d directories within each other", n.Key, maxDepth)
	}
	if !n.Dir {
		return t.put(within(dir, n.Key), []byte(n.Value))
	}
	for i := range n.Nodes {
		if err := n.Nodes[i].collect(t, dir, depth+1); err != nil {
			return err
		}
	}
	return nil
}
