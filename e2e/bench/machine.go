package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Machine is what the numbers were measured on.
type Machine struct {
	CPUs       int     `json:"cpus"`
	Kernel     string  `json:"kernel"`
	FileSystem string  `json:"file_system"` // of the stores and of the agents' journals
	FsyncMS    float64 `json:"fsync_ms"`    // median of 4 KiB appended and synced
	Load       string  `json:"load"`        // average of the last minute when it began: what else the machine did
	Date       string  `json:"date"`
}

func (m Machine) String() string {
	return fmt.Sprintf("%d CPUs (load when it began: %s), Linux %s, %s; 4 KiB appended and synced in %s ms", m.CPUs, m.Load, m.Kernel, m.FileSystem, number(m.FsyncMS))
}

// inMemory are the file systems on which fsync does nothing.
var inMemory = map[int64]string{unix.TMPFS_MAGIC: "tmpfs", unix.RAMFS_MAGIC: "ramfs"}

var onDisk = map[int64]string{
	unix.EXT4_SUPER_MAGIC: "ext4", unix.XFS_SUPER_MAGIC: "xfs", unix.BTRFS_SUPER_MAGIC: "btrfs", unix.OVERLAYFS_SUPER_MAGIC: "overlayfs",
}

// look describes the machine, and refuses a directory whose file system only pretends to sync.
func look(dir string) (Machine, error) {
	m := Machine{CPUs: runtime.NumCPU(), Date: time.Now().UTC().Format(time.RFC3339)}
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return m, fmt.Errorf("read the kernel's release: %w", err)
	}
	m.Kernel = strings.TrimSpace(string(release))
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return m, fmt.Errorf("read the machine's load: %w", err)
	}
	m.Load, _, _ = strings.Cut(string(load), " ")
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return m, fmt.Errorf("look at the file system of %s: %w", dir, err)
	}
	if name, ok := inMemory[st.Type]; ok {
		return m, fmt.Errorf("%s is on %s, where fsync costs nothing: give --dir on a disk", dir, name)
	}
	m.FileSystem = onDisk[st.Type]
	if m.FileSystem == "" {
		m.FileSystem = fmt.Sprintf("file system %#x", st.Type)
	}
	synced, err := fsyncs(filepath.Join(dir, "fsync"), 40)
	m.FsyncMS = synced.median()
	return m, err
}

// fsyncs appends 4 KiB and syncs, several times.
func fsyncs(path string, times int) (out sample, err error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, fmt.Errorf("try the disk: %w", err)
	}
	defer func() {
		_ = f.Close()
		_ = os.Remove(path)
	}()
	block := make([]byte, 4096)
	for range times {
		took, err := timed(func() error {
			if _, err := f.Write(block); err != nil {
				return err
			}
			return f.Sync()
		})
		if err != nil {
			return nil, fmt.Errorf("try the disk: %w", err)
		}
		out = append(out, took)
	}
	return out, nil
}
