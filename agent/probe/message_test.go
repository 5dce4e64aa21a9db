package probe

import (
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

var ends = []net.HardwareAddr{{6, 0, 0, 0, 0, 1}, {6, 0, 0, 0, 0, 2}}

func TestAMessageIsReadAsItWasWritten(t *testing.T) {
	t.Parallel()
	for _, m := range []message{
		{kind: echo, vni: 4096, size: headSize, nonce: newNonce(), from: idOf("a"), to: idOf("b")},
		{kind: answer, full: true, result: sumWrong, vni: 1<<24 - 1, size: 1450, nonce: newNonce(), from: idOf("b"), to: idOf("a")},
		{kind: echo, size: 9000},
	} {
		f := m.frame(ends[0], ends[1])
		if len(f) != ethSize+m.size {
			t.Errorf("a frame of %d bytes for a size of %d", len(f), m.size)
		}
		got, from, err := parse(append(f, 0, 0, 0)) // Ethernet fills short frames up
		if err != nil || got != m || from.String() != ends[0].String() {
			t.Errorf("%+v was read as %+v from %s, %v", m, got, from, err)
		}
	}
}

func TestWhatIsNoMessageIsRefused(t *testing.T) {
	t.Parallel()
	good := message{kind: echo, size: 200, nonce: newNonce()}.frame(ends[0], ends[1])
	for name, spoil := range map[string]func([]byte) []byte{
		"empty":           func([]byte) []byte { return nil },
		"head alone":      func(b []byte) []byte { return b[:ethSize+headSize-1] },
		"cut":             func(b []byte) []byte { return b[:len(b)-1] },
		"another type":    func(b []byte) []byte { b[13] = 0; return b },
		"another program": func(b []byte) []byte { b[ethSize] = 'x'; return b },
		"another version": func(b []byte) []byte { b[ethSize+4] = 9; return b },
		"no size":         func(b []byte) []byte { b[ethSize+12], b[ethSize+13] = 0, 1; return b },
		"damaged":         func(b []byte) []byte { b[len(b)-1] ^= 1; return b },
	} {
		if m, _, err := parse(spoil(append([]byte(nil), good...))); !errors.Is(err, errNoMessage) {
			t.Errorf("%s: read as %+v, %v", name, m, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(message{kind: echo, size: 200, nonce: newNonce()}.frame(ends[0], ends[1]))
	f.Add(sumFrame(ends[0], ends[1], newNonce(), idOf("a"), 100))
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, from, err := parse(b); err == nil {
			if len(from) != 6 || m.size > len(b)-ethSize {
				t.Errorf("%+v of %d bytes from %v", m, len(b), from)
			}
			if again, _, err := parse(m.frame(from, ends[0])); err != nil || again != m && b[ethSize+6] <= flagFull {
				t.Errorf("%+v is written as %+v, %v", m, again, err)
			}
		}
		_, _, _, _ = checkSum(b, false)
	})
}

func TestAnswersAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &bucket{clock: clock{}}
		given := func(asked int) (n int) {
			for range asked {
				if b.take() {
					n++
				}
			}
			return n
		}
		if n := given(10 * answersAtOnce); n != answersAtOnce {
			t.Errorf("%d answers at once", n)
		}
		time.Sleep(time.Second)
		if n := given(10 * answersAtOnce); n != answersPerSecond {
			t.Errorf("%d answers a second later", n)
		}
	})
}
