package backup

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"

	"weft/store"
)

// DamagedError says where a file is not what was written.
type DamagedError struct {
	Line   int   // from 1
	Offset int64 // of the line's first byte
	Why    string
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("the backup is damaged at line %d (byte %d): %s", e.Line, e.Offset, e.Why)
}

// Reader reads a backup, and checks it on the way.
type Reader struct {
	r      *bufio.Reader
	sum    hash.Hash
	header Header
	line   int
	at     int64 // where the next line begins
	begin  int64 // where the current one did
	count  int
	rev    store.Rev
	ended  bool
}

// NewReader reads the header. Errors: *DamagedError, and what r says.
func NewReader(r io.Reader) (*Reader, error) {
	b := &Reader{r: bufio.NewReaderSize(r, 64<<10), sum: sha256.New()}
	body, err := b.next()
	if errors.Is(err, io.EOF) {
		return nil, b.damaged("it is empty")
	}
	if err != nil {
		return nil, err
	}
	if err := strict(body, &b.header); err != nil || b.header.Format != Format {
		return nil, b.damaged("it does not begin as a backup of weft does")
	}
	if b.header.Version > Version || b.header.Version < 1 {
		return nil, fmt.Errorf("the backup has format version %d, and this program knows %d: use a newer weft", b.header.Version, Version)
	}
	return b, nil
}

// Header is what the first line says; Count, the number of keys so far; Rev, the revision that the end says, once Next has returned io.EOF.
func (b *Reader) Header() Header { return b.header }
func (b *Reader) Count() int     { return b.count }
func (b *Reader) Rev() store.Rev { return b.rev }

// Next returns the next key and value, and io.EOF at the end of a file that is whole.
func (b *Reader) Next() (store.Key, []byte, error) {
	if b.ended {
		return store.Key{}, nil, io.EOF
	}
	sum := b.sum.Sum(nil)
	body, err := b.next()
	if errors.Is(err, io.EOF) {
		return store.Key{}, nil, b.damaged("it ends here, before its end: it was cut off")
	}
	if err != nil {
		return store.Key{}, nil, err
	}
	var i item
	if err := strict(body, &i); err != nil {
		return store.Key{}, nil, b.damaged("it is no line of a backup: " + err.Error())
	}
	if i.End {
		return store.Key{}, nil, b.end(i, sum)
	}
	k := store.Key{Partition: either(i.Partition, i.Partition64), Name: either(i.Name, i.Name64)}
	value := []byte(either(i.Value, i.Value64))
	if err := (store.Txn{Then: []store.Op{store.Put(k, value)}}).Check(); err != nil || k.Partition == store.Alive {
		return store.Key{}, nil, b.damaged("it is a key that cannot be in a backup")
	}
	b.count++
	return k, value, nil
}

func either(s string, b []byte) string {
	if b != nil {
		return string(b)
	}
	return s
}

// end checks the last line, and that nothing follows it.
func (b *Reader) end(i item, sum []byte) error {
	switch {
	case i.Count != b.count:
		return b.damaged(fmt.Sprintf("it ends with %d keys, and %d were read", i.Count, b.count))
	case i.SHA256 != hex.EncodeToString(sum):
		return b.damaged("its checksum is not that of what was read")
	}
	if _, err := b.r.ReadByte(); err == nil {
		b.line, b.begin = b.line+1, b.at
		return b.damaged("something follows the end")
	} else if !errors.Is(err, io.EOF) {
		return err
	}
	b.ended, b.rev = true, i.Rev
	return io.EOF
}

func (b *Reader) damaged(why string) error {
	return &DamagedError{Line: max(b.line, 1), Offset: b.begin, Why: why}
}

// next returns the next line without its checksum, which it compares. The bytes are valid until the next call.
func (b *Reader) next() ([]byte, error) {
	var line []byte
	b.line, b.begin = b.line+1, b.at
	for {
		part, err := b.r.ReadSlice('\n')
		line = append(line, part...)
		if len(line) > maxLine {
			return nil, b.damaged("the line is longer than any can be")
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if errors.Is(err, io.EOF) && len(line) > 0 {
			return nil, b.damaged("the line is cut off")
		}
		if err != nil {
			return nil, err
		}
		break
	}
	b.at += int64(len(line))
	b.sum.Write(line)
	crc, body, ok := bytes.Cut(line[:len(line)-1], []byte(" "))
	if !ok || len(crc) != 8 {
		return nil, b.damaged("the line does not begin with a checksum")
	}
	if string(crc) != checksum(body) {
		return nil, b.damaged("the line is not what was written: its checksum differs")
	}
	return body, nil
}

// strict decodes JSON that has the fields of v and nothing else.
func strict(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if d.More() {
		return errors.New("more than one value")
	}
	return nil
}
