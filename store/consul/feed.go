package consul

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"

	"weft/store"
)

// Times of a feed.
const (
	waitTime   = 20 * time.Second             // of a blocking query; Consul adds up to a sixteenth
	waitLimit  = waitTime*17/16 + callTimeout // after which its connection is given up
	burst      = 8                            // transactions at a time are load, under which a feed lets more come together
	pace       = 5 * time.Millisecond         // for so long
	firstRetry = 50 * time.Millisecond
	lastRetry  = 2 * time.Second
)

// page is a shard's journal, and with it partition alive's data, as they were at one moment.
type page struct {
	asked   time.Time // before the server was
	heard   time.Time // when the answer came
	entries []entry
	data    []store.Entry // of partition alive only
	index   store.Rev
}

// feed reads one shard's journal for all watches of a client.
type feed struct {
	s     *Store
	shard string
	users int // guarded by feeds.mu
	stop  context.CancelFunc
	delay time.Duration // before it trims, at most; of the one that trims

	mu      sync.Mutex // guards what follows
	newest  *page
	changed chan struct{} // closed at the next page
}

// feeds are the open ones, and with them the probe.
type feeds struct {
	s    *Store
	mu   sync.Mutex // guards what follows and users
	open map[string]*feed
	stop context.CancelFunc // of the probe
}

// join returns a shard's feed, which runs as long as somebody has joined it; nil if the store is closed.
func (fs *feeds) join(shard string) *feed {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if f := fs.open[shard]; f != nil {
		f.users++
		return f
	}
	f := &feed{s: fs.s, shard: shard, users: 1, delay: 4 * minDelay, changed: make(chan struct{})}
	ctx, stop := context.WithCancel(fs.s.ctx)
	if !fs.s.start(func() { f.run(ctx) }) {
		stop()
		return nil
	}
	f.stop = stop
	if len(fs.open) == 0 {
		probe, stop := context.WithCancel(fs.s.ctx)
		fs.stop = stop
		fs.s.start(func() { fs.s.probe(probe) })
	}
	fs.open[shard] = f
	return f
}

func (fs *feeds) leave(f *feed) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if f.users--; f.users > 0 {
		return
	}
	f.stop()
	delete(fs.open, f.shard)
	if len(fs.open) == 0 {
		fs.stop()
	}
}

// now returns the newest page, nil at first, and a channel that is closed when there is a newer one.
func (f *feed) now() (*page, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.newest, f.changed
}

func (f *feed) publish(p *page) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.newest = p
	close(f.changed)
	f.changed = make(chan struct{})
}

// run reads the journal again and again.
func (f *feed) run(ctx context.Context) {
	above, retry, last := uint64(0), firstRetry, store.Rev(0)
	for ctx.Err() == nil {
		era := f.s.link.era()
		p, err := f.read(ctx, era, above)
		if err == nil {
			f.publish(p)
			if len(p.entries) == 0 {
				err = f.begin(ctx)
			}
		}
		if err != nil {
			above = 0
			if era.Err() == nil && ctx.Err() == nil {
				f.s.log.Debug("a feed waits for the store", "shard", f.shard, "error", reason(err))
				pause(ctx, f.s.link.pause(retry), era.Done())
				retry = min(2*retry, lastRetry)
			}
			continue
		}
		retry = firstRetry
		above = f.next(above, p)
		f.trimLong(p)
		if p.since(last) > burst {
			pause(ctx, pace, nil)
		}
		last = p.index
	}
}

// next returns the index to ask for what is above, or 0 for what is there at once. So it is after an answer that told nothing new and yet came
// early: Consul gives up its blocking queries when it is restored, with what they knew before, and may stand below that index from then on.
// And so it is for an empty journal, whose index is that of all of Consul: blocking on it would end at each write there.
func (f *feed) next(above uint64, p *page) uint64 {
	index := uint64(p.index)
	if len(p.entries) == 0 || index <= above && time.Since(p.asked) < waitTime {
		return 0
	}
	return index
}

// begin is for an empty journal, a new store's or one that was wiped.
func (f *feed) begin(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	f.s.identified.Store(false)
	return f.s.anchor(ctx, f.shard)
}

// pause waits, at the longest until wake.
func pause(ctx context.Context, d time.Duration, wake <-chan struct{}) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-wake:
	case <-ctx.Done():
	}
}

// read asks once. The question is dropped when the way to the store was broken meanwhile.
func (f *feed) read(ctx, era context.Context, above uint64) (*page, error) {
	ctx, cancel := context.WithTimeout(withKind(ctx, wait), waitLimit)
	defer cancel()
	defer context.AfterFunc(era, cancel)()
	prefix := f.s.journal(f.shard)
	if f.shard == store.Alive {
		prefix = f.s.root(f.shard)
	}
	p := &page{asked: time.Now()}
	kvs, index, err := f.s.list(ctx, prefix, above)
	if err != nil {
		return nil, err
	}
	p.index, p.heard = store.Rev(index), time.Now()
	p.take(f.s, f.shard, kvs)
	return p, nil
}

// since is how many entries are newer than an index.
func (p *page) since(rev store.Rev) (n int) {
	for n < len(p.entries) && p.entries[len(p.entries)-1-n].rev > rev {
		n++
	}
	return n
}

// take sorts a reading into journal and data.
func (p *page) take(s *Store, shard string, kvs api.KVPairs) {
	journal := s.journal(shard)
	var log api.KVPairs
	for _, kv := range kvs {
		if strings.HasPrefix(kv.Key, journal) {
			log = append(log, kv)
		} else if e, ok := s.entry(shard, kv); ok {
			p.data = append(p.data, e)
		}
	}
	p.entries = entries(journal, log)
}
