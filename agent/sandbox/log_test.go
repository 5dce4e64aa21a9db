package sandbox

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// logged returns a sandbox's log, by stream.
func (w *world) logged(id string) map[string]string {
	w.t.Helper()
	return readLog(w.t, w.LogPath(id))
}

func readLog(t *testing.T, path string) map[string]string {
	t.Helper()
	out := map[string]string{}
	raw, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	s := bufio.NewScanner(bytes.NewReader(raw[:bytes.LastIndexByte(raw, '\n')+1]))
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		var l logLine
		if err := json.Unmarshal(s.Bytes(), &l); err != nil {
			t.Fatalf("the log has the line %q: %v", s.Text(), err)
		}
		if time.Since(l.Time).Abs() > time.Hour || l.Time.Location() != time.UTC {
			t.Errorf("the log has a line of %v", l.Time)
		}
		out[l.Stream] += l.Log
	}
	return out
}

func TestLogOfDetached(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	id := w.start(Spec{Command: shell(`echo out; echo "<err>" >&2; printf 'no end'`), Detached: true})
	w.awaitExit(id)
	if got := w.logged(id); got["stdout"] != "out\nno end" || got["stderr"] != "<err>\n" {
		t.Errorf("the log has %q", got)
	}
	if st, err := os.Stat(w.LogPath(id)); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the log has mode %v, %v, want 0600", st.Mode(), err)
	}
}

// Lines are written when they are whole; two streams do not mix; a long one is cut.
func TestLogLines(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l, err := openLog(dir, logLimit)
	if err != nil {
		t.Fatal(err)
	}
	l.write(frameStdout, []byte("half"))
	l.write(frameStderr, []byte("other\n"))
	if got := readLog(t, l.path); got["stdout"] != "" || got["stderr"] != "other\n" {
		t.Errorf("before the line is whole the log has %q", got)
	}
	l.write(frameStdout, []byte(" line\nnext\n\nrest"))
	if got := readLog(t, l.path)["stdout"]; got != "half line\nnext\n\n" {
		t.Errorf("after it the log has %q", got)
	}
	l.write(frameStdout, bytes.Repeat([]byte("x"), 2*lineMax))
	if got := len(readLog(t, l.path)["stdout"]); got < 2*lineMax {
		t.Errorf("of a line without an end the log has %d bytes", got)
	}
	l.write(frameStdout, []byte("bad\xff\n"))
	if err := l.close(); err != nil {
		t.Fatal(err)
	}
	if got := readLog(t, l.path)["stdout"]; !strings.HasSuffix(got, "xbad\ufffd\n") {
		t.Errorf("at the end the log has %q", got[len(got)-20:])
	}
}

// A log is bounded: the older half is thrown away.
func TestLogRotation(t *testing.T) {
	t.Parallel()
	const limit = 10_000
	dir := t.TempDir()
	l, err := openLog(dir, limit)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 1000 {
		l.write(frameStdout, []byte(itoa(i)+"\n"))
		for _, p := range []string{l.path, l.path + oldLog} {
			if st, err := os.Stat(p); err == nil && st.Size() > limit {
				t.Fatalf("%s has %d bytes", p, st.Size())
			}
		}
	}
	if err := l.close(); err != nil {
		t.Fatal(err)
	}
	all := readLog(t, l.path+oldLog)["stdout"] + readLog(t, l.path)["stdout"]
	if !strings.HasSuffix(all, "\n998\n999\n") || strings.Count(all, "\n") < 100 {
		t.Errorf("the log ends with %q and has %d lines", all[max(0, len(all)-10):], strings.Count(all, "\n"))
	}
	first, _, _ := strings.Cut(all, "\n")
	for i, line := range strings.Fields(all) {
		if want := itoa(999 - strings.Count(all, "\n") + 1 + i); line != want {
			t.Fatalf("line %d from %s on is %s, want %s", i, first, line, want)
		}
	}
	again, err := openLog(dir, limit)
	if err != nil {
		t.Fatal(err)
	}
	if st, _ := os.Stat(l.path); again.size != st.Size() {
		t.Errorf("opened again it has %d bytes, want %d", again.size, st.Size())
	}
	_ = again.close()
}

// A full disk costs output and nothing else, and the log says how much. The disk is a small one in a mount namespace of a thread.
func TestLogOnFullDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, err := newSpawner(place{Shared: dir, Run: dir}, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { close(s.tasks) })
	err = s.do(func() error {
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
			return err
		}
		l, err := openLog(dir, logLimit)
		if err != nil {
			return err
		}
		filler := filepath.Join(dir, "filler")
		l.write(frameStdout, []byte("before\n"))
		if err := os.WriteFile(filler, make([]byte, 1<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
			t.Errorf("the disk does not fill up: %v", err)
		}
		for range 10 {
			l.write(frameStdout, bytes.Repeat([]byte("0123456789abcde\n"), 1000))
		}
		if err := os.Remove(filler); err != nil {
			return err
		}
		l.write(frameStdout, []byte("after\n"))
		if err := l.close(); err != nil {
			return err
		}
		got := readLog(t, l.path)
		if !strings.HasPrefix(got["stdout"], "before\n") || !strings.HasSuffix(got["stdout"], "after\n") {
			t.Errorf("the log has %q", got["stdout"])
		}
		if n := strings.Count(got["stderr"], "bytes of output are missing here: "); n != 1 || !strings.Contains(got["stderr"], "no space left on device") {
			t.Errorf("the log tells of the loss %d times: %q", n, got["stderr"])
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
