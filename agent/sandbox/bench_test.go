package sandbox

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkStart measures what a user waits for: Create, the time in which the sandbox is attached to its networks, and Start, which ends
// when the process runs. WEFT_TEST_BINARY names another binary whose main
// calls Main, for what its size costs.
func BenchmarkStart(b *testing.B) {
	b.Run("at once", func(b *testing.B) { benchmarkStart(b, 0) })
	b.Run("after attaching", func(b *testing.B) { benchmarkStart(b, 20*time.Millisecond) })
}

func benchmarkStart(b *testing.B, attaching time.Duration) {
	dir := b.TempDir()
	h, err := New(Config{RunDir: filepath.Join(dir, "run"), StateDir: filepath.Join(dir, "state"), Binary: os.Getenv("WEFT_TEST_BINARY")})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		h.Close()
		_ = unix.Unmount(h.cfg.RunDir, unix.MNT_DETACH)
	})
	ctx := b.Context()
	const id = "0123456789abcdef"
	var create, start, stop time.Duration
	for b.Loop() {
		t := time.Now()
		if err := h.Create(ctx, id, false); err != nil {
			b.Fatal(err)
		}
		create += time.Since(t)
		time.Sleep(attaching)
		t = time.Now()
		if err := h.Start(ctx, id, Spec{Command: []string{"sleep", "60"}, Hostname: "box", Hosts: "x\n", Resolv: "y\n", Detached: true}); err != nil {
			b.Fatal(err)
		}
		start += time.Since(t)
		t = time.Now()
		if err := h.Stop(ctx, id, unix.SIGKILL, 0); err != nil {
			b.Fatal(err)
		}
		<-h.Exited()
		stop += time.Since(t)
		if err := h.Remove(ctx, id, true); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(create.Microseconds())/float64(b.N)/1000, "ms/create")
	b.ReportMetric(float64(start.Microseconds())/float64(b.N)/1000, "ms/start")
	b.ReportMetric(float64(stop.Microseconds())/float64(b.N)/1000, "ms/stop")
}
