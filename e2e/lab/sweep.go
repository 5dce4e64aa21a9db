package lab

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"weft/agent/sandbox"
	"weft/kernel"
)

// remains are what a lab, or one host of it, has made outside of this process. They are found on the machine itself and not remembered:
// agents were killed in the middle of their work, and the lab's own process may have been.
//
// A process is one of them if the lab's mark is in its environment (agents, stores, supervisors), if it is in a network namespace that is
// bound below the directory, or in the control group of a sandbox whose directory is there. A shell of the user in a host's namespace is
// none of them.
type remains struct {
	mark  string   // the value of markName
	dir   string   // everything in it goes, and so does what is mounted there
	nodes []string // files of the nodes' namespaces
}

const (
	markName  = "WEFT_LAB"
	sweepTime = 20 * time.Second
)

func (n *Node) mark() string { return markName + "=" + filepath.Join(n.lab.cfg.Dir, n.Name) }

func remainsOf(cfg Config) remains {
	nodes, _ := filepath.Glob(filepath.Join(cfg.NetnsDir, cfg.Prefix+"*")) // the pattern is a good one
	return remains{mark: cfg.Dir, dir: cfg.Dir, nodes: nodes}
}

// Sweep ends and removes what a lab of this configuration left, unless it is in use. It tells whether there was anything.
func Sweep(ctx context.Context, cfg Config) (found bool, err error) {
	cfg = cfg.complete()
	lock, err := lockDir(cfg.Dir)
	if err != nil {
		return false, err
	}
	defer func() {
		_ = os.Remove(cfg.Dir + ".lock")
		err = errors.Join(err, lock.Close())
	}()
	r := remainsOf(cfg)
	left, err := r.list()
	if err != nil {
		return false, err
	}
	return len(left) > 0, r.clear(ctx)
}

// Left lists what a lab of this configuration has on the machine; nothing after Close.
func Left(cfg Config) ([]string, error) { return remainsOf(cfg.complete()).list() }

func (r remains) list() ([]string, error) {
	mounts, err := mountsBelow(r.dir)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, pid := range r.processes(mounts) {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		out = append(out, fmt.Sprintf("process %d %s", pid, bytes.ReplaceAll(line, []byte{0}, []byte{' '})))
	}
	for _, m := range mounts {
		out = append(out, "mount "+m.point)
	}
	for _, n := range r.nodes {
		out = append(out, "network namespace "+n)
	}
	if _, err := os.Lstat(r.dir); err == nil {
		out = append(out, "directory "+r.dir)
	}
	return out, nil
}

// clear ends the processes, and then removes the rest.
func (r remains) clear(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, sweepTime)
	defer cancel()
	err := poll(ctx, 2*time.Millisecond, func() error {
		mounts, err := mountsBelow(r.dir)
		if err != nil {
			return err
		}
		pids := r.processes(mounts)
		for _, pid := range pids {
			if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("kill process %d: %w", pid, err)
			}
		}
		if len(pids) > 0 {
			return fmt.Errorf("processes %v do not end", pids)
		}
		return nil
	})
	if err != nil {
		return err
	}
	errs := []error{r.removeGroups(), unmountBelow(r.dir)}
	for _, n := range r.nodes {
		errs = append(errs, kernel.RemoveNetns(n))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return os.RemoveAll(r.dir)
}

// processes scans the machine once.
func (r remains) processes(mounts []mount) []int {
	spaces := map[uint64]bool{}
	for _, m := range mounts {
		if ino, ok := m.netns(); ok && !slices.Contains(r.nodes, m.point) {
			spaces[ino] = true
		}
	}
	groups := map[string]bool{}
	for _, id := range r.sandboxes() {
		groups[id] = true
	}
	var out []int
	es, _ := os.ReadDir("/proc")
	for _, e := range es {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		var st unix.Stat_t
		if unix.Stat("/proc/"+e.Name()+"/ns/net", &st) != nil { // it has ended, and nobody has waited for it yet
			continue
		}
		if spaces[st.Ino] || r.marked(pid) || inGroup(pid, groups) {
			out = append(out, pid)
		}
	}
	return out
}

func (r remains) marked(pid int) bool {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		return false
	}
	for v := range bytes.SplitSeq(raw, []byte{0}) {
		if m, ok := strings.CutPrefix(string(v), markName+"="); ok && (m == r.mark || strings.HasPrefix(m, r.mark+"/")) {
			return true
		}
	}
	return false
}

// sandboxes lists the IDs of all sandboxes that have a directory, with whatever agent.
func (r remains) sandboxes() []string {
	var out []string
	for _, pattern := range []string{"sandboxes/*", "run/sandboxes/*", "*/run/sandboxes/*"} {
		found, _ := filepath.Glob(filepath.Join(r.dir, pattern)) // the patterns are good ones
		for _, f := range found {
			out = append(out, filepath.Base(f))
		}
	}
	return out
}

// inGroup tells whether a process is in a control group that is called like one of the sandboxes, or in one below it.
func inGroup(pid int, groups map[string]bool) bool {
	if len(groups) == 0 {
		return false
	}
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(raw)) {
		path, unified := strings.CutPrefix(strings.TrimSpace(line), "0::")
		for part := range strings.SplitSeq(path, "/") {
			if unified && groups[part] {
				return true
			}
		}
	}
	return false
}

// removeGroups removes the control groups of the agents that had their sandboxes below the directory; nothing runs in them any more.
func (r remains) removeGroups() error {
	var errs []error
	for _, pattern := range []string{"sandboxes", "run/sandboxes", "*/run/sandboxes"} {
		found, _ := filepath.Glob(filepath.Join(r.dir, pattern)) // the patterns are good ones
		for _, dir := range found {
			errs = append(errs, sandbox.SweepGroups(dir))
		}
	}
	return errors.Join(errs...)
}

// mount is a line of mountinfo.
type mount struct{ root, point, kind string }

// netns is the namespace that is bound there.
func (m mount) netns() (ino uint64, ok bool) {
	s, ok := strings.CutPrefix(m.root, "net:[")
	if !ok {
		return 0, false
	}
	ino, err := strconv.ParseUint(strings.TrimSuffix(s, "]"), 10, 64)
	return ino, err == nil
}

func mounts() ([]mount, error) {
	raw, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("read the mounts: %w", err)
	}
	var out []mount
	for s := bufio.NewScanner(bytes.NewReader(raw)); s.Scan(); {
		own, fs, _ := strings.Cut(s.Text(), " - ")
		fields := strings.Fields(own)
		if len(fields) < 5 {
			continue
		}
		kind, _, _ := strings.Cut(fs, " ")
		out = append(out, mount{root: fields[3], point: unescape(fields[4]), kind: kind})
	}
	return out, nil
}

// unescape undoes mountinfo's octal escapes.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

func mountsBelow(dir string) ([]mount, error) {
	all, err := mounts()
	return slices.DeleteFunc(all, func(m mount) bool { return m.point != dir && !strings.HasPrefix(m.point, dir+"/") }), err
}

// unmountBelow unmounts what is mounted in dir, the last mount first. Several may be on one point.
func unmountBelow(dir string) error {
	for {
		ms, err := mountsBelow(dir)
		if err != nil || len(ms) == 0 {
			return err
		}
		for _, m := range slices.Backward(ms) {
			if err := unix.Unmount(m.point, unix.MNT_DETACH); err != nil && !errors.Is(err, syscall.EINVAL) {
				return fmt.Errorf("unmount %s: %w", m.point, err)
			}
		}
	}
}
