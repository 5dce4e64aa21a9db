// Package local is a store in one file on this host's disk (bbolt), for one process: the agent's journal, and networks of scope local. It keeps the promises of package
// store; its sessions end with the process.
package local

import (
	"context"
	"errors"
	"fmt"
	"sync"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"weft/store"
	"weft/store/memory"
)

// Store is a file. Reads, watches and sessions are served from a copy in memory; a transaction is on disk, with bbolt's two fdatasyncs (pages,
// then the page that makes them count), before anyone sees it.
type Store struct {
	db     *bolt.DB
	id     string
	client *memory.Client

	once     sync.Once
	closeErr error
}

var _ store.Store = (*Store)(nil)

// Open opens or makes the file. Errors name it, and say whether it is in use, damaged or on a full disk.
func Open(path string) (*Store, error) {
	db, err := openFile(path)
	if err != nil {
		return nil, err
	}
	b, err := load(db)
	if err != nil {
		return nil, errors.Join(explain(path, err), db.Close())
	}
	world := memory.New()
	world.Restore(b)
	return &Store{db: db, id: b.ID, client: world.Client()}, nil
}

// Get returns one entry.
func (s *Store) Get(ctx context.Context, k store.Key) (store.Entry, error) {
	return s.client.Get(ctx, k)
}

// List returns a partition.
func (s *Store) List(ctx context.Context, partition string) (store.Snapshot, error) {
	return s.client.List(ctx, partition)
}

// Watch delivers a partition's batches.
func (s *Store) Watch(ctx context.Context, partition string) <-chan store.Batch {
	return s.client.Watch(ctx, partition)
}

// OpenSession opens a session of this process. It is not on disk: whoever opens the file next finds no key of it.
func (s *Store) OpenSession(ctx context.Context, cfg store.SessionConfig) (store.Session, error) {
	return s.client.OpenSession(ctx, cfg)
}

// Txn applies a transaction: on disk first, then where watches see it. A disk that refuses the write is ErrUnreachable (nothing was applied),
// or ErrUnknown where it failed so late that the next Open decides.
func (s *Store) Txn(ctx context.Context, t store.Txn) (store.Rev, error) {
	return s.client.Commit(ctx, t, func(rev store.Rev) error {
		err := s.db.Update(func(tx *bolt.Tx) error { return write(tx, rev, t.Then) })
		switch {
		case err == nil:
			return nil
		case errors.Is(err, berrors.ErrDatabaseNotOpen):
			return store.ErrClosed
		case s.onDisk(rev):
			return fmt.Errorf("write to %s: %w (%w): restart to find out", s.db.Path(), store.ErrUnknown, err)
		}
		return fmt.Errorf("write to %s: %w (%w): is the disk full or read-only?", s.db.Path(), store.ErrUnreachable, err)
	})
}

// Status tells of the file.
func (s *Store) Status(ctx context.Context) (store.Status, error) {
	st, err := s.client.Status(ctx)
	st.Backend, st.Endpoints, st.ClusterID = "local", []string{s.db.Path()}, s.id
	return st, err
}

// Close ends watches and closes the file.
func (s *Store) Close() error {
	s.once.Do(func() { s.closeErr = errors.Join(s.client.Close(), s.db.Close()) })
	return s.closeErr
}
