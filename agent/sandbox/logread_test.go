package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// logReaderOf reads the log in a directory, without a Host around it.
func logReaderOf(dir string, o LogOptions, emit func(LogLine) error) *logReader {
	return &logReader{path: filepath.Join(dir, logName), o: o, emit: emit}
}

func readLines(t *testing.T, dir string, o LogOptions) string {
	t.Helper()
	var out strings.Builder
	r := logReaderOf(dir, o, func(l LogLine) error {
		if l.Stderr {
			out.WriteString("!")
		}
		out.Write(l.Data)
		return nil
	})
	defer r.close()
	if err := r.read(t.Context(), closedChannel()); err != nil && !errors.Is(err, errEnough) {
		t.Fatal(err)
	}
	return out.String()
}

// numbered writes lines until the log has been turned over once, and returns how many.
func numbered(t *testing.T, dir string) int {
	t.Helper()
	l, err := openLog(dir, 4096)
	if err != nil {
		t.Fatal(err)
	}
	const n = 60 // some more than one file, and less than two
	for i := range n {
		l.write(frameStdout, fmt.Appendf(nil, "line %d\n", i))
	}
	if err := l.close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(l.path + oldLog); err != nil {
		t.Fatal("the log was not turned over:", err)
	}
	return n
}

func lines(from, to int) string {
	var b strings.Builder
	for n := from; n < to; n++ {
		fmt.Fprintf(&b, "line %d\n", n)
	}
	return b.String()
}

func TestReadLog(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	n := numbered(t, dir)
	for tail, want := range map[int64]string{
		-1: lines(0, n), 0: "", 1: lines(n-1, n), 5: lines(n-5, n), int64(n) - 1: lines(1, n), int64(n): lines(0, n), int64(n) + 9: lines(0, n),
	} {
		if got := readLines(t, dir, LogOptions{Tail: tail}); got != want {
			t.Errorf("the last %d lines are %q, want %q", tail, got, want)
		}
	}
	for name, o := range map[string]LogOptions{"since later": {Tail: -1, Since: time.Now().Add(time.Hour)}, "until before": {Tail: -1, Until: time.Now().Add(-time.Hour)}} {
		if got := readLines(t, dir, o); got != "" {
			t.Errorf("%s: %q", name, got)
		}
	}
	if got := readLines(t, dir, LogOptions{Tail: -1, Since: time.Now().Add(-time.Hour), Until: time.Now().Add(time.Hour)}); got != lines(0, n) {
		t.Errorf("of this hour: %q", got)
	}
	if got := readLines(t, t.TempDir(), LogOptions{Tail: -1}); got != "" {
		t.Errorf("a log that is not there has %q", got)
	}
}

// What stands in the way is left out: half a line at the end, a line that is none, one that is too long.
func TestReadADamagedLog(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	text := string(encodeLine(frameStdout, []byte("one\n"), time.Now())) + "{\"log\":\n" + strings.Repeat("x", 2*logEntryMax) + "\n" +
		string(encodeLine(frameStderr, []byte("two\n"), time.Now())) + `{"log":"half`
	if err := os.WriteFile(filepath.Join(dir, logName), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := readLines(t, dir, LogOptions{Tail: -1}); got != "one\n!two\n" {
		t.Errorf("got %q", got)
	}
	if got := readLines(t, dir, LogOptions{Tail: 1}); got != "!two\n" {
		t.Errorf("the last line is %q", got)
	}
}

// A reader that follows sees every line once, however often the log is turned over, and ends when the process does.
func TestFollowLog(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l, err := openLog(dir, 2000)
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan string, 1000)
	ended := make(chan struct{})
	done := make(chan error, 1)
	r := logReaderOf(dir, LogOptions{Follow: true, Tail: -1}, func(l LogLine) error { got <- string(l.Data); return nil })
	go func() { done <- r.read(t.Context(), ended) }()
	const n = 60 // some files
	for i := range n {
		l.write(frameStdout, fmt.Appendf(nil, "line %d\n", i))
		select {
		case line := <-got:
			if want := fmt.Sprintf("line %d\n", i); line != want {
				t.Fatalf("got %q, want %q", line, want)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("line %d was not seen", i)
		}
	}
	l.write(frameStdout, []byte("the end"))
	if err := l.close(); err != nil {
		t.Fatal(err)
	}
	close(ended)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if line := <-got; line != "the end" || len(got) > 0 {
		t.Errorf("last came %q and %d more", line, len(got))
	}
	r.close()
}

func TestFollowEndsWithItsReader(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	numbered(t, dir)
	ctx, cancel := context.WithCancel(t.Context())
	enough := errors.New("enough")
	for name, tc := range map[string]struct {
		o    LogOptions
		emit func(LogLine) error
		want error
	}{
		"the caller is gone":     {LogOptions{Follow: true, Tail: 1}, func(LogLine) error { cancel(); return nil }, context.Canceled},
		"the caller has enough":  {LogOptions{Follow: true, Tail: -1}, func(LogLine) error { return enough }, enough},
		"the time has come":      {LogOptions{Follow: true, Tail: -1, Until: time.Now().Add(-time.Hour)}, nil, errEnough},
		"the time comes in time": {LogOptions{Follow: true, Tail: 0, Until: time.Now().Add(50 * time.Millisecond)}, nil, nil},
	} {
		r := logReaderOf(dir, tc.o, tc.emit)
		at := t.Context()
		if tc.want == context.Canceled {
			at = ctx
		}
		if err := r.read(at, make(chan struct{})); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
		r.close()
	}
}

// Whatever is in the files, each line is read at most once, and none is made up.
func FuzzReadLog(f *testing.F) {
	good := encodeLine(frameStdout, []byte("one\n"), time.Unix(0, 0))
	f.Add(good, good, int64(-1))
	f.Add([]byte("\n\n{}"), good[:10], int64(3))
	f.Add([]byte{}, bytes.Repeat(good, 5), int64(2))
	f.Fuzz(func(t *testing.T, old, newest []byte, tail int64) {
		dir := t.TempDir()
		for name, raw := range map[string][]byte{logName: newest, logName + oldLog: old} {
			if err := os.WriteFile(filepath.Join(dir, name), raw, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		n := int64(0)
		r := logReaderOf(dir, LogOptions{Tail: tail}, func(LogLine) error { n++; return nil })
		defer r.close()
		if err := r.read(t.Context(), closedChannel()); err != nil {
			t.Fatal(err)
		}
		if most := int64(bytes.Count(old, []byte("\n")) + bytes.Count(newest, []byte("\n"))); n > most || tail >= 0 && n > tail {
			t.Errorf("%d lines of %d, the last %d were asked for", n, most, tail)
		}
	})
}
