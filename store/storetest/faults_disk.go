package storetest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"weft/store"
	"weft/store/storetest/server"
)

// diskSize is enough for what an idle server takes at once: etcd lays out two segments of its log, 64 MiB each.
const diskSize = "192m"

// bolt is the one of Consul's two logs that a full disk does not break for good: the other, its default, ends with "segment is sealed" each
// time that the server is started again (1.22.7).
var bolt = map[string]any{"raft_logstore": map[string]any{"backend": "boltdb"}}

// fullDisk fills a server's disk: writes fail and say how, and when there is room again all that was acknowledged is there.
func fullDisk(t *testing.T, w FaultWorld) {
	disk := filepath.Join(t.TempDir(), "disk")
	if err := errors.Join(os.Mkdir(disk, 0o755), unix.Mount("tmpfs", disk, "tmpfs", 0, "size="+diskSize)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(disk, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	s := w.siteWith(t, 1, server.Options{Dir: disk, Consul: bolt})
	x := s.scene(t, "disk")
	filler := filepath.Join(disk, "filler")
	fill(t, filler)
	crowd(t, s.client(t, "crowd", s.near))
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	m := s.cluster.Members[0]
	if w.DiskRestart {
		if err := errors.Join(m.Kill(), m.Start()); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.cluster.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	x.healed(t, time.Now())
	x.settle(t, true)
	x.sessionLives(t)
}

// crowd writes large values until the server has no room for more. The error says that the store does not work, or does not know.
func crowd(t *testing.T, s store.Store) {
	t.Helper()
	const writers, enough = 4, 4000
	began := time.Now()
	var wg sync.WaitGroup
	var full atomic.Bool
	for w := range writers {
		wg.Go(func() {
			for i := 0; !full.Load(); i++ {
				if i > enough {
					t.Error("the disk does not fill up")
					return
				}
				_, err := s.Txn(t.Context(), store.Txn{Then: []store.Op{store.Put(key(fmt.Sprintf("big/%d-%d", w, i%10)), make([]byte, store.MaxValue))}})
				if err == nil {
					continue
				}
				full.Store(true)
				t.Logf("measured: %s: after %d writes each and %v: %v", t.Name(), i, time.Since(began).Round(time.Millisecond), err)
				if !errors.Is(err, store.ErrUnreachable) && !errors.Is(err, store.ErrUnknown) {
					t.Errorf("with the disk full: %v", err)
				}
			}
		})
	}
	wg.Wait()
}

// fill takes what room there is.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if _, err := io.Copy(f, zeroes{}); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("fill the disk: %v", err)
	}
}

type zeroes struct{}

func (zeroes) Read(b []byte) (int, error) { return len(b), nil }
