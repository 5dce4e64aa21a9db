// Package journal is what a host knows and intends, on its own disk: who it is, its sandboxes with their attachments (one that is still an
// intent is undone after a crash), releases that the store has not heard of yet, and the last picture of the cluster, from which an agent
// restores its host's networking while the store is away.
package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"weft/store"
	"weft/store/record"
)

// Partitions and keys of the journal's own store.
const (
	selfPartition    = "self"
	sandboxPartition = "sandboxes"
	releasePartition = "releases"
	identityName     = "identity"
	lockFile         = "weftd.lock"
	pictureDir       = "picture"
)

// maxAttachments is what a sandbox can have for its removal, with a release for each, to fit one transaction.
const maxAttachments = store.MaxOps - 1

// ErrLocked says that another agent uses the state directory.
var ErrLocked = errors.New("another agent uses this state directory")

// Identity is who this host is, and what it remembers of its cluster.
type Identity struct {
	Host        record.HostID `json:"host"`
	Incarnation uint64        `json:"incarnation"`
	BootID      string        `json:"boot_id"`           // of the kernel; another one means that all namespaces are gone
	Cluster     string        `json:"cluster,omitempty"` // ID; "" before the host has joined one
	Store       string        `json:"store,omitempty"`   // the URL that Cluster was joined at
	Session     string        `json:"session,omitempty"` // of the last agent, for the next to take over
	Bound       time.Duration `json:"bound,omitempty"`   // how long its sessions may outlive their agent
	VTEP        string        `json:"vtep,omitempty"`    // with which Session was opened
	Next        string        `json:"next,omitempty"`    // this host's session in another store: one that the records may move to, or have left
	Moved       *Moved        `json:"moved,omitempty"`   // nil: the records are where the agent's options say
	Learnt      *Learnt       `json:"learnt,omitempty"`  // nil: no store was told to this host when it joined
}

// Learnt is the store that counts where the agent's options name none.
type Learnt struct {
	URL  string            `json:"url"`
	Opts map[string]string `json:"opts,omitempty"`
}

// Moved says where the records have gone from the store that the agent's options name.
type Moved struct {
	From     string            `json:"from"`                // as the options have it, without secrets
	FromPath string            `json:"from_path,omitempty"` // their kv.path
	URL      string            `json:"url"`
	Opts     map[string]string `json:"opts,omitempty"`
}

// Release is an endpoint that this host has given up and that the store may still have.
type Release struct {
	Network  record.NetworkID  `json:"network"`
	Endpoint record.EndpointID `json:"endpoint"`
}

// Lock keeps a second agent away from a state directory, which it makes. The lock ends with the process.
func Lock(dir string) (unlock func() error, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the state directory: %w", err)
	}
	path := filepath.Join(dir, lockFile)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the state directory: %w", err)
	}
	if who, ok := flock(f, path); !ok {
		return nil, errors.Join(fmt.Errorf("%s: %w (%s): end that one, or give this one another --state-dir", dir, ErrLocked, who), f.Close())
	}
	if err := errors.Join(f.Truncate(0), writeAt(f, strconv.Itoa(os.Getpid()))); err != nil {
		return nil, errors.Join(fmt.Errorf("lock the state directory: %w", err), f.Close())
	}
	return f.Close, nil
}

// ghostTime is how long a lock may outlive its process: a child that this had forked has the lock, too, until it begins its own program, and one
// that is killed between the two leaves it with the child for a moment (flock(2), fork(2)).
const ghostTime = 2 * time.Second

// flock takes the lock, or tells who has it.
func flock(f *os.File, path string) (who string, ok bool) {
	for end := time.Now().Add(ghostTime); ; time.Sleep(5 * time.Millisecond) {
		if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			return "", true
		}
		holder, _ := os.ReadFile(path)
		pid, err := strconv.Atoi(strings.TrimSpace(string(holder)))
		if err != nil {
			return "its process is not known", false
		}
		if !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) || time.Now().After(end) {
			return fmt.Sprintf("process %d", pid), false
		}
	}
}

func writeAt(f *os.File, s string) error {
	_, err := f.WriteAt([]byte(s), 0)
	return err
}

// Journal reads and writes the journal. Its methods may be called from any goroutine; each write is on disk when it returns.
type Journal struct {
	store    store.Store
	dir      string
	pictures Files
}

// New returns the journal in dir, over a store that is on the same disk.
func New(s store.Store, dir string) *Journal {
	return Over(s, dir, directory(filepath.Join(dir, pictureDir)))
}

// Over returns a journal whose pictures are not in its directory, which then is but its name.
func Over(s store.Store, dir string, pictures Files) *Journal {
	return &Journal{store: s, dir: dir, pictures: pictures}
}

// Identity returns what was set last, or the zero Identity.
func (j *Journal) Identity(ctx context.Context) (Identity, error) {
	var id Identity
	e, err := j.store.Get(ctx, store.Key{Partition: selfPartition, Name: identityName})
	if errors.Is(err, store.ErrNotFound) {
		return id, nil
	}
	if err != nil {
		return id, fmt.Errorf("read this host's identity: %w", err)
	}
	if err := json.Unmarshal(e.Value, &id); err != nil {
		return id, fmt.Errorf("read this host's identity: %w", err)
	}
	return id, nil
}

// SetIdentity writes the identity. Fields that a later version has written beside it stay: they count again after the next upgrade.
func (j *Journal) SetIdentity(ctx context.Context, id Identity) error {
	b, err := j.withUnknown(ctx, id)
	if err != nil {
		return fmt.Errorf("write this host's identity to the state directory %s: %w", j.dir, err)
	}
	return j.write(ctx, "this host's identity", store.Put(store.Key{Partition: selfPartition, Name: identityName}, b))
}

// withUnknown is an identity's stored form, with what is stored beside it and is no field of this version's.
func (j *Journal) withUnknown(ctx context.Context, id Identity) ([]byte, error) {
	b, err := json.Marshal(id)
	if err != nil {
		return nil, err
	}
	e, err := j.store.Get(ctx, store.Key{Partition: selfPartition, Name: identityName})
	if errors.Is(err, store.ErrNotFound) {
		return b, nil
	}
	if err != nil {
		return nil, err
	}
	fields := map[string]json.RawMessage{}
	if json.Unmarshal(e.Value, &fields) != nil {
		return b, nil // in what cannot be read there is nothing to keep
	}
	for f := range reflect.TypeFor[Identity]().Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		delete(fields, name)
	}
	if err := json.Unmarshal(b, &fields); err != nil {
		return nil, err
	}
	return json.Marshal(fields)
}

// Sandboxes returns all sandboxes. Those whose records are corrupt are named in errs and left out.
func (j *Journal) Sandboxes(ctx context.Context) (all []*record.Sandbox, errs []error, err error) {
	l, err := j.store.List(ctx, sandboxPartition)
	if err != nil {
		return nil, nil, fmt.Errorf("read the sandboxes: %w", err)
	}
	for _, e := range l.Entries {
		s := &record.Sandbox{}
		if err := record.Decode(e.Value, s); err != nil {
			errs = append(errs, fmt.Errorf("sandbox %s: %w", e.Key.Name, err))
			continue
		}
		all = append(all, s)
	}
	return all, errs, nil
}

// PutSandbox writes a sandbox with its attachments; releases are noted in the same transaction, since an attachment that goes and its
// release are one fact.
func (j *Journal) PutSandbox(ctx context.Context, s *record.Sandbox, releases ...Release) error {
	if n := len(s.Attachments); n > maxAttachments {
		return fmt.Errorf("sandbox %s in %d networks: at most %d are possible", s.Name, n, maxAttachments)
	}
	b, err := record.Encode(s)
	if err != nil {
		return err
	}
	ops := []store.Op{store.Put(sandboxKey(s.ID), b)}
	return j.write(ctx, "sandbox "+s.Name, append(ops, releaseOps(releases)...)...)
}

// PutSandboxes writes several sandboxes, as many at a time as a transaction holds: each write waits for the disk.
func (j *Journal) PutSandboxes(ctx context.Context, all []*record.Sandbox) error {
	for some := range slices.Chunk(all, store.MaxOps) {
		var ops []store.Op
		for _, s := range some {
			b, err := record.Encode(s)
			if err != nil {
				return err
			}
			ops = append(ops, store.Put(sandboxKey(s.ID), b))
		}
		if err := j.write(ctx, fmt.Sprintf("%d sandboxes", len(some)), ops...); err != nil {
			return err
		}
	}
	return nil
}

// DeleteSandbox forgets a sandbox and notes its releases.
func (j *Journal) DeleteSandbox(ctx context.Context, id record.SandboxID, releases ...Release) error {
	return j.write(ctx, "the removal of sandbox "+record.ShortID(id), append([]store.Op{store.Del(sandboxKey(id))}, releaseOps(releases)...)...)
}

// AddRelease notes an endpoint that the store must not keep.
func (j *Journal) AddRelease(ctx context.Context, r Release) error {
	return j.write(ctx, "a release", releaseOps([]Release{r})...)
}

// Releases returns what is still to be written to the store.
func (j *Journal) Releases(ctx context.Context) ([]Release, error) {
	l, err := j.store.List(ctx, releasePartition)
	if err != nil {
		return nil, fmt.Errorf("read the releases: %w", err)
	}
	out := make([]Release, 0, len(l.Entries))
	for _, e := range l.Entries {
		out = append(out, Release{Network: record.NetworkID(e.Value), Endpoint: record.EndpointID(e.Key.Name)})
	}
	return out, nil
}

// Released forgets releases that the store has heard of.
func (j *Journal) Released(ctx context.Context, ids ...record.EndpointID) error {
	for len(ids) > 0 {
		n := min(len(ids), store.MaxOps)
		ops := make([]store.Op, 0, n)
		for _, id := range ids[:n] {
			ops = append(ops, store.Del(releaseKey(id)))
		}
		if err := j.write(ctx, "releases", ops...); err != nil {
			return err
		}
		ids = ids[n:]
	}
	return nil
}

func releaseOps(rs []Release) []store.Op {
	ops := make([]store.Op, 0, len(rs))
	for _, r := range rs {
		ops = append(ops, store.Put(releaseKey(r.Endpoint), []byte(r.Network)))
	}
	return ops
}

func sandboxKey(id record.SandboxID) store.Key {
	return store.Key{Partition: sandboxPartition, Name: string(id)}
}

func releaseKey(id record.EndpointID) store.Key {
	return store.Key{Partition: releasePartition, Name: string(id)}
}

func (j *Journal) write(ctx context.Context, what string, ops ...store.Op) error {
	if _, err := j.store.Txn(ctx, store.Txn{Then: ops}); err != nil {
		return fmt.Errorf("write %s to the state directory %s: %w", what, j.dir, err)
	}
	return nil
}
