package agent

import (
	"context"
	"errors"
	"fmt"

	"weft/store"
)

// hopeless tells a store's refusal of a host that has nothing to lose: whoever set it up is there to be told. One that has been a member, or
// has sandboxes, goes on with what it has, says so, and tries again: its credentials may be changed at any time.
func (m *member) hopeless(ctx context.Context, err error) bool {
	if !errors.Is(err, store.ErrRefused) || m.identity().Cluster != "" {
		return false
	}
	boxes, corrupt, err := m.journal.Sandboxes(ctx)
	return err == nil && len(boxes)+len(corrupt) == 0
}

// reason is why this host is no member, in words that say what to do about it.
func (m *member) reason(why error) string {
	if errors.Is(why, store.ErrRefused) {
		return fmt.Sprintf("cluster store %s refuses this host: %v; check what --cluster-store-opt names (certificates, user and password, token) and the rights that they give", m.name(), why)
	}
	if errors.Is(why, errLost) {
		return fmt.Sprintf("cluster store %s: %v; %s", m.name(), why, doWhenLost)
	}
	return fmt.Sprintf("cluster store %s is not reachable: %v", m.name(), why)
}

// tellTTL says where a session is not what discovery.ttl asks for: back ends have floors.
func (m *member) tellTTL(s store.Session) {
	if s.TTL() > m.ttl {
		m.log.Warn("the cluster store grants no session as short as discovery.ttl", "asked", m.ttl, "granted", s.TTL(), "a_dead_host_is_noticed_within", s.Bound())
	}
}
