package agent

import (
	"strings"
	"sync"

	"weft/store/follow"
	"weft/store/record"
)

// uses keeps the agent watching the endpoints of just those networks that it has endpoints in, or is about to have.
// Those of this host's own networks are watched anyway.
type uses struct {
	follower *follow.Follower
	isLocal  func(record.NetworkID) bool
	boxes    *boxes

	mu   sync.Mutex // guards held; also makes a look at the boxes and what follows from it one step
	held map[record.NetworkID]int
}

func newUses(f *follow.Follower, isLocal func(record.NetworkID) bool, b *boxes) *uses {
	u := &uses{follower: f, isLocal: isLocal, boxes: b, held: map[record.NetworkID]int{}}
	used := map[record.NetworkID]bool{}
	for _, s := range b.snapshot() {
		for _, at := range s.Attachments {
			if used[at.Network] = !isLocal(at.Network); used[at.Network] {
				f.Follow(at.Network)
			}
		}
	}
	for _, p := range f.Picture().Partitions() { // what the last life let go of just before its end is as it was then, and would stay so
		if id, ok := strings.CutPrefix(p, record.NetPartition("")); ok && !used[record.NetworkID(id)] {
			f.Unfollow(record.NetworkID(id))
		}
	}
	return u
}

// hold follows a network until the returned function is called, and after that for as long as a sandbox is attached to it.
func (u *uses) hold(id record.NetworkID) (release func()) {
	if u.isLocal(id) {
		return func() {}
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.held[id]++
	u.follower.Follow(id)
	return func() { u.release(id) }
}

func (u *uses) release(id record.NetworkID) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.held[id]--; u.held[id] > 0 {
		return
	}
	delete(u.held, id)
	for _, s := range u.boxes.snapshot() {
		if _, attached := s.Attachment(id); attached {
			return
		}
	}
	u.follower.Unfollow(id)
}
