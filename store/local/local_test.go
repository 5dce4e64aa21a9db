package local_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"weft/store"
	"weft/store/local"
	"weft/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, path string) *local.Store {
	t.Helper()
	s, err := local.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestConformance(t *testing.T) {
	var all []*local.Store
	lock := make(chan struct{}, 1)
	storetest.Run(t, storetest.World{
		SingleClient: true, Floor: 100 * time.Millisecond,
		Client: func(t *testing.T, prefix string) store.Store {
			s := open(t, filepath.Join(t.TempDir(), prefix))
			lock <- struct{}{}
			defer func() { <-lock }()
			all = append(all, s)
			return s
		},
		Compact: func(*testing.T) {
			lock <- struct{}{}
			defer func() { <-lock }()
			for _, s := range all {
				s.ForgetHistory()
			}
		},
	})
}

func TestAFileKeepsWhatWasApplied(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	s := open(t, path)
	k := store.Key{Partition: "net/x", Name: "a/b"}
	rev, err := s.Txn(t.Context(), store.Txn{Then: []store.Op{store.Put(k, []byte("v"))}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := local.Open(path); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("opened twice: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, path)
	e, err := s.Get(t.Context(), k)
	if err != nil || string(e.Value) != "v" || e.Rev != rev {
		t.Errorf("got %+v, %v", e, err)
	}
	next, err := s.Txn(t.Context(), store.Txn{If: []store.Cond{{Key: k, Rev: rev}}, Then: []store.Op{store.Del(k)}})
	if err != nil || next <= rev {
		t.Errorf("revision %d after %d: %v", next, rev, err)
	}
}

func TestADamagedFileIsNamed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	if err := os.WriteFile(path, []byte(strings.Repeat("not a database ", 4096)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := local.Open(path); err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("got %v", err)
	}
}
