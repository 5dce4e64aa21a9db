package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// measureMemory reads what an agent with ten sandboxes has resident, and what the process that minds each sandbox has.
func (b *bench) measureMemory(ctx context.Context) error {
	h := b.hosts[2]
	idle, err := resident(h.PID())
	if err != nil {
		return err
	}
	boxes, err := b.boxesOn(ctx, h, 10)
	if err != nil {
		return err
	}
	var minders sample
	for _, x := range boxes {
		v, err := statusField(x.pid, "PPid")
		if err != nil {
			return err
		}
		size, err := resident(v)
		if err != nil {
			return err
		}
		minders = append(minders, size)
	}
	if err := settle(ctx, quietTime); err != nil {
		return err
	}
	ten, err := resident(h.PID())
	worked, err2 := resident(b.hosts[0].PID())
	if err := errors.Join(err, err2); err != nil {
		return err
	}
	b.report.single("agent's memory, 10 sandboxes", "MiB", sample{ten}, atMost(60, "MiB"))
	b.report.single("agent's memory, none yet", "MiB", sample{idle})
	b.report.single("agent's memory, after all that is above", "MiB", sample{worked})
	b.report.single("a sandbox's supervisor", "MiB", minders)
	return remove(ctx, boxes...)
}

// resident is a process's resident memory in MiB.
func resident(pid int) (float64, error) {
	kib, err := statusField(pid, "VmRSS")
	return float64(kib) / 1024, err
}

// statusField reads a number of /proc/PID/status.
func statusField(pid int, name string) (int, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, fmt.Errorf("look at process %d: %w", pid, err)
	}
	for line := range strings.Lines(string(raw)) {
		if v, ok := strings.CutPrefix(line, name+":"); ok {
			return strconv.Atoi(strings.Fields(v)[0])
		}
	}
	return 0, fmt.Errorf("look at process %d: it has no %s", pid, name)
}

// cpuTime is what a process has used so far.
func cpuTime(pid int) (time.Duration, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("look at process %d: %w", pid, err)
	}
	_, after, _ := strings.Cut(string(raw), ") ") // the name before may hold anything
	fields := strings.Fields(after)
	if len(fields) < 13 {
		return 0, fmt.Errorf("look at process %d: %q", pid, raw)
	}
	user, err := strconv.Atoi(fields[11])
	system, err2 := strconv.Atoi(fields[12])
	const tick = 10 * time.Millisecond // USER_HZ is 100 everywhere
	return time.Duration(user+system) * tick, errors.Join(err, err2)
}
