package sandbox

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// cgroups is the directory of one Host's control groups: one per sandbox, so that the kernel itself knows what belongs to it, and one
// for all supervisors, so that they are not in the agent's service. It is named after the Host's run directory: several agents of one
// machine must not take each other's groups for what nobody knows. "" where the host has no unified hierarchy: then processes are told
// apart by descent.
type cgroups struct{ dir string }

const supervisorsGroup = "supervisors"

func findCgroups(runDir string) cgroups {
	dir := groupsOf(runDir)
	if dir == "" || os.MkdirAll(dir, 0o755) != nil {
		return cgroups{}
	}
	return cgroups{dir: dir}
}

// SweepGroups removes the control groups of a Host that is gone, with all its processes, and that could not Close.
func SweepGroups(runDir string) error {
	dir := groupsOf(runDir)
	if dir == "" {
		return nil
	}
	return cgroups{dir: filepath.Dir(dir)}.remove(filepath.Base(dir))
}

// groupsOf names the directory of a Host's groups; "" where there are no groups.
func groupsOf(runDir string) string {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }()
	for s := bufio.NewScanner(f); s.Scan(); {
		own, fs, _ := strings.Cut(s.Text(), " - ")
		fields := strings.Fields(own)
		if strings.HasPrefix(fs, "cgroup2 ") && len(fields) > 4 {
			sum := sha256.Sum256([]byte(runDir))
			return filepath.Join(fields[4], "weft", hex.EncodeToString(sum[:6]))
		}
	}
	return ""
}

// make returns the directory of a sandbox's group, which it makes; "" where there are no groups.
func (c cgroups) make(name string) string {
	if c.dir == "" {
		return ""
	}
	dir := filepath.Join(c.dir, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return ""
	}
	return dir
}

// path is the directory of a sandbox's group; "" where there are no groups.
func (c cgroups) path(id string) string {
	if c.dir == "" {
		return ""
	}
	return filepath.Join(c.dir, id)
}

// leave removes the Host's directory, unless something runs.
func (c cgroups) leave() {
	if c.dir != "" {
		_ = unix.Rmdir(c.path(supervisorsGroup))
		_ = unix.Rmdir(c.dir)
	}
}

// remove removes a sandbox's empty group. The kernel may need a moment after the last process was reaped.
func (c cgroups) remove(id string) error {
	if c.dir == "" {
		return nil
	}
	dir := c.path(id)
	for end := time.Now().Add(2 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		err := removeTree(dir)
		if err == nil || !errors.Is(err, unix.EBUSY) || time.Now().After(end) {
			return err
		}
	}
}

// removeTree removes a group with those that processes made below it.
func removeTree(dir string) error {
	es, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove control group: %w", err)
	}
	for _, e := range es {
		if e.IsDir() {
			if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove control group %s: %w", dir, err)
	}
	return nil
}

// names lists the groups of sandboxes.
func (c cgroups) names() []string {
	es, err := os.ReadDir(c.dir)
	if err != nil || c.dir == "" {
		return nil
	}
	var out []string
	for _, e := range es {
		if e.IsDir() && e.Name() != supervisorsGroup {
			out = append(out, e.Name())
		}
	}
	return out
}

// killGroup sends SIGKILL to all of a group and tells whether there was any.
func killGroup(dir string) (any bool) {
	pids := groupProcesses(dir)
	if len(pids) == 0 {
		return false
	}
	if err := os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0); err == nil {
		return true
	}
	for _, p := range pids { // before Linux 5.14; the caller repeats until none is left
		_ = unix.Kill(p, unix.SIGKILL)
	}
	return true
}

func groupProcesses(dir string) []int {
	if dir == "" {
		return nil
	}
	var out []int
	_ = filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil {
			return filepath.SkipDir
		}
		if !e.IsDir() {
			return nil
		}
		raw, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		if err != nil {
			return nil
		}
		for f := range strings.FieldsSeq(string(raw)) {
			if n, err := strconv.Atoi(f); err == nil && n > 0 {
				out = append(out, n)
			}
		}
		return nil
	})
	return slices.Compact(out)
}
