package local_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"weft/store"
	"weft/store/local"
)

func meta(name string) store.Key { return store.Key{Partition: store.Meta, Name: name} }

// Sessions that expire take Revs, and make fenced writes fail, between a transaction's way to the disk and to memory.
func TestTheFileIsWhatWasSeenWhileSessionsExpire(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	s := open(t, path)
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 50 {
				k := store.Key{Partition: store.Alive, Name: fmt.Sprintf("h%d-%d", w, i)}
				x, err := s.OpenSession(t.Context(), store.SessionConfig{Key: k, TTL: time.Millisecond})
				if err != nil {
					t.Error(err)
					return
				}
				x.Leave()
				for n := 0; ; n++ {
					_, err := s.Txn(t.Context(), store.Txn{If: []store.Cond{x.Alive()}, Then: []store.Op{store.Put(meta(fmt.Sprintf("k%d-%d-%d", w, i, n)), nil)}})
					var c *store.ConflictError
					if errors.As(err, &c) {
						break
					}
					if err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	wg.Wait()
	before := list(t, s)
	st, err := s.Status(t.Context())
	if err = errors.Join(err, s.Close()); err != nil {
		t.Fatal(err)
	}
	s = open(t, path)
	if after := list(t, s); !maps.Equal(before, after) {
		t.Errorf("%d entries before, %d after, or other revisions", len(before), len(after))
	}
	again, err := s.Status(t.Context())
	if err != nil || again.Rev <= st.Rev || again.ClusterID != st.ClusterID {
		t.Errorf("opened again: %+v after %+v, %v: a revision may not be given twice", again, st, err)
	}
}

func list(t *testing.T, s store.Store) map[store.Key]store.Rev {
	t.Helper()
	l, err := s.List(t.Context(), store.Meta)
	if err != nil {
		t.Fatal(err)
	}
	out := map[store.Key]store.Rev{}
	for _, e := range l.Entries {
		out[e.Key] = e.Rev
	}
	return out
}

// The disk is a small tmpfs in a mount namespace of one thread, which ends with it.
func TestAFullDiskIsSaidAndNothingIsApplied(t *testing.T) {
	done := make(chan error, 1)
	dir := t.TempDir()
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread, and with it its mounts, goes with the goroutine
		done <- onSmallDisk(t.Context(), dir)
	}()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func onSmallDisk(ctx context.Context, dir string) error {
	err := errors.Join(unix.Unshare(unix.CLONE_FS|unix.CLONE_NEWNS), unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
		unix.Mount("small", dir, "tmpfs", 0, "size=256k"))
	if err != nil {
		return fmt.Errorf("make a small disk: %w", err)
	}
	s, err := local.Open(filepath.Join(dir, "db"))
	if err != nil {
		return err
	}
	defer func() { _ = s.Close() }()
	big := make([]byte, 16<<10)
	n := 0
	for ; n < 64; n++ {
		if _, err = s.Txn(ctx, store.Txn{Then: []store.Op{store.Put(meta(fmt.Sprint(n)), big)}}); err != nil {
			break
		}
	}
	if n == 0 || !errors.Is(err, unix.ENOSPC) || !errors.Is(err, store.ErrUnreachable) || !strings.Contains(err.Error(), "db") {
		return fmt.Errorf("after %d writes: %w", n, err)
	}
	if l, err := s.List(ctx, store.Meta); err != nil || len(l.Entries) != n {
		return fmt.Errorf("%d entries after %d writes: %w", len(l.Entries), n, err)
	}
	if err := s.Close(); err != nil {
		return err
	}
	if s, err = local.Open(filepath.Join(dir, "db")); err != nil {
		return err
	}
	if l, err := s.List(ctx, store.Meta); err != nil || len(l.Entries) != n {
		return fmt.Errorf("opened again, %d entries after %d writes: %w", len(l.Entries), n, err)
	}
	return nil
}

func TestDamageIsSaid(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	s := open(t, path)
	value := bytes.Repeat([]byte("needle"), 2000)
	for i := range 20 {
		if _, err := s.Txn(t.Context(), store.Txn{Then: []store.Op{store.Put(meta(fmt.Sprint(i)), value)}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.ReplaceAll(whole, []byte("needle"), []byte("noodle"))
	zeroed := bytes.Clone(whole)
	clear(zeroed[3*4096:])
	for name, b := range map[string][]byte{"flipped": flipped, "zeroed": zeroed, "cut short": whole[:len(whole)/4], "head only": whole[:100]} {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := local.Open(path)
		if err == nil {
			t.Errorf("%s: opened", name)
			_ = s.Close()
		} else if !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "damaged") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

const childEnv = "WEFT_LOCAL_CHILD"

// TestChildWrites is the process that the next test kills: it says what was applied, line by line.
func TestChildWrites(t *testing.T) {
	path := os.Getenv(childEnv)
	if path == "" {
		return
	}
	s := open(t, path)
	for i := 0; ; i++ {
		v := fmt.Appendf(nil, "%d", i)
		if _, err := s.Txn(context.Background(), store.Txn{Then: []store.Op{store.Put(meta("x"), v), store.Put(meta("y"), v)}}); err != nil {
			t.Fatal(err)
		}
		fmt.Printf("applied %d\n", i)
	}
}

func TestNothingAcknowledgedIsLostWhenKilled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	for range 3 {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestChildWrites$")
		cmd.Env = append(os.Environ(), childEnv+"="+path)
		r, err := cmd.StdoutPipe()
		if err = errors.Join(err, cmd.Start()); err != nil {
			t.Fatal(err)
		}
		last := -1
		for last < 50 {
			if _, err := fmt.Fscanf(r, "applied %d\n", &last); err != nil {
				t.Fatal(err)
			}
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		for {
			if _, err := fmt.Fscanf(r, "applied %d\n", &last); err != nil {
				break
			}
		}
		_ = cmd.Wait() // killed: its status says so
		s := open(t, path)
		l, err := s.List(t.Context(), store.Meta)
		if err != nil || len(l.Entries) != 2 || string(l.Entries[0].Value) != string(l.Entries[1].Value) {
			t.Fatalf("half a transaction: %+v, %v", l, err)
		}
		var got int
		if _, err := fmt.Sscan(string(l.Entries[0].Value), &got); err != nil || got < last {
			t.Errorf("%d was acknowledged, the file has %d (%v)", last, got, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
