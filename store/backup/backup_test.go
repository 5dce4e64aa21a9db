package backup_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"weft/store"
	"weft/store/backup"
)

type pair struct {
	key   store.Key
	value string
}

func written(t interface{ Fatal(...any) }, pairs ...pair) []byte {
	var out bytes.Buffer
	w, err := backup.NewWriter(&out, backup.Header{Cluster: "c", Rev: 7, Time: time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC), Backend: "etcd"})
	for _, p := range pairs {
		err = errors.Join(err, w.Put(p.key, []byte(p.value)))
	}
	if err := errors.Join(err, w.Close(9)); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func read(r io.Reader) (h backup.Header, out []pair, err error) {
	b, err := backup.NewReader(r)
	if err != nil {
		return h, nil, err
	}
	for {
		k, v, err := b.Next()
		if errors.Is(err, io.EOF) {
			return b.Header(), out, nil
		}
		if err != nil {
			return b.Header(), out, err
		}
		out = append(out, pair{k, string(v)})
	}
}

func some() []pair {
	return []pair{
		{store.Key{Partition: "net/n1", Name: "ep/e1"}, `{"v":1,"name":"ä <b> \u2028"}`},
		{store.Key{Partition: "net/\xff", Name: "odd\x00\xfe"}, "\xff\x00"},
		{store.Key{Partition: "meta", Name: "cluster"}, ""},
	}
}

func TestWhatWasWrittenIsRead(t *testing.T) {
	file := written(t, some()...)
	h, got, err := read(bytes.NewReader(file))
	if err != nil || !slices.Equal(got, some()) {
		t.Errorf("read %v, %v", got, err)
	}
	if h.Cluster != "c" || h.Rev != 7 || h.Version != backup.Version || h.Backend != "etcd" || h.Time.Year() != 2026 {
		t.Errorf("header %+v", h)
	}
	if n := bytes.Count(file, []byte("\n")); n != 5 || !bytes.Contains(file, []byte(`"name":"ep/e1"`)) {
		t.Errorf("the file has %d lines, and is to be readable:\n%s", n, file)
	}
	rapid.Check(t, func(t *rapid.T) {
		var want []pair
		for range rapid.IntRange(0, 8).Draw(t, "keys") {
			name := func(max int) string { return string(rapid.SliceOfN(rapid.Byte(), 1, max).Draw(t, "name")) }
			k := store.Key{Partition: "p" + name(20), Name: name(store.MaxName)}
			want = append(want, pair{k, string(rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "value"))})
		}
		if _, got, err := read(bytes.NewReader(written(t, want...))); err != nil || !slices.Equal(got, want) {
			t.Fatalf("read %v, %v, want %v", got, err, want)
		}
	})
	largest := pair{store.Key{Partition: "p", Name: strings.Repeat("\x01", store.MaxName)}, strings.Repeat("\x01", store.MaxValue)}
	if _, got, err := read(bytes.NewReader(written(t, largest))); err != nil || !slices.Equal(got, []pair{largest}) {
		t.Errorf("the largest key that can be: %v", err)
	}
}

// Whatever byte is changed, added or missing: the file is refused, at the line where that is, and no key comes out wrong.
func TestADamagedFileIsRefusedWithThePlace(t *testing.T) {
	file := written(t, some()...)
	lineOf := func(at int) int { return bytes.Count(file[:at], []byte("\n")) + 1 }
	refused := func(what string, at int, broken []byte) {
		t.Helper()
		_, got, err := read(bytes.NewReader(broken))
		var d *backup.DamagedError
		if at < 0 && err != nil { // a whole line: found at the end, by the number of keys or the checksum of all
			return
		}
		switch {
		case err == nil:
			t.Errorf("%s: taken for whole", what)
		case errors.As(err, &d) && d.Line != lineOf(at) && d.Line != lineOf(at)+1:
			t.Errorf("%s: refused at line %d, and it is at %d: %v", what, d.Line, lineOf(at), err)
		case !slices.Equal(got, some()[:len(got)]):
			t.Errorf("%s: keys came out wrong: %v", what, got)
		}
	}
	for at := range file {
		for _, bit := range []byte{1, 0x20, 0x80} {
			broken := bytes.Clone(file)
			broken[at] ^= bit
			refused(fmt.Sprintf("byte %d changed", at), at, broken)
		}
		refused(fmt.Sprintf("cut off at %d", at), at, file[:at])
		refused(fmt.Sprintf("byte %d missing", at), at, slices.Delete(bytes.Clone(file), at, at+1))
	}
	lines := bytes.SplitAfter(file, []byte("\n"))
	for i := range lines[:5] {
		refused(fmt.Sprintf("line %d missing", i+1), -1, bytes.Join(slices.Delete(slices.Clone(lines), i, i+1), nil))
		refused(fmt.Sprintf("line %d twice", i+1), -1, bytes.Join(slices.Insert(slices.Clone(lines), i, lines[i]), nil))
	}
}

func TestWhatIsNoBackup(t *testing.T) {
	for name, tc := range map[string]struct{ text, want string }{
		"empty":           {"", "line 1 (byte 0): it is empty"},
		"some text":       {"hello\nworld\n", "line 1 (byte 0): the line does not begin with a checksum"},
		"one long line":   {strings.Repeat("x", 10<<20), "longer than any can be"},
		"a later version": {string(bytes.Replace(written(t), []byte(`"version":1`), []byte(`"version":2`), 1)), "its checksum differs"},
		"text behind":     {string(written(t)) + "x", "line 3"},
	} {
		if _, _, err := read(strings.NewReader(tc.text)); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
	broken := errors.New("broken")
	if _, _, err := read(io.MultiReader(bytes.NewReader(written(t)[:50]), failing{broken})); !errors.Is(err, broken) {
		t.Errorf("an error of the file itself: %v", err)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// Whatever is read, the reader ends, and what it takes for whole is what a writer makes of the same keys.
func FuzzReader(f *testing.F) {
	f.Add(written(f, some()...))
	f.Add(written(f))
	f.Add([]byte("00000000 {}\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, pairs, err := read(bytes.NewReader(b))
		if err != nil {
			return
		}
		var out bytes.Buffer
		w, err := backup.NewWriter(&out, h)
		for _, p := range pairs {
			err = errors.Join(err, w.Put(p.key, []byte(p.value)))
		}
		if err := errors.Join(err, w.Close(0)); err != nil {
			t.Fatal(err)
		}
		if _, again, err := read(&out); err != nil || !slices.Equal(again, pairs) {
			t.Fatalf("written again: %v, %v, want %v", again, err, pairs)
		}
	})
}
