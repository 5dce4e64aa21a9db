package record

import (
	"errors"
	"fmt"
	"time"

	"weft/store"
)

// MoveState says how far the records have come on their way from one store to another, or out of a backup.
type MoveState string

// While a move prepares, everything goes on, and each host finds out whether it can reach the new store. From moving (or restoring) on nothing
// is written but by the one who moves the records. Moved stays for ever, so that who was away finds the new store.
const (
	MovePreparing MoveState = "preparing"
	MoveMoving    MoveState = "moving"
	MoveMoved     MoveState = "moved"
	MoveRestoring MoveState = "restoring"
)

// Move is meta/moves. Every write of the registry compares its revision.
type Move struct {
	ID      string            `json:"id"` // of this attempt
	State   MoveState         `json:"state"`
	To      string            `json:"to,omitempty"`      // URL, without secrets
	Opts    map[string]string `json:"opts,omitempty"`    // of the new store; files are paths on each host
	Target  string            `json:"target,omitempty"`  // the new back end's own ID, as the moving agent sees it
	Cluster string            `json:"cluster,omitempty"` // ID of the cluster whose records are restored
	By      HostID            `json:"by,omitempty"`
	// Generation is the highest that is known of what the records replace; those that are put into the store get a greater one.
	Generation uint64 `json:"generation,omitempty"`
	// Reseed tells a restoring by the hosts themselves: each puts back what it knows (Retold), and says so in its reply.
	Reseed bool `json:"reseed,omitempty"`
	// Superseded is what a store that is being filled said before: that its records had moved elsewhere.
	Superseded *Move     `json:"superseded,omitempty"`
	Started    time.Time `json:"started"`
	extra      extra
}

// Frozen tells whether nobody but the one who moves the records may write.
func (m *Move) Frozen() bool { return m != nil && m.State != MovePreparing }

// MoveReply is meta/moves/<host>: what a host says to a move. It is written by its host only.
type MoveReply struct {
	Host     HostID   `json:"host"`
	Move     string   `json:"move"`               // its ID
	Trouble  string   `json:"trouble,omitempty"`  // why it cannot follow; "": it is ready
	Followed bool     `json:"followed,omitempty"` // it uses the new store
	Told     bool     `json:"told,omitempty"`     // it has put back what it knows
	Skipped  []string `json:"skipped,omitempty"`  // what it could not put back, and why
	extra    extra
}

// MovesKey is the key of a move, and MoveReplyKey that of a host's reply to it.
func MovesKey() store.Key              { return meta("moves") }
func MoveReplyKey(id HostID) store.Key { return meta("moves/" + string(id)) }

func (r *Move) kept() *extra      { return &r.extra }
func (r *MoveReply) kept() *extra { return &r.extra }

func (r *Move) check() error {
	switch r.State {
	case MovePreparing, MoveMoving, MoveMoved, MoveRestoring:
	default:
		return fmt.Errorf("unknown state %q of a move", r.State)
	}
	if r.ID == "" || r.To == "" && r.State != MoveRestoring {
		return errors.New("a move without an ID or a target")
	}
	return nil
}

func (r *MoveReply) check() error {
	if r.Host == "" || r.Move == "" {
		return errors.New("a reply to a move without a host or the move's ID")
	}
	return nil
}

// Decode reads the stored form of a move; see the function of that name.
func (r *Move) Decode(b []byte) error { return Decode(b, r) }

// Decode reads the stored form of a reply to a move; see the function of that name.
func (r *MoveReply) Decode(b []byte) error { return Decode(b, r) }

// Move returns the move that goes on, or that has taken the records elsewhere, and its revision; nil and store.Absent where there is none.
func (s *Snapshot) Move() (*Move, store.Rev) { return s.meta.move, s.meta.revs[MovesKey().Name] }

// MoveReply returns what a host says to a move.
func (s *Snapshot) MoveReply(id HostID) (*MoveReply, bool) {
	r, ok := s.meta.replies[id]
	return r, ok
}

// ClusterRev is the revision of the cluster's record, store.Absent where there is none.
func (s *Snapshot) ClusterRev() store.Rev { return s.meta.revs[ClusterKey().Name] }
