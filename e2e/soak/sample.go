package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"

	weftv1 "weft/proto/weft/v1"
)

// measure is something that is counted.
type measure struct {
	name  string
	exact bool // at the end as at the beginning; else it may have grown by as much as grown allows
	grown func(begin int64) int64
}

func by(n int64) func(int64) int64 { return func(begin int64) int64 { return begin + n } }

// measures of a host; the last one is the store's. A process that was started again is not quite the same as another: what it may have more of is what a few
// goroutines and connections on their way out make.
var (
	measures = []measure{
		{name: "memory, KiB", grown: func(begin int64) int64 { return begin + begin/2 + 16<<10 }},
		{name: "threads", grown: by(10)},
		{name: "file descriptors", grown: by(6)},
		{name: "sockets", grown: by(4)},
		{name: "goroutines", grown: by(8)},
		{name: "links", exact: true},
		{name: "namespaces", exact: true},
		{name: "sandbox directories", exact: true},
	}
	storeMeasure = measure{name: "keys", exact: true}
)

// values are numbers by measure.
type values map[string]int64

// sample measures one host, whose agent runs.
func sample(ctx context.Context, h *host) (values, error) {
	out := values{}
	if err := readProcess(h.PID(), out); err != nil {
		return nil, fmt.Errorf("measure weftd on %s: %w", h.Name, err)
	}
	v, err := h.cluster.Version(ctx, &weftv1.VersionRequest{})
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", h.Name, err)
	}
	if v.Goroutines > 0 {
		out["goroutines"] = int64(v.Goroutines)
	}
	err = h.Do(func() error {
		links, err := netlink.LinkList()
		out["links"] = int64(len(links))
		return err
	})
	for name, pattern := range map[string]string{"namespaces": "netns/*", "sandbox directories": "sandboxes/*"} {
		found, _ := filepath.Glob(filepath.Join(h.RunDir(), pattern)) // the patterns are good ones
		out[name] = int64(len(found))
	}
	return out, err
}

// readProcess reads what the kernel knows of a process (proc(5)).
func readProcess(pid int, out values) error {
	dir := "/proc/" + strconv.Itoa(pid)
	raw, err := os.ReadFile(dir + "/status")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(raw)) {
		k, v, _ := strings.Cut(line, ":")
		name := map[string]string{"VmRSS": "memory, KiB", "Threads": "threads"}[k]
		if name == "" {
			continue
		}
		if out[name], err = strconv.ParseInt(strings.Fields(v)[0], 10, 64); err != nil {
			return fmt.Errorf("%s of process %d: %w", k, pid, err)
		}
	}
	fds, err := os.ReadDir(dir + "/fd")
	if err != nil {
		return err
	}
	out["file descriptors"], out["sockets"] = int64(len(fds)), 0
	for _, fd := range fds {
		to, err := os.Readlink(filepath.Join(dir, "fd", fd.Name()))
		switch {
		case errors.Is(err, os.ErrNotExist): // closed meanwhile
		case err != nil:
			return err
		case strings.HasPrefix(to, "socket:"):
			out["sockets"]++
		}
	}
	return nil
}
