package storetest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"weft/store"
)

// diskSize is enough for what an idle server takes at once: etcd lays out two segments of its log, 64 MiB each.
const diskSize = "192m"

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
	s := w.siteIn(t, 1, disk)
	x := s.scene(t, "disk")
	filler := filepath.Join(disk, "filler")
	fill(t, filler)
	refused := 0
	began := time.Now()
	for i := 0; refused == 0; i++ {
		_, err := x.s.Txn(t.Context(), store.Txn{Then: []store.Op{store.Put(key(fmt.Sprintf("big/%d", i%50)), make([]byte, store.MaxValue))}})
		switch {
		case errors.Is(err, store.ErrUnreachable), errors.Is(err, store.ErrUnknown):
			t.Logf("measured: %s: after %d writes and %v: %v", t.Name(), i, time.Since(began).Round(time.Millisecond), err)
			refused++
		case err != nil:
			t.Fatalf("with the disk full: %v", err)
		case i > 4000:
			t.Fatal("the disk does not fill up")
		}
	}
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
