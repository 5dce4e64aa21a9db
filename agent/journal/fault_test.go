package journal_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"weft/agent/journal"
	"weft/store"
	"weft/store/local"
	"weft/store/record"
)

const writerEnv = "WEFT_JOURNAL_WRITER"

// TestChildWrites is the process that the next test kills: sandbox by sandbox, each with a release and a picture of its number, it says what
// is on disk.
func TestChildWrites(t *testing.T) {
	dir := os.Getenv(writerEnv)
	if dir == "" {
		return
	}
	j, _ := open(t, dir)
	first := len(names(t, j))
	for i := first; ; i++ {
		rev := store.Rev(i + 1)
		err := j.PutSandbox(context.Background(), sandbox(fmt.Sprintf("c%06d", i)), journal.Release{Network: "n", Endpoint: record.EndpointID(fmt.Sprintf("e%06d", i))})
		fmt.Println("sandbox", i, err)
		if err := errors.Join(err, j.SavePicture("c", "", store.Meta, metaOf(t, rev, fmt.Sprintf("n%d", i)))); err != nil {
			t.Fatal(err)
		}
		fmt.Println("picture", i)
	}
}

// Killed at any moment, the journal opens, and holds the writes up to one of them, at least all that were acknowledged.
func TestAKilledWriterLeavesAPrefixOfItsWrites(t *testing.T) {
	dir := t.TempDir()
	for range 6 {
		written, pictured := killAWriter(t, dir)
		j, s := open(t, dir)
		got := names(t, j)
		if len(got) < written {
			t.Fatalf("%d sandboxes, and %d were acknowledged", len(got), written)
		}
		for i, n := range got {
			if n != fmt.Sprintf("c%06d", i) {
				t.Fatalf("sandbox %d is %s: no prefix", i, n)
			}
		}
		rs, err := j.Releases(t.Context())
		if err != nil || len(rs) != len(got) {
			t.Errorf("%d sandboxes and %d releases, written together; %v", len(got), len(rs), err)
		}
		if p := load(t, j); p.Rev(store.Meta) < store.Rev(pictured) || p.Rev(store.Meta) > store.Rev(len(got)) {
			t.Errorf("the picture is number %d, %d was acknowledged, %d begun", p.Rev(store.Meta), pictured, len(got))
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// killAWriter returns how many sandboxes, and which picture, it had acknowledged.
func killAWriter(t *testing.T, dir string) (written, pictured int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestChildWrites$")
	cmd.Env = append(os.Environ(), writerEnv+"="+dir)
	out, err := cmd.StdoutPipe()
	if err = errors.Join(err, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	left := 1 + rand.IntN(60)
	for lines.Scan() {
		var what, failed string
		var i int
		if _, err := fmt.Sscan(lines.Text(), &what, &i, &failed); err == nil && failed != "<nil>" {
			t.Fatal(lines.Text())
		}
		switch what {
		case "sandbox":
			written = i + 1
		case "picture":
			pictured = i + 1
		}
		if left--; left == 0 {
			// Somewhere within the next write.
			kill := time.AfterFunc(rand.N(2*time.Millisecond), func() { _ = cmd.Process.Kill() })
			defer kill.Stop()
		}
	}
	_ = cmd.Wait() // killed: its status says so
	if left > 0 {
		t.Fatal("it ended by itself")
	}
	return written, pictured
}

// The disk is a small tmpfs in a mount namespace of one thread, which ends with it.
func TestAFullDiskIsSaidAndTheOldStateStays(t *testing.T) {
	done := make(chan error, 1)
	dir := t.TempDir()
	meta, big := metaOf(t, 5, "front"), metaOf(t, 6, strings.Repeat("x", 200<<10))
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread, and with it its mounts, goes with the goroutine
		done <- onSmallDisk(t.Context(), dir, meta, big)
	}()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func onSmallDisk(ctx context.Context, dir string, meta, big store.Snapshot) error {
	err := errors.Join(unix.Unshare(unix.CLONE_FS|unix.CLONE_NEWNS), unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
		unix.Mount("small", dir, "tmpfs", 0, "size=512k"))
	if err != nil {
		return fmt.Errorf("make a small disk: %w", err)
	}
	s, err := local.Open(filepath.Join(dir, "journal.db"))
	if err != nil {
		return err
	}
	defer func() { _ = s.Close() }()
	j := journal.New(s, dir)
	id := journal.Identity{Host: "h", Incarnation: 1, Cluster: "c"}
	if err := errors.Join(j.SetIdentity(ctx, id), j.PutSandbox(ctx, sandbox("c1", "front")), j.SavePicture("c", "", store.Meta, meta)); err != nil {
		return err
	}
	filler := filepath.Join(dir, "filler")
	if err := os.WriteFile(filler, make([]byte, 300<<10), 0o600); err != nil {
		return err
	}
	if err := j.SavePicture("c", "", store.Meta, big); !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), "save the picture of meta") {
		return fmt.Errorf("saved a picture on a full disk: %w", err)
	}
	if halves, err := filepath.Glob(filepath.Join(dir, "picture", ".new-*")); err != nil || len(halves) > 0 {
		return fmt.Errorf("the failed save left %v on the full disk, %w", halves, err)
	}
	kept, err := fill(ctx, j)
	if !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), "to the state directory "+dir) || !strings.Contains(err.Error(), "is the disk full") {
		return fmt.Errorf("wrote to a full disk: %w", err)
	}
	if err := s.Close(); err != nil {
		return err
	}
	if s, err = local.Open(filepath.Join(dir, "journal.db")); err != nil {
		return err
	}
	j = journal.New(s, dir)
	if err := same(ctx, j, id, kept); err != nil {
		return fmt.Errorf("opened again on the full disk: %w", err)
	}
	if err := os.Remove(filler); err != nil {
		return err
	}
	return errors.Join(j.PutSandbox(ctx, sandbox("last")), j.SavePicture("c", "", store.Meta, meta))
}

// fill writes sandboxes until that fails, and returns how many there are.
func fill(ctx context.Context, j *journal.Journal) (int, error) {
	for n := 1; ; n++ {
		fat := sandbox(fmt.Sprint("fat", n))
		fat.Env = []string{"X=" + strings.Repeat("y", 16<<10)}
		if err := j.PutSandbox(ctx, fat); err != nil {
			return n, err
		}
	}
}

func same(ctx context.Context, j *journal.Journal, id journal.Identity, boxes int) error {
	got, err := j.Identity(ctx)
	if err != nil || got != id {
		return fmt.Errorf("identity %+v: %w", got, err)
	}
	all, errs, err := j.Sandboxes(ctx)
	if err = errors.Join(append(errs, err)...); err != nil || len(all) != boxes {
		return fmt.Errorf("%d sandboxes, want %d: %w", len(all), boxes, err)
	}
	p, errs := j.Picture("c")
	if err := errors.Join(errs...); err != nil || p.Rev(store.Meta) != 5 {
		return fmt.Errorf("picture at revision %d: %w", p.Rev(store.Meta), err)
	}
	return nil
}
