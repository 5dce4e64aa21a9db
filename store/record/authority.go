package record

import (
	"errors"

	"weft/store"
)

// Authority is meta/authority: who signs the certificates of the cluster's hosts. It is written once, create-if-absent, and again where the authority
// changes hands. The key is in the state directory of its host, and never here.
type Authority struct {
	Certificate string `json:"certificate"` // PEM; several where one is being replaced by the next
	Host        HostID `json:"host"`        // that has the key
	extra       extra
}

const authorityName = "authority"

// AuthorityKey is where the cluster's authority is.
func AuthorityKey() store.Key { return meta(authorityName) }

func (r *Authority) kept() *extra { return &r.extra }

func (r *Authority) check() error {
	if r.Certificate == "" || r.Host == "" {
		return errors.New("an authority without its certificate or its host")
	}
	return nil
}

// Decode reads the stored form of an authority; see the function of that name.
func (r *Authority) Decode(b []byte) error { return Decode(b, r) }

// Authority returns who signs the cluster's certificates; nil where nobody does yet.
func (s *Snapshot) Authority() *Authority { return s.meta.authority }
