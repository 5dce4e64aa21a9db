package probe

import (
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// How many answers an ear gives: enough for hundreds of hosts that ask, and not enough to be a burden.
const (
	answersPerSecond = 200
	answersAtOnce    = 400
)

// ear is the socket in one network.
type ear struct {
	way    Way
	mac    net.HardwareAddr
	inode  uint64 // of the namespace that it was opened in
	socket socket
	limit  bucket
	sums   sums
	dead   chan struct{} // closed when the socket has died
}

func (e *ear) send(m message, to net.HardwareAddr) error { return e.socket.send(m.frame(e.mac, to)) }

// answer answers, within the rate. What cannot be sent is lost, as on any network.
func (e *ear) answer(m message, to net.HardwareAddr) {
	if e.limit.take() {
		_ = e.send(m, to)
	}
}

// bucket limits a rate.
type bucket struct {
	clock Clock

	mu   sync.Mutex // guards what follows
	left float64
	at   time.Time
}

func (b *bucket) take() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.clock.Now()
	if b.at.IsZero() {
		b.left = answersAtOnce
	} else {
		b.left = min(answersAtOnce, b.left+now.Sub(b.at).Seconds()*answersPerSecond)
	}
	if b.at = now; b.left < 1 {
		return false
	}
	b.left--
	return true
}

// follow brings ears and paths in line with whom to probe now.
func (p *Prober) follow(now time.Time) {
	want, ways := map[string]Pair{}, map[Way]bool{}
	for _, pair := range p.Pairs() {
		want[pair.Host], ways[pair.Way] = pair, true
	}
	var old []*ear
	var missing []Way
	p.mu.Lock()
	p.pairs = want
	for host := range p.paths {
		if _, ok := want[host]; !ok {
			delete(p.paths, host)
		}
	}
	for host, pair := range want {
		if s := p.paths[host]; s == nil {
			p.paths[host] = newPath(now, pair.Way.MTU)
		} else {
			s.mtu = pair.Way.MTU
		}
	}
	for w, e := range p.ears {
		if !ways[w] || !e.alive() {
			delete(p.ears, w)
			old = append(old, e)
		}
	}
	for w := range ways {
		if p.ears[w] == nil {
			missing = append(missing, w)
		}
	}
	p.mu.Unlock()
	for _, e := range old {
		e.close()
	}
	for _, w := range missing {
		p.hear(w)
	}
}

// hear opens an ear. Where that fails the network is just being made, or gone: the next look tries again.
func (p *Prober) hear(w Way) {
	mac, err := net.ParseMAC(w.MAC)
	if err != nil {
		return
	}
	e := &ear{way: w, mac: mac, inode: inode(w.Netns), limit: bucket{clock: p.Clock}, dead: make(chan struct{})}
	opened := make(chan struct{})
	e.socket, err = p.open(w, func(frame []byte) {
		<-opened
		if m, from, err := parse(frame); err == nil {
			p.receive(e, m, from)
		}
	}, func() {
		close(e.dead)
		p.Look()
	})
	close(opened)
	if err != nil {
		p.Log.Debug("cannot probe in a network yet", "network", w.Network, "error", err)
		return
	}
	p.mu.Lock()
	p.ears[w] = e
	p.mu.Unlock()
}

// alive tells whether an ear still hears, in the namespace that its network has now.
func (e *ear) alive() bool {
	select {
	case <-e.dead:
		return false
	default:
		return inode(e.way.Netns) == e.inode
	}
}

func (e *ear) close() {
	e.socket.close()
	e.sums.close()
}

func (p *Prober) closeAll() {
	p.mu.Lock()
	all := p.ears
	p.ears, p.pairs = map[Way]*ear{}, map[string]Pair{}
	p.mu.Unlock()
	for _, e := range all {
		e.close()
	}
}

// inode tells a namespace from another that has come to its place; 0: there is none.
func inode(path string) uint64 {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0
	}
	return st.Ino
}
