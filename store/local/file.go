package local

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"

	"weft/store"
	"weft/store/memory"
)

// lockWait is how long Open waits for another process to let go of the file.
const lockWait = 500 * time.Millisecond

// sessionRevs is the gap between the Rev on disk and the first one of the next life: sessions use Revs that are not on disk, and no Rev may
// be given twice.
const sessionRevs = 1 << 20

// The file: bucket "data" maps PARTITION NUL NAME to checksum, Rev and value; bucket "meta" holds the newest Rev and the file's ID.
var (
	dataBucket = []byte("data")
	metaBucket = []byte("meta")
	revKey     = []byte("rev")
	idKey      = []byte("id")
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

var errDamaged = errors.New("damaged")

// openFile makes an error of what bbolt does with a broken file, too: it panics, or touches pages that are beyond the file's end.
func openFile(path string) (db *bolt.DB, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	var file *os.File
	defer func() {
		if r := recover(); r != nil {
			// bbolt keeps the file when it panics, and its mapping would keep the lock even of a closed one.
			err = errors.Join(explain(path, fmt.Errorf("%w: %v", errDamaged, r)), unix.Flock(int(file.Fd()), unix.LOCK_UN), file.Close())
		}
	}()
	_, statErr := os.Stat(path)
	// The list of free pages is in the file: without it bbolt walks all pages in a goroutine of its own, whose panic nobody could recover from.
	db, err = bolt.Open(path, 0o600, &bolt.Options{Timeout: lockWait, OpenFile: func(name string, flag int, mode os.FileMode) (f *os.File, err error) {
		file, err = os.OpenFile(name, flag, mode)
		return file, err
	}})
	if err != nil {
		return nil, explain(path, err)
	}
	if errors.Is(statErr, os.ErrNotExist) {
		// A file whose directory was not synced can be missing after a crash.
		if err := syncDir(filepath.Dir(path)); err != nil {
			return nil, errors.Join(explain(path, err), db.Close())
		}
	}
	return db, nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// explain says what is wrong with the file and what to do.
func explain(path string, err error) error {
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return fmt.Errorf("open %s: it is in use by another process: end that one first", path)
	case errors.Is(err, errDamaged), errors.Is(err, berrors.ErrInvalid), errors.Is(err, berrors.ErrChecksum), errors.Is(err, berrors.ErrVersionMismatch):
		return fmt.Errorf("open %s: the file is damaged (%w): move it away to start with an empty one", path, err)
	}
	return fmt.Errorf("open %s: %w", path, err)
}

// load reads all, so that damage shows now and not in the middle of a life.
func load(db *bolt.DB) (b memory.Backup, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", errDamaged, r)
		}
	}()
	empty := false
	err = db.View(func(tx *bolt.Tx) error {
		data, meta := tx.Bucket(dataBucket), tx.Bucket(metaBucket)
		if empty = data == nil && meta == nil; empty {
			return nil
		}
		if data == nil || meta == nil || len(meta.Get(revKey)) != 8 || len(meta.Get(idKey)) == 0 {
			return fmt.Errorf("%w: its head is missing", errDamaged)
		}
		b.ID, b.Rev = string(meta.Get(idKey)), store.Rev(binary.BigEndian.Uint64(meta.Get(revKey)))
		return data.ForEach(func(k, v []byte) error {
			e, err := decode(k, v)
			if err == nil && e.Rev > b.Rev {
				err = fmt.Errorf("%w: %s is newer than the file", errDamaged, e.Key)
			}
			b.Entries = append(b.Entries, e)
			return err
		})
	})
	if err == nil && empty {
		b.ID = rand.Text()
		err = format(db, b.ID)
	}
	b.Rev += sessionRevs
	return b, err
}

// format makes the buckets of a new file, in one transaction: half of them is never on disk.
func format(db *bolt.DB, id string) error {
	return db.Update(func(tx *bolt.Tx) error {
		if _, err := tx.CreateBucket(dataBucket); err != nil {
			return err
		}
		meta, err := tx.CreateBucket(metaBucket)
		if err != nil {
			return err
		}
		return errors.Join(meta.Put(idKey, []byte(id)), meta.Put(revKey, make([]byte, 8)))
	})
}

func write(tx *bolt.Tx, rev store.Rev, ops []store.Op) error {
	data := tx.Bucket(dataBucket)
	for _, op := range ops {
		k := encodeKey(op.Key)
		var err error
		if op.Delete {
			err = data.Delete(k)
		} else {
			err = data.Put(k, encode(k, rev, op.Value))
		}
		if err != nil {
			return err
		}
	}
	return tx.Bucket(metaBucket).Put(revKey, binary.BigEndian.AppendUint64(nil, uint64(rev)))
}

// onDisk tells whether the file holds a transaction whose commit failed.
func (s *Store) onDisk(rev store.Rev) bool {
	found := false
	err := s.db.View(func(tx *bolt.Tx) error {
		v := tx.Bucket(metaBucket).Get(revKey)
		found = len(v) == 8 && store.Rev(binary.BigEndian.Uint64(v)) >= rev
		return nil
	})
	return found || err != nil
}

func encodeKey(k store.Key) []byte { return append(append([]byte(k.Partition), 0), k.Name...) }

func encode(key []byte, rev store.Rev, value []byte) []byte {
	v := make([]byte, 4, 12+len(value))
	v = append(binary.BigEndian.AppendUint64(v, uint64(rev)), value...)
	binary.BigEndian.PutUint32(v, checksum(key, v[4:]))
	return v
}

func checksum(key, rest []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, rest)
}

func decode(k, v []byte) (store.Entry, error) {
	p, n, ok := bytes.Cut(k, []byte{0})
	if !ok || len(v) < 12 || binary.BigEndian.Uint32(v) != checksum(k, v[4:]) {
		return store.Entry{}, fmt.Errorf("%w: entry %q", errDamaged, k)
	}
	return store.Entry{
		Key: store.Key{Partition: string(p), Name: string(n)}, Rev: store.Rev(binary.BigEndian.Uint64(v[4:])), Value: bytes.Clone(v[12:]),
	}, nil
}
