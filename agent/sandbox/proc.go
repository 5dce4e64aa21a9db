package sandbox

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// parents reads which process is whose child.
func parents() map[int]int {
	out := map[int]int{}
	d, err := os.Open("/proc")
	if err != nil {
		return out
	}
	defer func() { _ = d.Close() }()
	names, _ := d.Readdirnames(-1)
	for _, n := range names {
		pid, err := strconv.Atoi(n)
		if err != nil {
			continue
		}
		raw, err := os.ReadFile("/proc/" + n + "/stat")
		if err != nil {
			continue
		}
		// pid (name) state ppid …; the name may contain anything, so count from its last parenthesis.
		fields := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+1:]))
		if len(fields) > 1 {
			out[pid], _ = strconv.Atoi(fields[1])
		}
	}
	return out
}

// descendants returns all processes below a process.
func descendants(root int) []int {
	up := parents()
	var out []int
	for pid := range up {
		for at, depth := up[pid], 0; at > 0 && depth < len(up); at, depth = up[at], depth+1 {
			if at == root {
				out = append(out, pid)
				break
			}
		}
	}
	return out
}

// inUTS returns the processes that are in the UTS namespace that a file holds: each sandbox has its own. As long as the file is there
// no other namespace gets its number.
func inUTS(path string) []int {
	var held unix.Statfs_t
	var want unix.Stat_t
	if unix.Statfs(path, &held) != nil || held.Type != unix.NSFS_MAGIC || unix.Stat(path, &want) != nil {
		return nil
	}
	var out []int
	for pid := range parents() {
		var got unix.Stat_t
		if unix.Stat(fmt.Sprintf("/proc/%d/ns/uts", pid), &got) == nil && got.Ino == want.Ino && got.Dev == want.Dev {
			out = append(out, pid)
		}
	}
	return out
}
