package server

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// cached returns the path of a program in the cache ($WEFT_TEST_CACHE, or the user's cache directory). Where it is missing, build makes it
// at the path that it is given; one process at a time does that.
func cached(ctx context.Context, name string, build func(ctx context.Context, path string) error) (string, error) {
	dir := os.Getenv("WEFT_TEST_CACHE")
	if dir == "" {
		c, err := os.UserCacheDir()
		if err != nil {
			c = "/var/cache"
		}
		dir = filepath.Join(c, "weft-test")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	bin := filepath.Join(dir, name)
	if _, err := os.Stat(bin); err == nil {
		return bin, nil
	}
	lock, err := os.OpenFile(bin+".lock", os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", err
	}
	defer func() { _ = lock.Close() }()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", err
	}
	if _, err := os.Stat(bin); err == nil {
		return bin, nil
	}
	if err := build(ctx, bin+".new"); err != nil {
		return "", err
	}
	return bin, os.Rename(bin+".new", bin)
}

// goBuild runs the go command without cgo: a server's binary must run wherever the tests do.
func goBuild(ctx context.Context, dir string, env []string, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(append(os.Environ(), "CGO_ENABLED=0"), env...)
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go %v: %w\n%s", args, err, text)
	}
	return nil
}
