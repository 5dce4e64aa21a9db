package sandbox

import (
	"testing"
	"testing/synctest"
)

func take(t *testing.T, r *reader) string {
	t.Helper()
	p, ok := r.next()
	if !ok {
		return "none"
	}
	return string(p.data)
}

// The slowest reader sets the pace, until it leaves or the process has ended.
func TestBus(t *testing.T) {
	for _, tc := range []struct {
		name  string
		relax func(b *bus, slow *reader)
		left  []string // for the slow one
	}{
		{"it catches up", func(_ *bus, slow *reader) { take(t, slow) }, []string{"1", "2"}},
		{"it leaves", func(b *bus, slow *reader) { b.remove(slow) }, []string{"none"}},
		{"the process has ended", func(b *bus, _ *reader) { b.rush() }, []string{"0", "1", "2"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBus(nil)
				slow, quick := b.add(), b.add()
				written := make(chan int, 100)
				go func() {
					defer close(written)
					for i := range readAhead + 1 {
						b.write(frameStdout, []byte(itoa(i)))
						written <- i
					}
				}()
				for i := range readAhead {
					if got := take(t, quick); got != itoa(i) {
						t.Errorf("piece %d is %q", i, got)
					}
				}
				synctest.Wait()
				if len(written) != readAhead {
					t.Fatalf("%d pieces are written, want %d: the slow reader has no more room", len(written), readAhead)
				}
				tc.relax(b, slow)
				if got := take(t, quick); got != itoa(readAhead) {
					t.Errorf("then it is %q", got)
				}
				for _, want := range tc.left {
					if got := take(t, slow); got != want {
						t.Errorf("the slow one has %q, want %q", got, want)
					}
				}
				b.close([]byte("exit"))
				if got := take(t, quick) + take(t, quick); got != "exitnone" {
					t.Errorf("at the end there is %q", got)
				}
				if b.add() != nil {
					t.Error("a reader of what is over")
				}
				for range written {
				}
			})
		})
	}
}
