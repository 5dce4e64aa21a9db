package sandbox

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"
)

const (
	logName  = "log.json"
	oldLog   = ".1"
	logLimit = 10 << 20 // of one file; there are two
	lineMax  = 16 << 10 // a longer line is cut into several, as docker does it
)

// logLine is one line as docker's json-file driver writes it.
type logLine struct {
	Log    string    `json:"log"`
	Stream string    `json:"stream"`
	Time   time.Time `json:"time"`
}

// logFile keeps the newest part of what a process wrote. It never makes the process wait or fail: where the disk does not take a line,
// the line is lost, and a mark in the log says how much was.
type logFile struct {
	path  string
	limit int64

	mu      sync.Mutex // guards the rest, and makes lines whole; held while they are written
	file    *os.File
	size    int64
	partial map[frameType][]byte // lines without an end yet
	lost    int                  // bytes of output since the disk refused
	why     error
}

func openLog(dir string, limit int64) (*logFile, error) {
	l := &logFile{path: filepath.Join(dir, logName), limit: limit, partial: map[frameType][]byte{}}
	if err := l.open(); err != nil {
		return nil, fmt.Errorf("open the log: %w", err)
	}
	return l, nil
}

func (l *logFile) open() error {
	f, err := os.OpenFile(l.path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	st, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return err
	}
	l.file, l.size = f, st.Size()
	return nil
}

// write takes output. A line is written when it is whole.
func (l *logFile) write(kind frameType, data []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	rest := data
	if held := l.partial[kind]; len(held) > 0 {
		rest = append(held, data...)
	}
	now := time.Now().UTC()
	var lines []byte
	raw := 0
	for len(rest) > 0 {
		n := bytes.IndexByte(rest[:min(len(rest), lineMax)], '\n') + 1
		if n == 0 && len(rest) < lineMax {
			break
		}
		if n == 0 {
			n = lineMax
		}
		lines = append(lines, encodeLine(kind, rest[:n], now)...)
		raw += n
		rest = rest[n:]
	}
	l.partial[kind] = append([]byte(nil), rest...)
	l.put(lines, raw)
}

func encodeLine(kind frameType, text []byte, at time.Time) []byte {
	stream := "stdout"
	if kind == frameStderr {
		stream = "stderr"
	}
	raw, _ := json.Marshal(logLine{Log: string(text), Stream: stream, Time: at}) // cannot fail
	return append(raw, '\n')
}

// put writes whole lines, which hold so many bytes of output.
func (l *logFile) put(lines []byte, raw int) {
	if len(lines) == 0 {
		return
	}
	if l.lost > 0 {
		mark := fmt.Sprintf("weft: %d bytes of output are missing here: %v\n", l.lost, l.why)
		lines = append(encodeLine(frameStderr, []byte(mark), time.Now().UTC()), lines...)
	}
	if err := l.append(lines); err != nil {
		l.lost += raw
		l.why = err
		return
	}
	l.lost, l.why = 0, nil
}

// append writes all of it or nothing.
func (l *logFile) append(lines []byte) error {
	if l.file == nil || l.size > 0 && l.size+int64(len(lines)) > l.limit {
		if err := l.rotate(); err != nil {
			return err
		}
	}
	n, err := l.file.Write(lines)
	if err != nil {
		if n > 0 {
			_ = l.file.Truncate(l.size) // half a line would make the next one unreadable
		}
		return err
	}
	l.size += int64(n)
	return nil
}

func (l *logFile) rotate() error {
	if l.file != nil {
		_ = l.file.Close()
		l.file = nil
		if err := os.Rename(l.path, l.path+oldLog); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	return l.open()
}

// close writes lines that never got their end.
func (l *logFile) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, kind := range []frameType{frameStdout, frameStderr} {
		if text := l.partial[kind]; len(text) > 0 {
			l.put(encodeLine(kind, text, time.Now().UTC()), len(text))
		}
	}
	clear(l.partial)
	if l.file == nil {
		return nil
	}
	return l.file.Close()
}
