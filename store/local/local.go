// Package local is a store in one file on this host's disk (bbolt), for one process: the journal, and networks of scope local. It keeps the
// promises of package store; its sessions end with the process.
package local

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"weft/store"
	"weft/store/memory"
)

// lockWait is how long Open waits for another process to let go of the file.
const lockWait = 500 * time.Millisecond

var (
	dataBucket = []byte("data")
	metaBucket = []byte("meta")
	revKey     = []byte("rev")
)

// Store is a file. Reads, watches and sessions are served from a copy in memory; a transaction is on disk, with one fsync, before it is seen.
type Store struct {
	db *bolt.DB
	*memory.Client
	world *memory.World

	mu sync.Mutex // one transaction at a time: the file's order is the order that watches see
}

var _ store.Store = (*Store)(nil)

// Open opens or makes the file. Errors name it, and say whether it is in use, damaged or on a full disk.
func Open(path string) (*Store, error) {
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: lockWait, NoFreelistSync: true})
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return nil, fmt.Errorf("%s is in use by another process", path)
	case errors.Is(err, berrors.ErrInvalid), errors.Is(err, berrors.ErrChecksum), errors.Is(err, berrors.ErrVersionMismatch):
		return nil, fmt.Errorf("%s is damaged (%w): move it away to start with an empty one", path, err)
	case err != nil:
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	world := memory.New()
	s := &Store{db: db, world: world, Client: world.Client()}
	if err := s.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("read %s: %w", path, err), s.Close())
	}
	return s, nil
}

func (s *Store) load() error {
	err := s.db.Update(func(tx *bolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists(dataBucket)
		if err == nil {
			_, err = tx.CreateBucketIfNotExists(metaBucket)
		}
		return err
	})
	if err != nil {
		return err
	}
	return s.db.View(func(tx *bolt.Tx) error {
		var entries []store.Entry
		err := tx.Bucket(dataBucket).ForEach(func(k, v []byte) error {
			p, n, ok := bytes.Cut(k, []byte{0})
			if !ok || len(v) < 8 {
				return fmt.Errorf("damaged entry %q", k)
			}
			entries = append(entries, store.Entry{
				Key: store.Key{Partition: string(p), Name: string(n)}, Rev: store.Rev(binary.BigEndian.Uint64(v)), Value: bytes.Clone(v[8:]),
			})
			return nil
		})
		rev := store.Rev(0)
		if b := tx.Bucket(metaBucket).Get(revKey); len(b) == 8 {
			rev = store.Rev(binary.BigEndian.Uint64(b))
		}
		s.world.Load(rev, entries)
		return err
	})
}

// Txn applies a transaction: on disk first, then where watches see it.
func (s *Store) Txn(ctx context.Context, t store.Txn) (store.Rev, error) {
	if err := t.Check(); err != nil {
		return 0, err
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	rev, err := s.world.Try(t)
	if err != nil {
		return 0, err
	}
	err = s.db.Update(func(tx *bolt.Tx) error {
		data := tx.Bucket(dataBucket)
		for _, op := range t.Then {
			key := append(append([]byte(op.Key.Partition), 0), op.Key.Name...)
			var err error
			if op.Delete {
				err = data.Delete(key)
			} else {
				err = data.Put(key, append(binary.BigEndian.AppendUint64(nil, uint64(rev)), op.Value...))
			}
			if err != nil {
				return err
			}
		}
		return tx.Bucket(metaBucket).Put(revKey, binary.BigEndian.AppendUint64(nil, uint64(rev)))
	})
	if errors.Is(err, berrors.ErrDatabaseNotOpen) {
		return 0, store.ErrClosed
	}
	if err != nil {
		return 0, fmt.Errorf("write to %s: %w", s.db.Path(), err)
	}
	return s.Client.Txn(context.WithoutCancel(ctx), t)
}

// Status tells of the file.
func (s *Store) Status(ctx context.Context) (store.Status, error) {
	st, err := s.Client.Status(ctx)
	st.Backend, st.Endpoints, st.ClusterID = "local", []string{s.db.Path()}, s.db.Path()
	return st, err
}

// Close ends watches and closes the file.
func (s *Store) Close() error { return errors.Join(s.Client.Close(), s.db.Close()) }
