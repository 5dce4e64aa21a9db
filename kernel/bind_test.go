package kernel_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"weft/kernel"
)

func TestBindNetns(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	theirs, others, ours := filepath.Join(dir, "theirs"), filepath.Join(dir, "others"), filepath.Join(dir, "ours", "netns")
	for _, p := range []string{theirs, others} {
		if err := kernel.MakeNetns(p); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = kernel.RemoveNetns(p) })
	}
	t.Cleanup(func() { _ = kernel.RemoveNetns(ours) })
	id := func(path string) kernel.NetnsID {
		t.Helper()
		got, err := kernel.WhichNetns(path)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	if id(theirs) == id(others) || id(theirs) == id("/proc/self/ns/net") {
		t.Error("two namespaces look like one")
	}
	for range 2 { // the second time it is there
		if err := kernel.BindNetns(theirs, ours); err != nil || id(ours) != id(theirs) {
			t.Fatal(err)
		}
	}
	was := id(theirs)
	if err := kernel.RemoveNetns(theirs); err != nil {
		t.Fatal(err)
	}
	if id(ours) != was {
		t.Error("it ended with its owner's file")
	}
	if err := kernel.BindNetns(others, ours); err != nil || id(ours) != id(others) {
		t.Error("it was not replaced", err)
	}
	if err := kernel.RemoveNetns(ours); err != nil {
		t.Error(err)
	}
}

func TestWhatIsNoNetns(t *testing.T) {
	t.Parallel()
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{plain, "/proc/self/ns/uts", "/dev/null", "/"} {
		if _, err := kernel.WhichNetns(path); !errors.Is(err, kernel.ErrNoNetns) {
			t.Errorf("%s: %v", path, err)
		}
		if err := kernel.BindNetns(path, plain+".netns"); !errors.Is(err, kernel.ErrNoNetns) {
			t.Errorf("bind %s: %v", path, err)
		}
	}
	if _, err := kernel.WhichNetns(plain + ".gone"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
	if _, err := os.Lstat(plain + ".netns"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("something was made: %v", err)
	}
}
