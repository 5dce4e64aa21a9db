// Package store is the ordered key-value store that the agents of a cluster share: its interface, its guarantees and its errors.
//
// It stands at the head of the flow store → snapshot → render → diff → apply. The back ends (etcd, Consul, ZooKeeper, memory,
// a local file) live in packages below this one and all pass storetest; none may weaken what is promised here:
//
//   - Every applied transaction gets a Rev, higher than that of any transaction applied before it, whatever keys they touch.
//   - A transaction is applied whole or not at all. Its outcome is one of three: applied (nil error), refused (*ConflictError, nothing
//     changed), or unknown (ErrUnknown: it may or may not have been, or may still be, applied; read back by IDs chosen before).
//   - List returns all entries of one partition as they were together at one revision.
//   - Watch begins with such a list and then delivers each later transaction that touched the partition, in order, once, whole,
//     as one Batch; where history was lost it delivers the exact difference as one Batch with Resync set. It never ends by itself.
//   - A session's key goes, at the latest a bounded time after its holder stops renewing it.
package store

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Rev orders transactions: an etcd revision, a Consul raft index, a ZooKeeper zxid. It is comparable only within one cluster ID.
type Rev uint64

// Conditions on a key other than "its last write has exactly this Rev".
const (
	Absent Rev = 0       // the key must not exist
	Exists Rev = ^Rev(0) // the key must exist, whatever its Rev
)

// Limits that hold on every back end (the tightest of them sets each: Consul's 128 operations and 512 KiB base64 request).
const (
	MaxOps   = 24        // conditions plus writes of one transaction
	MaxValue = 64 << 10  // bytes of one value
	MaxTxn   = 128 << 10 // bytes of all values of one transaction
	MaxName  = 512       // bytes of one key's name
)

// Partitions group keys: a list, a watch and a back end's journal are per partition.
const (
	Meta  = "meta"  // cluster, networks, names, VNIs, hosts, fences
	Alive = "alive" // one key per live host, bound to its session
)

// Key names one entry. Name may hold any bytes but is not empty; back ends escape what they must. "/" separates levels by convention only.
type Key struct{ Partition, Name string }

func (k Key) String() string { return k.Partition + "/" + k.Name }

// Entry is a key's value and the Rev of the transaction that last wrote it.
type Entry struct {
	Key   Key
	Value []byte
	Rev   Rev
}

// Cond is a condition of a transaction: the key's Rev now is Rev, or Absent, or Exists.
type Cond struct {
	Key Key
	Rev Rev
}

// Op is a write of a transaction: a put of Value, or a delete. Deleting what is not there is no error.
type Op struct {
	Key    Key
	Value  []byte
	Delete bool
}

// Put and Del are short for the two kinds of Op.
func Put(k Key, v []byte) Op { return Op{Key: k, Value: v} }
func Del(k Key) Op           { return Op{Key: k, Delete: true} }

// Txn is applied whole if every condition holds, and not at all otherwise. No key may stand twice in If, nor twice in Then.
type Txn struct {
	If   []Cond
	Then []Op
}

// Snapshot is a partition as it was at Rev. Entries are sorted by name.
type Snapshot struct {
	Rev     Rev
	Entries []Entry
}

// Batch is what one transaction changed in a watched partition or, with Resync, the exact difference between what this watch had
// delivered and the partition at Rev. The first batch of a watch is a Resync against nothing (and comes even when it is empty). Anew goes with
// Resync where the records have moved to another store under the watch: Revs of before cannot be compared with those from now on, and
// everything that is there is among Puts.
type Batch struct {
	Rev    Rev
	Resync bool
	Anew   bool
	Puts   []Entry
	Dels   []Key
}

// Store is one cluster's prefix in a back end. All methods are safe for concurrent use, and honour their context's deadline also when the
// back end does not answer.
type Store interface {
	// Get returns the entry or ErrNotFound. The read is linearizable.
	Get(ctx context.Context, k Key) (Entry, error)
	// List returns a consistent snapshot of a partition, no older than the call.
	List(ctx context.Context, partition string) (Snapshot, error)
	// Watch delivers batches until ctx ends, then closes the channel. It does not fail when the back end is out of reach: it waits, and resumes.
	Watch(ctx context.Context, partition string) <-chan Batch
	// Txn applies t. Errors: *ConflictError (refused), ErrUnknown, ErrUnreachable (surely not applied), ErrRefused (surely
	// not applied, and not for want of a server), ErrInvalid (out of the limits above).
	Txn(ctx context.Context, t Txn) (Rev, error)
	// OpenSession creates s.Key bound to a new session, or takes over the session s.Resume if that still holds the key.
	// A key held by another session is refused with *ConflictError.
	OpenSession(ctx context.Context, s SessionConfig) (Session, error)
	// Status asks the back end how it is. It is also the check that the store can be reached.
	Status(ctx context.Context) (Status, error)
	// Close ends all watches and sessions' renewals (it does not end the sessions) and waits for their goroutines.
	Close() error
}

// SessionConfig says what a session holds and for how long it outlives its holder.
type SessionConfig struct {
	Key    Key           // in partition Alive
	Value  []byte        // written with the key
	TTL    time.Duration // a back end raises it to its floor (etcd 2 s, Consul 10 s, ZooKeeper as configured)
	Every  time.Duration // between renewals; 0, or not below the TTL: a third of it
	Resume string        // Session.ID of a session to take over, or ""
}

// Renewal returns how often a session of ttl is to be renewed.
func (c SessionConfig) Renewal(ttl time.Duration) time.Duration {
	if c.Every > 0 && c.Every < ttl {
		return c.Every
	}
	return max(ttl/3, 1)
}

// Session is a key that goes when its holder goes.
type Session interface {
	// ID names the session for SessionConfig.Resume; it is kept in the journal.
	ID() string
	// Alive is the condition that this session still holds its key, to fence a transaction with.
	Alive() Cond
	// TTL is the granted time to live.
	TTL() time.Duration
	// Bound is the longest that the key outlives its holder's last renewal while the back end is up. It is at least TTL: back ends enforce
	// theirs late, each by an amount of its own.
	Bound() time.Duration
	// Done is closed when the session may have ended: at the latest one TTL after the last renewal that succeeded.
	Done() <-chan struct{}
	// Close ends the session and deletes its key at once. Leave stops renewing and keeps both, for a successor to resume.
	Close(ctx context.Context) error
	Leave()
}

// Status is what a back end tells of itself.
type Status struct {
	Backend   string        // "etcd", "consul", …
	Version   string        // the server's
	ClusterID string        // identifies the back end's history: revisions of two IDs cannot be compared
	Endpoints []string      // without credentials
	Leader    string        // as the back end names it, "" if none or not known
	Rev       Rev           // newest
	Latency   time.Duration // of this very call
}

// Errors that callers branch on.
var (
	ErrNotFound    = errors.New("key not found")
	ErrUnknown     = errors.New("outcome unknown")
	ErrUnreachable = errors.New("store not reachable")
	ErrInvalid     = errors.New("invalid transaction")
	ErrRefused     = errors.New("refused by the store") // wrong credentials or no right to it: the same call would be refused again
	ErrClosed      = errors.New("store closed")
)

// ConflictError says that a transaction was refused: Key is the first condition (in the order of If) that did not hold, Have its Rev now
// (Absent if it is gone).
type ConflictError struct {
	Key  Key
	Have Rev
}

func (e *ConflictError) Error() string {
	if e.Have == Absent {
		return fmt.Sprintf("condition on %s failed: it does not exist", e.Key)
	}
	return fmt.Sprintf("condition on %s failed: it is at revision %d", e.Key, e.Have)
}

// Check returns ErrInvalid with the reason if t is outside the limits that hold on every back end.
func (t Txn) Check() error {
	if n := len(t.If) + len(t.Then); n > MaxOps {
		return fmt.Errorf("%w: %d conditions and writes, at most %d", ErrInvalid, n, MaxOps)
	}
	seen := make(map[Key]bool, len(t.If))
	for _, c := range t.If {
		if err := c.Key.check(seen); err != nil {
			return err
		}
	}
	seen = make(map[Key]bool, len(t.Then))
	size := 0
	for _, o := range t.Then {
		if err := o.Key.check(seen); err != nil {
			return err
		}
		if len(o.Value) > MaxValue {
			return fmt.Errorf("%w: value of %s has %d bytes, at most %d", ErrInvalid, o.Key, len(o.Value), MaxValue)
		}
		size += len(o.Value)
	}
	if size > MaxTxn {
		return fmt.Errorf("%w: %d bytes of values, at most %d", ErrInvalid, size, MaxTxn)
	}
	return nil
}

func (k Key) check(seen map[Key]bool) error {
	switch {
	case k.Partition == "" || k.Name == "":
		return fmt.Errorf("%w: empty key %q", ErrInvalid, k)
	case len(k.Name) > MaxName:
		return fmt.Errorf("%w: key of %d bytes, at most %d", ErrInvalid, len(k.Name), MaxName)
	case seen[k]:
		return fmt.Errorf("%w: %s stands twice", ErrInvalid, k)
	}
	seen[k] = true
	return nil
}
