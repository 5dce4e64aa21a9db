// Package backup is the form of a backup: all records of a cluster in one file, as text. It stands beside the flow: what is in the file came
// out of a store and goes into one, in the order in which it must be written there: the networks' partitions, then meta, and the cluster's
// record last, so that what is not whole is not taken for a cluster.
//
// A file has one line of JSON for each key, between a header and an end. Each line begins with a checksum of its own, so that damage is found
// at its place; the end has the number of keys and a checksum of everything, so that nothing is missing.
//
//	3e1f0c9a {"format":"weft-backup","version":1,"cluster":"…","revision":1234,"time":"…"}
//	90aa21c7 {"partition":"net/…","name":"ep/…","value":"{…}"}
//	7700ab1e {"end":true,"count":345,"revision":1240,"sha256":"…"}
package backup

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"time"
	"unicode/utf8"

	"weft/store"
)

// Format and Version are what a header says. A reader takes its own version or a lower one.
const (
	Format  = "weft-backup"
	Version = 1
)

// maxLine bounds a line in bytes: the largest value, each byte of which may take six in JSON, with its name.
const maxLine = 6*(store.MaxValue+2*store.MaxName) + 4096

// Header is the first line.
type Header struct {
	Format  string    `json:"format"`
	Version int       `json:"version"`
	Cluster string    `json:"cluster"`  // ID
	Rev     store.Rev `json:"revision"` // of the store when it began
	Time    time.Time `json:"time"`
	Backend string    `json:"backend,omitempty"`
}

// item is any other line. Names and values that are no text are in base64.
type item struct {
	Partition   string `json:"partition,omitempty"`
	Partition64 []byte `json:"partition64,omitempty"`
	Name        string `json:"name,omitempty"`
	Name64      []byte `json:"name64,omitempty"`
	Value       string `json:"value,omitempty"`
	Value64     []byte `json:"value64,omitempty"`

	End    bool      `json:"end,omitempty"`
	Count  int       `json:"count,omitempty"`
	Rev    store.Rev `json:"revision,omitempty"`
	SHA256 string    `json:"sha256,omitempty"`
}

// crcTable is CRC-32C, which machines compute by themselves.
var crcTable = crc32.MakeTable(crc32.Castagnoli)

// Writer writes a backup.
type Writer struct {
	w     io.Writer
	sum   hash.Hash
	count int
	line  bytes.Buffer
}

// NewWriter writes the header.
func NewWriter(w io.Writer, h Header) (*Writer, error) {
	h.Format, h.Version = Format, Version
	b := &Writer{w: w, sum: sha256.New()}
	return b, b.write(h)
}

// Put writes a key. Its revision is not kept: it would mean nothing in another store.
func (b *Writer) Put(k store.Key, value []byte) error {
	i := item{}
	i.Partition, i.Partition64 = text([]byte(k.Partition))
	i.Name, i.Name64 = text([]byte(k.Name))
	i.Value, i.Value64 = text(value)
	b.count++
	return b.write(i)
}

// Count is the number of keys that were written.
func (b *Writer) Count() int { return b.count }

// Close writes the end. Without it the file is one that was cut off.
func (b *Writer) Close(rev store.Rev) error {
	return b.write(item{End: true, Count: b.count, Rev: rev, SHA256: hex.EncodeToString(b.sum.Sum(nil))})
}

func (b *Writer) write(v any) error {
	b.line.Reset()
	b.line.WriteString("00000000 ")
	e := json.NewEncoder(&b.line)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return fmt.Errorf("write backup: %w", err)
	}
	line := b.line.Bytes()
	copy(line, checksum(line[9:len(line)-1]))
	b.sum.Write(line)
	if _, err := b.w.Write(line); err != nil {
		return fmt.Errorf("write backup: %w", err)
	}
	return nil
}

// checksum is what a line begins with.
func checksum(body []byte) string { return fmt.Sprintf("%08x", crc32.Checksum(body, crcTable)) }

// text returns b as text where it is some, as bytes otherwise.
func text(b []byte) (string, []byte) {
	if utf8.Valid(b) {
		return string(b), nil
	}
	return "", b
}
