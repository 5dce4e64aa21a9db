package record

import (
	"errors"
	"iter"
	"maps"
	"time"

	"weft/store"
)

// Cleared is meta/cleared/<endpoint>: the word to an endpoint's host that the endpoint was taken out of its network from another host. The
// host drops the attachment, instead of putting back a record that the store seems to have lost, and deletes this one.
type Cleared struct {
	Endpoint EndpointID `json:"endpoint"`
	Network  NetworkID  `json:"network"`
	Sandbox  SandboxID  `json:"sandbox,omitempty"` // earlier versions did not say
	Host     HostID     `json:"host"`              // whose endpoint it was
	Name     string     `json:"name"`
	By       HostID     `json:"by"`
	At       time.Time  `json:"at"`
	extra    extra
}

const clearedDir = "cleared"

// ClearedKey is where the word about an endpoint is. It is in partition meta, which every host watches, whatever networks it takes part in.
func ClearedKey(id EndpointID) store.Key { return meta(clearedDir + "/" + string(id)) }

func (r *Cleared) kept() *extra { return &r.extra }

func (r *Cleared) check() error {
	if r.Endpoint == "" || r.Network == "" || r.Host == "" {
		return errors.New("an endpoint that was cleared without its ID, its network or its host")
	}
	return nil
}

// Decode reads the stored form of what was cleared; see the function of that name.
func (r *Cleared) Decode(b []byte) error { return Decode(b, r) }

// ClearedOf returns what was cleared of a host, in no order.
func (s *Snapshot) ClearedOf(host HostID) []*Cleared {
	var out []*Cleared
	for _, r := range s.meta.cleared {
		if r.Host == host {
			out = append(out, r)
		}
	}
	return out
}

// AllCleared returns the words of all hosts, in no order.
func (s *Snapshot) AllCleared() iter.Seq[*Cleared] { return maps.Values(s.meta.cleared) }

// Cleared returns the word about an endpoint.
func (s *Snapshot) Cleared(id EndpointID) (*Cleared, bool) {
	r, ok := s.meta.cleared[id]
	return r, ok
}
