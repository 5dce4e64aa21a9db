package sandbox

import (
	"maps"
	"slices"
	"sync"
)

// readAhead is how many pieces of output a reader may lie behind before the process that wrote them waits for it.
const readAhead = 8

// piece is one frame on its way to a reader.
type piece struct {
	kind frameType
	data []byte
}

// bus brings a process's output to its log and to every reader. The slowest reader sets the pace, as it does with docker attach, until
// the process has ended: what is left then is little, and nobody is to wait for it.
type bus struct {
	log *logFile // nil: none is kept

	mu      sync.Mutex // guards the rest; never held while something is sent or written
	readers map[*reader]struct{}
	rushing bool
	over    bool
}

func newBus(log *logFile) *bus { return &bus{log: log, readers: map[*reader]struct{}{}} }

// write takes a piece of output; data stays the caller's. It waits for readers that lie behind.
func (b *bus) write(kind frameType, data []byte) {
	if b.log != nil {
		b.log.write(kind, data)
	}
	b.mu.Lock()
	readers := slices.Collect(maps.Keys(b.readers))
	b.mu.Unlock()
	if len(readers) == 0 {
		return
	}
	p := piece{kind: kind, data: slices.Clone(data)}
	for _, r := range readers {
		r.push(p)
	}
}

// add returns a reader of everything from now on; nil where there is nothing more to read.
func (b *bus) add() *reader {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.over {
		return nil
	}
	r := newReader(b.rushing)
	b.readers[r] = struct{}{}
	return r
}

func (b *bus) remove(r *reader) {
	b.mu.Lock()
	delete(b.readers, r)
	b.mu.Unlock()
	r.leave()
}

// rush lets no writer wait any more.
func (b *bus) rush() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.rushing = true
	for r := range b.readers {
		r.rush()
	}
}

// close gives each reader the exit as its last piece. Nothing may be written after it.
func (b *bus) close(exit []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.over = true
	for r := range b.readers {
		r.finish(piece{kind: frameExit, data: exit})
	}
	clear(b.readers)
}

// reader is a queue of output with a bound, until it rushes.
type reader struct {
	mu       sync.Mutex // guards the rest
	changed  *sync.Cond
	queue    []piece
	rushing  bool
	finished bool // the last piece is in the queue
	left     bool // nobody takes from it any more
}

func newReader(rushing bool) *reader {
	r := &reader{rushing: rushing}
	r.changed = sync.NewCond(&r.mu)
	return r
}

func (r *reader) push(p piece) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.queue) >= readAhead && !r.rushing && !r.left {
		r.changed.Wait()
	}
	if !r.left {
		r.queue = append(r.queue, p)
		r.changed.Broadcast()
	}
}

// next waits for a piece; there is none where the reader left or has had the last one.
func (r *reader) next() (piece, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.queue) == 0 && !r.finished && !r.left {
		r.changed.Wait()
	}
	if len(r.queue) == 0 || r.left {
		return piece{}, false
	}
	p := r.queue[0]
	r.queue = r.queue[1:]
	r.changed.Broadcast()
	return p, true
}

func (r *reader) finish(last piece) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.queue = append(r.queue, last)
	r.finished = true
	r.changed.Broadcast()
}

func (r *reader) rush() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rushing = true
	r.changed.Broadcast()
}

func (r *reader) leave() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.left, r.queue = true, nil
	r.changed.Broadcast()
}
