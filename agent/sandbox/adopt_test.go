package sandbox

import (
	"path/filepath"
	"testing"

	"weft/kernel"
)

// A namespace of others is held until it is let go, over the lives of agents, and stays as it is then.
func TestAdopt(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	theirs := filepath.Join(dir, "theirs")
	if err := kernel.MakeNetns(theirs); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = kernel.RemoveNetns(theirs) })
	want, err := kernel.WhichNetns(theirs)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, true)
	const id, lost = "aa", "bb"
	for _, id := range []string{id, lost} {
		if err := w.Adopt(t.Context(), id, theirs); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Recover(t.Context(), []string{id}, id); err != nil {
		t.Fatal(err)
	}
	if got, err := kernel.WhichNetns(w.NetnsPath(id)); err != nil || got != want {
		t.Errorf("after a recovery it is %v, %v, want %v", got, err, want)
	}
	if _, err := kernel.WhichNetns(w.NetnsPath(lost)); err == nil {
		t.Error("one that nobody knows is still held")
	}
	for range 2 {
		if err := w.Remove(t.Context(), id, true); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := kernel.WhichNetns(theirs); err != nil || got != want {
		t.Errorf("its owner's is %v, %v, want %v", got, err, want)
	}
	if err := w.Adopt(t.Context(), id, dir); err == nil {
		t.Error("a directory was adopted")
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(filepath.Dir(w.NetnsPath(id))), "*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}
