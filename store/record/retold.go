package record

import (
	"errors"
	"strings"

	"weft/store"
)

// Retold is meta/moves/part/<partition>: who puts a partition back into a store that has lost it, and how new what it knows of that is. Of two
// hosts the one whose picture is newer has the word, for the whole partition: what it does not have was removed on purpose. It goes when the
// records are a cluster's again.
type Retold struct {
	Move       string    `json:"move"` // its ID
	Host       HostID    `json:"host"`
	Generation uint64    `json:"generation,omitempty"` // of the history that the picture is of
	Rev        store.Rev `json:"rev"`                  // that the picture was at
	Done       bool      `json:"done,omitempty"`       // the partition is as the host knows it
	extra      extra
}

const retoldDir = "part/"

// RetoldKey is where it is said who puts a partition back.
func RetoldKey(partition string) store.Key { return meta("moves/" + retoldDir + partition) }

// RetoldPartition returns the partition that a key of partition meta is about.
func RetoldPartition(k store.Key) (string, bool) {
	return strings.CutPrefix(k.Name, "moves/"+retoldDir)
}

// Before tells whether what this is about is older than what o is about.
func (r *Retold) Before(o *Retold) bool {
	if r.Generation != o.Generation {
		return r.Generation < o.Generation
	}
	return r.Rev < o.Rev
}

func (r *Retold) kept() *extra { return &r.extra }

func (r *Retold) check() error {
	if r.Move == "" || r.Host == "" {
		return errors.New("a partition that is put back without a host or the attempt's ID")
	}
	return nil
}

// Decode reads the stored form of who puts a partition back; see the function of that name.
func (r *Retold) Decode(b []byte) error { return Decode(b, r) }
