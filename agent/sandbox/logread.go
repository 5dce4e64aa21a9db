package sandbox

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

const (
	// logEntryMax bounds one line of a log file: the longest text, each of its bytes escaped, with what is around it.
	logEntryMax = 6*lineMax + 512
	// logPoll is how late a reader that follows may be.
	logPoll = 50 * time.Millisecond
)

// LogOptions say what to read of a log.
type LogOptions struct {
	Follow       bool      // go on with what is written until the process ends
	Tail         int64     // the last so many lines; negative: all
	Since, Until time.Time // zero: without bound
}

// LogLine is one line that was written, with its end; of a long line, a part.
type LogLine struct {
	Data   []byte
	Stderr bool
	Time   time.Time
}

// errEnough ends a reading that has come to LogOptions.Until.
var errEnough = errors.New("nothing more is wanted")

// ReadLog gives what a sandbox wrote to emit, oldest first, until that fails. It reads files alone, so that neither a restart of the agent nor
// a supervisor that ends makes a difference. A log that is not there is empty.
func (h *Host) ReadLog(ctx context.Context, id string, o LogOptions, emit func(LogLine) error) error {
	if err := checkID(id); err != nil {
		return err
	}
	ended := closedChannel()
	if r := h.run(id); r != nil {
		ended = r.done
	}
	r := &logReader{path: h.LogPath(id), o: o, emit: emit}
	defer r.close()
	err := r.read(ctx, ended)
	if errors.Is(err, errEnough) {
		return nil
	}
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("read the log of sandbox %s: %w", id, err)
	}
	return err
}

func closedChannel() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

// logReader reads the two files of a log, and goes on where its supervisor turns them over meanwhile.
type logReader struct {
	path string
	o    LogOptions
	emit func(LogLine) error
	file *os.File // the one being read; nil: none is there yet
	at   int64    // how far it has been read
}

func (r *logReader) close() {
	if r.file != nil {
		_ = r.file.Close()
	}
}

func (r *logReader) read(ctx context.Context, ended <-chan struct{}) error {
	if err := r.begin(); err != nil {
		return err
	}
	tick := time.NewTicker(logPoll)
	defer tick.Stop()
	for last := false; ; {
		if err := r.drain(ctx); err != nil {
			return err
		}
		if last || !r.o.Follow || !r.o.Until.IsZero() && time.Now().After(r.o.Until) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ended:
			last = true // all that was written is in the files before the end is told
		case <-tick.C:
		}
	}
}

// begin finds the place from which the wanted lines begin.
func (r *logReader) begin() error {
	old, err := openIfThere(r.path + oldLog)
	if err != nil {
		return err
	}
	file, err := openIfThere(r.path)
	if err != nil {
		return errors.Join(err, closeIfThere(old))
	}
	if old == nil || r.o.Tail == 0 {
		r.file = file
		err = errors.Join(r.skip(r.o.Tail), closeIfThere(old))
		return err
	}
	want := r.o.Tail
	if want > 0 && file != nil {
		_, n, err := lastLines(file, want)
		if err != nil {
			return errors.Join(err, old.Close(), file.Close())
		}
		want -= n
	}
	if want == 0 {
		r.file = file
		return errors.Join(r.skip(r.o.Tail), old.Close())
	}
	r.file = old
	return errors.Join(r.skip(want), closeIfThere(file)) // drain comes to it
}

// skip leaves all but the last n lines of the file out.
func (r *logReader) skip(n int64) (err error) {
	if r.file == nil || n < 0 {
		return nil
	}
	r.at, _, err = lastLines(r.file, n)
	return err
}

// drain reads what is there, in this file and in those after it.
func (r *logReader) drain(ctx context.Context) error {
	for {
		next, err := r.next() // before the file is read: what was turned over gets no more lines
		if err != nil {
			return err
		}
		if err := r.lines(ctx); err != nil {
			return errors.Join(err, closeIfThere(next))
		}
		if next == nil {
			return nil
		}
		r.close()
		r.file, r.at = next, 0
	}
}

// next is the file after the one being read; nil where that is the newest.
func (r *logReader) next() (*os.File, error) {
	if r.file == nil {
		return openIfThere(r.path)
	}
	mine, err := r.file.Stat()
	if err != nil {
		return nil, err
	}
	if newest, err := os.Stat(r.path); err != nil || os.SameFile(mine, newest) {
		return nil, ignoreMissing(err)
	}
	if old, err := os.Stat(r.path + oldLog); err == nil && !os.SameFile(mine, old) {
		return openIfThere(r.path + oldLog) // turned over twice since
	}
	return openIfThere(r.path)
}

// lines reads the whole lines that the file has.
func (r *logReader) lines(ctx context.Context) error {
	if r.file == nil {
		return nil
	}
	st, err := r.file.Stat()
	if err != nil {
		return err
	}
	r.at = min(r.at, st.Size()) // half a line was taken back
	b := bufio.NewReaderSize(io.NewSectionReader(r.file, r.at, st.Size()-r.at), logEntryMax)
	for ctx.Err() == nil {
		raw, err := b.ReadSlice('\n')
		if errors.Is(err, io.EOF) {
			return nil // what has no end yet comes again
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return err
		}
		r.at += int64(len(raw))
		if err := r.tell(raw); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// tell gives a line on, if it is one and is wanted.
func (r *logReader) tell(raw []byte) error {
	var l logLine
	if json.Unmarshal(raw, &l) != nil || l.Log == "" {
		return nil
	}
	switch {
	case !r.o.Since.IsZero() && l.Time.Before(r.o.Since):
		return nil
	case !r.o.Until.IsZero() && l.Time.After(r.o.Until):
		return errEnough
	}
	return r.emit(LogLine{Data: []byte(l.Log), Stderr: l.Stream == "stderr", Time: l.Time})
}

// lastLines returns where the last n whole lines of a file begin, and how many there are.
func lastLines(f *os.File, n int64) (at, found int64, err error) {
	st, err := f.Stat()
	if err != nil {
		return 0, 0, err
	}
	buf := make([]byte, 64<<10)
	end := st.Size() // of the last whole line
	for end > 0 {
		k := min(end, int64(len(buf)))
		if _, err := f.ReadAt(buf[:k], end-k); err != nil {
			return 0, 0, err
		}
		if i := bytes.LastIndexByte(buf[:k], '\n'); i >= 0 {
			end = end - k + int64(i) + 1
			break
		}
		end -= k
	}
	if n == 0 || end == 0 {
		return end, 0, nil
	}
	for at = end; at > 0; {
		k := min(at, int64(len(buf)))
		if _, err := f.ReadAt(buf[:k], at-k); err != nil {
			return 0, 0, err
		}
		for i := k - 1; i >= 0; i-- {
			if buf[i] != '\n' {
				continue
			}
			if found == n {
				return at - k + i + 1, n, nil
			}
			found++
		}
		at -= k
	}
	return 0, found, nil
}

func openIfThere(path string) (*os.File, error) {
	f, err := os.Open(path)
	return f, ignoreMissing(err)
}

func closeIfThere(f *os.File) error {
	if f == nil {
		return nil
	}
	return f.Close()
}

func ignoreMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
