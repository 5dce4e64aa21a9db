package record_test

import (
	"testing"

	"weft/store"
	"weft/store/record"
)

// Given a move and what hosts say to it, then the picture shows both as they come and go, and a record that cannot be read leaves the last one.
func TestAMoveInThePicture(t *testing.T) {
	s := record.Empty()
	if m, rev := s.Move(); m != nil || rev != store.Absent || m.Frozen() {
		t.Errorf("in an empty picture: %+v at %d", m, rev)
	}
	move := &record.Move{ID: "m", State: record.MovePreparing, To: "etcd://h", Opts: map[string]string{"kv.user": "u"}}
	s = s.Apply(store.Meta, store.Batch{Rev: 3, Puts: []store.Entry{
		put(t, record.MovesKey(), move, 3), put(t, record.MoveReplyKey("h1"), &record.MoveReply{Host: "h1", Move: "m", Trouble: "no"}, 3),
	}})
	if m, rev := s.Move(); m == nil || m.Opts["kv.user"] != "u" || rev != 3 || m.Frozen() {
		t.Errorf("preparing: %+v at %d", m, rev)
	}
	if r, ok := s.MoveReply("h1"); !ok || r.Trouble != "no" {
		t.Errorf("reply: %+v", r)
	}
	move.State = record.MoveMoving
	s = s.Apply(store.Meta, store.Batch{Rev: 4, Puts: []store.Entry{put(t, record.MovesKey(), move, 4)}})
	if m, rev := s.Move(); !m.Frozen() || rev != 4 {
		t.Errorf("moving: %+v at %d", m, rev)
	}
	s = s.Apply(store.Meta, store.Batch{Rev: 5, Puts: []store.Entry{{Key: record.MovesKey(), Value: []byte("x"), Rev: 5}}})
	if m, rev := s.Move(); m == nil || rev != 5 || s.Corrupt()[record.MovesKey()] == nil {
		t.Errorf("scribbled over: %+v at %d, corrupt %v", m, rev, s.Corrupt())
	}
	s = s.Apply(store.Meta, store.Batch{Rev: 6, Dels: []store.Key{record.MoveReplyKey("h1")}})
	if m, _ := s.Move(); m == nil {
		t.Error("the move went with a reply")
	}
	s = s.Apply(store.Meta, store.Batch{Rev: 7, Dels: []store.Key{record.MovesKey()}})
	m, rev := s.Move()
	if _, ok := s.MoveReply("h1"); ok || m != nil || rev != store.Absent || len(s.Corrupt()) > 0 {
		t.Errorf("after the end: %+v at %d, corrupt %v", m, rev, s.Corrupt())
	}
}

func TestMovesThatMakeNoSense(t *testing.T) {
	for name, value := range map[string]string{
		"no ID":         `{"v":1,"state":"moved","to":"x"}`,
		"no target":     `{"v":1,"id":"m","state":"moved"}`,
		"unknown state": `{"v":1,"id":"m","state":"gone","to":"x"}`,
	} {
		if err := new(record.Move).Decode([]byte(value)); err == nil {
			t.Errorf("%s: it was taken", name)
		}
	}
	if err := new(record.Move).Decode([]byte(`{"v":1,"id":"m","state":"restoring"}`)); err != nil {
		t.Errorf("a restore has no target: %v", err)
	}
	if err := new(record.MoveReply).Decode([]byte(`{"v":1,"host":"h"}`)); err == nil {
		t.Error("a reply to nothing was taken")
	}
}

func TestWhatIsDroppedIsUnknown(t *testing.T) {
	s := record.Empty().Apply(store.Meta, store.Batch{Rev: 3, Puts: []store.Entry{put(t, record.ClusterKey(), &record.Cluster{ID: "c"}, 3)}})
	s = s.Apply(store.Alive, store.Batch{Rev: 4, Puts: []store.Entry{put(t, record.AliveKey("h"), &record.Liveness{Host: "h"}, 4)}})
	s = s.Drop(store.Meta).Drop(store.Alive)
	if _, alive := s.Alive("h"); alive || s.Cluster() != nil || s.Rev(store.Meta) != 0 || len(s.Partitions()) != 0 {
		t.Errorf("dropped, and still there: %v, cluster %+v", s.Partitions(), s.Cluster())
	}
}
