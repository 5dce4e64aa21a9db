package embedded_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"weft/store"
	"weft/store/embedded"
	"weft/store/etcd"
)

const childEnv = "WEFT_EMBEDDED_CHILD"

// TestChildServes is the process that the next test kills.
func TestChildServes(t *testing.T) {
	dir := os.Getenv(childEnv)
	if dir == "" {
		return
	}
	c := client(t, start(t, dir), "p")
	for i := 0; ; i++ {
		if _, err := c.Txn(context.Background(), store.Txn{Then: []store.Op{store.Put(number, fmt.Appendf(nil, "%d", i))}}); err != nil {
			t.Fatal(err)
		}
		fmt.Printf("applied %d\n", i)
	}
}

var number = store.Key{Partition: store.Meta, Name: "n"}

func TestDataOutliveSIGKILL(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestChildServes$")
	cmd.Env = append(os.Environ(), childEnv+"="+dir)
	r, err := cmd.StdoutPipe()
	if err = errors.Join(err, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	last := -1
	for last < 100 {
		if _, err := fmt.Fscanf(r, "applied %d\n", &last); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := embedded.Start(t.Context(), embedded.Config{Dir: dir, Listen: "127.0.0.1:0"}); err == nil || !strings.Contains(err.Error(), dir+" is in use") {
		t.Errorf("a second server on the same directory: %v", err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := fmt.Fscanf(r, "applied %d\n", &last); err != nil {
			break
		}
	}
	_ = cmd.Wait() // killed: its status says so
	e, err := client(t, start(t, dir), "p").Get(t.Context(), number)
	if err != nil {
		t.Fatal(err)
	}
	var got int
	if _, err := fmt.Sscan(string(e.Value), &got); err != nil || got < last {
		t.Errorf("%d was acknowledged, the store has %q", last, e.Value)
	}
}

func TestManyServersStartAtOnceSoonAndQuietly(t *testing.T) {
	var log bytes.Buffer
	h := slog.New(slog.NewTextHandler(&log, nil))
	var wg sync.WaitGroup
	dir := t.TempDir()
	for i := range 4 {
		wg.Go(func() {
			begin := time.Now()
			s, err := embedded.Start(t.Context(), embedded.Config{Dir: filepath.Join(dir, fmt.Sprint(i)), Listen: "127.0.0.1:0", Log: h})
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Close()
			if d := time.Since(begin); d > 5*time.Second {
				t.Errorf("it took %v", d)
			} else {
				t.Logf("ready in %v", d)
			}
			c, err := etcd.New(etcd.Config{Endpoints: []string{s.Endpoint()}, Prefix: "p"})
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = c.Close() }()
			if st, err := c.Status(t.Context()); err != nil || st.ClusterID == "" || st.Version == "" {
				t.Errorf("status %+v, %v", st, err)
			}
		})
	}
	wg.Wait()
	if log.Len() > 0 {
		t.Errorf("the log is not quiet:\n%s", log.String())
	}
}

func TestAnAddressThatIsNoneIsRefused(t *testing.T) {
	if _, err := embedded.Start(t.Context(), embedded.Config{Dir: t.TempDir(), Listen: "nowhere"}); err == nil || !strings.Contains(err.Error(), "ADDRESS:PORT") {
		t.Errorf("got %v", err)
	}
}
