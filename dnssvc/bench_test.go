package dnssvc

import (
	"fmt"
	"testing"

	"weft/store/record"
)

// BenchmarkLocal is what an answer from the picture costs beside the system calls.
func BenchmarkLocal(b *testing.B) {
	w := newWorld(b)
	blue := w.network("blue")
	const n = 500
	var packets [][]byte
	for i := range n {
		w.ep(blue, fmt.Sprintf("n%d 10.1.%d.%d", i, i/250, i%250+1))
		p, err := query(fmt.Sprintf("n%d", i), 1).Pack()
		if err != nil {
			b.Fatal(err)
		}
		packets = append(packets, p)
	}
	l := &locals{picture: w.picture, usable: func(*record.Endpoint) bool { return true }}
	k := newKnowledge(Sandbox{Networks: []Network{{ID: blue}}})
	var room [packetSize]byte
	one := func(i int) {
		l.begin(k)
		if _, v := l.answer(room[:copy(room[:], packets[i%n])], false); v != reply {
			b.Fatal("no answer")
		}
		l.done()
	}
	for i := range n {
		one(i)
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		one(i)
		i++
	}
}
