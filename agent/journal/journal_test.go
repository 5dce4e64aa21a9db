package journal_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"weft/agent/journal"
	"weft/store"
	"weft/store/local"
	"weft/store/memory"
	"weft/store/record"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// open opens the journal of a state directory as an agent does. close ends it, as the test's end does at the latest.
func open(t *testing.T, dir string) (j *journal.Journal, s *local.Store) {
	t.Helper()
	s, err := local.Open(filepath.Join(dir, "journal.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return journal.New(s, dir), s
}

func sandbox(name string, nets ...record.NetworkID) *record.Sandbox {
	s := &record.Sandbox{ID: record.SandboxID("id-" + name), Name: name, Command: []string{"sleep", "1"}, Status: record.SandboxRunning}
	for i, n := range nets {
		s.Attachments = append(s.Attachments, record.Attachment{
			Network: n, Endpoint: record.EndpointID("ep-" + name + "-" + string(n)), Intent: i == 0, IfName: fmt.Sprintf("eth%d", i), Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.2")},
		})
	}
	return s
}

func TestASecondAgentMeetsTheLock(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state", "deep") // it is made
	unlock, err := journal.Lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	_, err = journal.Lock(dir)
	if !errors.Is(err, journal.ErrLocked) || !strings.Contains(err.Error(), "process "+strconv.Itoa(os.Getpid())) || !strings.Contains(err.Error(), dir) {
		t.Errorf("second lock: %v, want the holder's process and the directory", err)
	}
	if err := unlock(); err != nil {
		t.Fatal(err)
	}
	again, err := journal.Lock(dir)
	if err != nil {
		t.Fatalf("unlocked, and yet: %v", err)
	}
	if err := again(); err != nil {
		t.Error(err)
	}
	if st, err := os.Stat(dir); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("the state directory is %v, %v: nobody else may read it", st.Mode(), err)
	}
}

const lockEnv = "WEFT_JOURNAL_LOCK"

// TestChildLocks is the process that the next test kills while it holds the lock.
func TestChildLocks(t *testing.T) {
	dir := os.Getenv(lockEnv)
	if dir == "" {
		return
	}
	if _, err := journal.Lock(dir); err != nil {
		t.Fatal(err)
	}
	fmt.Println("locked")
	_, _ = os.Stdin.Read(make([]byte, 1)) // until it is killed
}

func TestALockEndsWithItsProcess(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestChildLocks$")
	cmd.Env = append(os.Environ(), lockEnv+"="+dir)
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close() }()
	var word string
	if _, err := fmt.Fscan(out, &word); err != nil || word != "locked" {
		t.Fatalf("%q, %v", word, err)
	}
	if _, err := journal.Lock(dir); !errors.Is(err, journal.ErrLocked) || !strings.Contains(err.Error(), fmt.Sprintf("process %d", cmd.Process.Pid)) {
		t.Errorf("while it lives: %v", err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed: its status says so
	// Its file is still there, with its number.
	unlock, err := journal.Lock(dir)
	if err != nil {
		t.Fatalf("after its end: %v", err)
	}
	if err := unlock(); err != nil {
		t.Error(err)
	}
}

// An agent that was killed while it forked leaves its lock with the child until that runs its own program.
func TestALockThatOutlivesItsProcessForAMomentIsWaitedFor(t *testing.T) {
	dir := t.TempDir()
	if unlock, err := journal.Lock(dir); err != nil || unlock() != nil {
		t.Fatal(err)
	}
	gone := exec.CommandContext(t.Context(), "true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) != 1 {
		t.Fatalf("%v, %v; want the lock's file", files, err)
	}
	f, err := os.OpenFile(files[0], os.O_RDWR|os.O_TRUNC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprint(f, gone.Process.Pid); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	released := make(chan error, 1)
	time.AfterFunc(50*time.Millisecond, func() { released <- f.Close() })
	unlock, err := journal.Lock(dir)
	if err != nil {
		t.Fatalf("a lock of a process that has ended: %v", err)
	}
	if err := errors.Join(unlock(), <-released); err != nil {
		t.Error(err)
	}
}

func TestALockThatCannotBeMadeSaysWhy(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := journal.Lock(filepath.Join(file, "state")); err == nil || !strings.Contains(err.Error(), "make the state directory") {
		t.Errorf("got %v", err)
	}
}

func TestTheIdentityOutlivesTheAgent(t *testing.T) {
	dir := t.TempDir()
	j, s := open(t, dir)
	if id, err := j.Identity(t.Context()); err != nil || id != (journal.Identity{}) {
		t.Errorf("of a new host: %+v, %v", id, err)
	}
	want := journal.Identity{Host: "h", Incarnation: 3, BootID: "b", Cluster: "c", Store: "etcd://x", Session: "1f", VTEP: "192.0.2.1"}
	for _, id := range []journal.Identity{{Host: "h"}, want} {
		if err := j.SetIdentity(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	j, _ = open(t, dir)
	if got, err := j.Identity(t.Context()); err != nil || got != want {
		t.Errorf("got %+v, %v", got, err)
	}
}

// Given a journal that a later version has written (testdata/later.json: what it knows more is called later), when this version reads it and writes
// what it changes, then what it does not know is there for the next upgrade.
func TestAJournalOfALaterVersionIsKept(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join("testdata", "later.json"))
	if err != nil {
		t.Fatal(err)
	}
	var later struct{ Identity, Sandbox json.RawMessage }
	if err := json.Unmarshal(raw, &later); err != nil {
		t.Fatal(err)
	}
	j, s := open(t, t.TempDir())
	self, box := store.Key{Partition: "self", Name: "identity"}, store.Key{Partition: "sandboxes", Name: strings.Repeat("a", 64)}
	if _, err := s.Txn(t.Context(), store.Txn{Then: []store.Op{store.Put(self, later.Identity), store.Put(box, later.Sandbox)}}); err != nil {
		t.Fatal(err)
	}
	id, err := j.Identity(t.Context())
	if err != nil || id.Host != "h" || id.Session != "1f" {
		t.Fatalf("%+v, %v", id, err)
	}
	id.Incarnation, id.Session = 8, ""
	all, corrupt, err2 := j.Sandboxes(t.Context())
	if err2 != nil || len(corrupt) > 0 || len(all) != 1 {
		t.Fatalf("%v, %v, %v", all, corrupt, err2)
	}
	next := *all[0]
	next.Name = "renamed"
	if err := errors.Join(j.SetIdentity(t.Context(), id), j.PutSandbox(t.Context(), &next)); err != nil {
		t.Fatal(err)
	}
	for k, want := range map[store.Key]map[string]string{
		self: {"later": `{"x":1}`, "incarnation": "8", "session": ""}, box: {"later": `["y"]`, "name": `"renamed"`},
	} {
		e, err := s.Get(t.Context(), k)
		fields := map[string]json.RawMessage{}
		if err := errors.Join(err, json.Unmarshal(e.Value, &fields)); err != nil {
			t.Fatal(err)
		}
		for name, v := range want {
			if got := string(fields[name]); got != v {
				t.Errorf("%s: %s is %s, want %s", k, name, got, v)
			}
		}
	}
}

func TestACorruptIdentityIsSaidAndNotReplaced(t *testing.T) {
	c := memory.New().Client()
	defer func() { _ = c.Close() }()
	j := journal.New(c, t.TempDir())
	scribble(t, c, "self", "identity", `{"host":`)
	if id, err := j.Identity(t.Context()); err == nil || !strings.Contains(err.Error(), "read this host's identity") {
		t.Errorf("got %+v, %v: a new identity would orphan all that this host owns", id, err)
	}
}

func scribble(t *testing.T, s store.Store, partition, name, value string) {
	t.Helper()
	if _, err := s.Txn(t.Context(), store.Txn{Then: []store.Op{store.Put(store.Key{Partition: partition, Name: name}, []byte(value))}}); err != nil {
		t.Fatal(err)
	}
}

func names(t *testing.T, j *journal.Journal) (out []string) {
	t.Helper()
	all, errs, err := j.Sandboxes(t.Context())
	if err != nil || len(errs) > 0 {
		t.Fatal(err, errs)
	}
	for _, s := range all {
		out = append(out, s.Name)
	}
	return out
}

// Each write waits for the disk: many sandboxes are few of them.
func TestManySandboxesAreWrittenTogether(t *testing.T) {
	dir := t.TempDir()
	j, st := open(t, dir)
	var all []*record.Sandbox
	var want []string
	for i := range 2*store.MaxOps + 1 {
		name := fmt.Sprintf("c%02d", i)
		all, want = append(all, sandbox(name, "front")), append(want, name)
	}
	rev := revision(t, st)
	if err := errors.Join(j.PutSandboxes(t.Context(), all), j.PutSandboxes(t.Context(), nil)); err != nil {
		t.Fatal(err)
	}
	if now := revision(t, st); now != rev+3 {
		t.Errorf("%d sandboxes took %d transactions", len(all), now-rev)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	j, _ = open(t, dir)
	if got := names(t, j); !slices.Equal(got, want) {
		t.Errorf("sandboxes %v", got)
	}
}

func TestSandboxesAndTheirReleasesAreOneFact(t *testing.T) {
	dir := t.TempDir()
	j, st := open(t, dir)
	c1, c2 := sandbox("c1", "front", "back"), sandbox("c2")
	if err := errors.Join(j.PutSandbox(t.Context(), c1), j.PutSandbox(t.Context(), c2)); err != nil {
		t.Fatal(err)
	}
	rev := revision(t, st)
	gone := journal.Release{Network: "front", Endpoint: c1.Attachments[0].Endpoint}
	c1.Attachments = c1.Attachments[1:]
	if err := j.PutSandbox(t.Context(), c1, gone); err != nil {
		t.Fatal(err)
	}
	last := journal.Release{Network: "back", Endpoint: c1.Attachments[0].Endpoint}
	if err := j.DeleteSandbox(t.Context(), c1.ID, last); err != nil {
		t.Fatal(err)
	}
	if now := revision(t, st); now != rev+2 {
		t.Errorf("two changes took %d transactions: a crash between could keep one half", now-rev)
	}
	extra := journal.Release{Network: "back", Endpoint: "ep-x"}
	if err := j.AddRelease(t.Context(), extra); err != nil {
		t.Fatal(err)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}

	j, _ = open(t, dir)
	if got := names(t, j); !slices.Equal(got, []string{"c2"}) {
		t.Errorf("sandboxes %v", got)
	}
	if got, err := j.Releases(t.Context()); err != nil || !cmp.Equal(got, []journal.Release{last, gone, extra}) {
		t.Errorf("releases %v, %v", got, err)
	}
	if err := j.Released(t.Context(), gone.Endpoint, "never", last.Endpoint); err != nil {
		t.Fatal(err)
	}
	if got, err := j.Releases(t.Context()); err != nil || !cmp.Equal(got, []journal.Release{extra}) {
		t.Errorf("left %v, %v", got, err)
	}
}

func revision(t *testing.T, s store.Store) store.Rev {
	t.Helper()
	st, err := s.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return st.Rev
}

func TestASandboxComesBackAsItWas(t *testing.T) {
	j, _ := open(t, t.TempDir())
	want := sandbox("c1", "front")
	want.Env, want.Labels, want.ExitCode, want.Error = []string{"A=ä"}, map[string]string{"k": "v"}, 137, "no such file"
	if err := j.PutSandbox(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	all, _, err := j.Sandboxes(t.Context())
	if err != nil || len(all) != 1 {
		t.Fatal(all, err)
	}
	got, err1 := json.Marshal(all[0])
	exp, err2 := json.Marshal(want)
	if errors.Join(err1, err2) != nil || string(got) != string(exp) {
		t.Errorf("got %s, want %s", got, exp)
	}
}

func TestACorruptSandboxIsNamedAndTheOthersGoOn(t *testing.T) {
	c := memory.New().Client()
	defer func() { _ = c.Close() }()
	j := journal.New(c, t.TempDir())
	if err := j.PutSandbox(t.Context(), sandbox("good")); err != nil {
		t.Fatal(err)
	}
	scribble(t, c, "sandboxes", "half", `{"v":1,"id":"x"`)
	scribble(t, c, "sandboxes", "newer", `{"v":99,"id":"x","name":"y"}`)
	scribble(t, c, "sandboxes", "senseless", `{"v":1}`)
	all, errs, err := j.Sandboxes(t.Context())
	if err != nil || len(all) != 1 || all[0].Name != "good" {
		t.Fatalf("%v, %v", all, err)
	}
	said := errors.Join(errs...)
	for _, name := range []string{"sandbox half", "sandbox newer: decode record: schema 99", "sandbox senseless"} {
		if said == nil || !strings.Contains(said.Error(), name) {
			t.Errorf("%v does not name %q", said, name)
		}
	}
}

// A removal and its releases are one transaction, so what could not be removed cannot be made.
func TestASandboxInTooManyNetworksIsRefused(t *testing.T) {
	j, _ := open(t, t.TempDir())
	var nets []record.NetworkID
	for i := range store.MaxOps {
		nets = append(nets, record.NetworkID(fmt.Sprint(i)))
	}
	if err := j.PutSandbox(t.Context(), sandbox("c1", nets...)); err == nil || !strings.Contains(err.Error(), "sandbox c1 in 24 networks: at most 23 are possible") {
		t.Errorf("got %v", err)
	}
	most := sandbox("c1", nets[1:]...)
	if err := j.PutSandbox(t.Context(), most); err != nil {
		t.Fatal(err)
	}
	var all []journal.Release
	for _, a := range most.Attachments {
		all = append(all, journal.Release{Network: a.Network, Endpoint: a.Endpoint})
	}
	if err := j.DeleteSandbox(t.Context(), most.ID, all...); err != nil {
		t.Fatal(err)
	}
	rs, err := j.Releases(t.Context())
	if err != nil || len(rs) != len(nets)-1 {
		t.Fatalf("%d releases, %v", len(rs), err)
	}
	var ids []record.EndpointID
	for i := range 100 { // more than fit one transaction
		ids = append(ids, record.EndpointID(fmt.Sprint("none-", i)))
	}
	for _, r := range rs {
		ids = append(ids, r.Endpoint)
	}
	if err := j.Released(t.Context(), ids...); err != nil {
		t.Fatal(err)
	}
	if rs, err := j.Releases(t.Context()); err != nil || len(rs) != 0 {
		t.Errorf("left %v, %v", rs, err)
	}
}

func TestAWriteThatFailsSaysWhatAndWhere(t *testing.T) {
	c := memory.New().Client()
	defer func() { _ = c.Close() }()
	j := journal.New(c, "/state")
	c.Cut(true)
	for want, err := range map[string]error{
		"write this host's identity to the state directory /state":  j.SetIdentity(t.Context(), journal.Identity{}),
		"write sandbox c1 to the state directory /state":            j.PutSandbox(t.Context(), sandbox("c1")),
		"write the removal of sandbox id-c1 to the state directory": j.DeleteSandbox(t.Context(), "id-c1"),
		"write a release to the state directory /state":             j.AddRelease(t.Context(), journal.Release{Endpoint: "x"}),
		"write releases to the state directory /state":              j.Released(t.Context(), "x"),
		"read the releases":         second(j.Releases(context.Background())),
		"read this host's identity": second(j.Identity(context.Background())),
	} {
		if !errors.Is(err, store.ErrUnreachable) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func second[T any](_ T, err error) error { return err }
