package command

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	weftv1 "weft/proto/weft/v1"
	"weft/store"
	"weft/store/backup"
)

// fakeBackups is the part of the fake that backs up and restores.
type fakeBackups struct {
	file     []byte // what a backup is
	cut      int    // bytes after which the agent fails; 0: never
	refusal  error  // of a restore
	replaced string
	findings []*weftv1.Finding
	restored []*weftv1.RestoreStart
	received [][]byte
}

func (f *fakeStores) BackupStore(_ *weftv1.BackupStoreRequest, s grpc.ServerStreamingServer[weftv1.BackupChunk]) error {
	for i, b := range f.file {
		if f.cut > 0 && i == f.cut {
			return status.Error(codes.Unavailable, "cluster store etcd://x is not reachable")
		}
		if err := s.Send(&weftv1.BackupChunk{Data: []byte{b}}); err != nil {
			return err
		}
	}
	return nil
}

func (f *fakeStores) RestoreStore(s grpc.ClientStreamingServer[weftv1.RestoreChunk, weftv1.RestoreStoreResponse]) error {
	var got []byte
	for {
		m, err := s.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if start := m.GetStart(); start != nil {
			f.restored = append(f.restored, start)
			if f.refusal != nil {
				return f.refusal
			}
		}
		got = append(got, m.GetData()...)
	}
	f.received = append(f.received, got)
	return s.SendAndClose(&weftv1.RestoreStoreResponse{ClusterId: "c", Replaced: f.replaced, Puts: 2, Dels: 1, Same: 3, Time: timestamppb.Now(), Findings: f.findings})
}

func backupFile(t *testing.T) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := backup.NewWriter(&out, backup.Header{Cluster: "c", Rev: 7, Time: time.Unix(1700000000, 0)})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Put(store.Key{Partition: "meta", Name: "cluster"}, []byte("x")), w.Close(8)); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestBackup(t *testing.T) {
	f, s := newFake(), newShell(t)
	f.file = backupFile(t)
	f.serve(t, s.path)
	dir := t.TempDir()
	name := filepath.Join(dir, "b.txt")
	if r := s.run("backup", "-o", name); r.code != 0 || r.out != name+": 1 key of cluster c at revision 8\n" {
		t.Errorf("%+v", r)
	}
	got, err := os.ReadFile(name)
	if err != nil || !bytes.Equal(got, f.file) {
		t.Errorf("the file has %q, %v", got, err)
	}
	st, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	if st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", st.Mode())
	}
	if r := s.run("backup"); r.code != 0 || r.out != string(f.file) || r.err != "" {
		t.Errorf("to the standard output: %+v", r)
	}
	f.cut = 20
	if r := s.run("backup", "--output", name); r.code != 1 || !strings.Contains(r.err, "is not reachable") {
		t.Errorf("a backup that breaks off: %+v", r)
	}
	f.cut, f.file = 0, f.file[:len(f.file)-5]
	if r := s.run("backup", "--output", name); r.code != 1 || !strings.Contains(r.err, "damaged at line 3") {
		t.Errorf("a backup that is not whole: %+v", r)
	}
	if again, err := os.ReadFile(name); err != nil || !bytes.Equal(again, got) {
		t.Errorf("the good file was touched: %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("left beside the file: %v, %v", left, err)
	}
}

func TestABackupThatCannotBeWrittenAsksNobody(t *testing.T) {
	s, dir := newShell(t), t.TempDir() // no agent is there: to ask it would be another error
	missing := filepath.Join(dir, "no", "such")
	for name, want := range map[string]string{
		dir:     "Error: write the backup: " + dir + " is a directory; name a file in it\n",
		missing: "Error: write the backup to " + missing + ": no such file or directory\n",
	} {
		if r := s.run("backup", "-o", name); r != (result{"", want, 1}) {
			t.Errorf("%+v, want %q", r, want)
		}
	}
}

func TestABackupKeepsWhatItsNameIs(t *testing.T) {
	f, s := newFake(), newShell(t)
	f.file = backupFile(t)
	f.serve(t, s.path)
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	kindOf := func(name string) os.FileMode {
		st, err := os.Lstat(at(name))
		if err != nil {
			t.Fatal(err)
		}
		return st.Mode()
	}

	// Given a device and a pipe with a reader
	if err := errors.Join(os.Symlink("/dev/null", at("null")), syscall.Mkfifo(at("pipe"), 0o640)); err != nil {
		t.Fatal(err)
	}
	read := make(chan []byte, 1)
	go func() {
		b, _ := os.ReadFile(at("pipe")) // the bytes show it
		read <- b
	}()
	// When backups go there, then they are what they were, and the reader has it all
	for _, name := range []string{"null", "pipe"} {
		if r := s.run("backup", "-o", at(name)); r != (result{}) {
			t.Errorf("%s: %+v", name, r)
		}
	}
	if got := <-read; !bytes.Equal(got, f.file) {
		t.Errorf("the pipe had %q", got)
	}
	if st, err := os.Stat("/dev/null"); err != nil || st.Mode()&os.ModeCharDevice == 0 || kindOf("pipe") != os.ModeNamedPipe|0o640 {
		t.Errorf("/dev/null: %v, %v; pipe: %v", st.Mode(), err, kindOf("pipe"))
	}

	// Given links to a file with a mode of its own, and to none yet
	if err := errors.Join(os.Mkdir(at("sub"), 0o755), os.WriteFile(at("sub/old"), nil, 0o600), os.Chmod(at("sub/old"), 0o644),
		os.Symlink("sub/link", at("link")), os.Symlink("old", at("sub/link")), os.Symlink("sub/new", at("tonew"))); err != nil {
		t.Fatal(err)
	}
	for link, target := range map[string]struct {
		name string
		mode os.FileMode
	}{"link": {"sub/old", 0o644}, "tonew": {"sub/new", 0o600}} {
		// When a backup goes through the link, then the file at its end is replaced
		if r := s.run("backup", "-o", at(link)); r.code != 0 || !strings.HasPrefix(r.out, at(link)+": 1 key ") {
			t.Errorf("%s: %+v", link, r)
		}
		got, err := os.ReadFile(at(target.name))
		if err != nil || !bytes.Equal(got, f.file) || kindOf(target.name) != target.mode || kindOf(link)&os.ModeSymlink == 0 {
			t.Errorf("%s: %q, %v, mode %v, the link %v", link, got, err, kindOf(target.name), kindOf(link))
		}
	}
}

func TestRestore(t *testing.T) {
	file := backupFile(t)
	for name, tc := range map[string]struct {
		args  []string
		in    string
		fake  func(*fakeBackups)
		out   []string
		err   string
		code  int
		calls int // of the agent; the last one without dry_run where there are two
	}{
		"dry run":      {[]string{"--dry-run"}, "", nil, []string{"Backup of cluster c, taken 2023-", ": 1 key.\n", "2 keys to write, 1 to delete, 3 are as in the backup.\n"}, "", 0, 1},
		"yes":          {[]string{"-y"}, "", nil, []string{"Restored: 2 keys written, 1 deleted.\n"}, "", 0, 2},
		"asked":        {nil, "y\n", nil, []string{"Continue? [y/N]", "Restored: "}, "", 0, 2},
		"no":           {nil, "n\n", nil, []string{"Continue? [y/N] \n"}, "Nothing was restored.\n", 1, 1},
		"end of input": {nil, "", nil, nil, "Nothing was restored.\n", 1, 1},
		"refused": {[]string{"-y"}, "", func(f *fakeBackups) {
			f.refusal = status.Error(codes.AlreadyExists, "the store holds cluster x: --force")
		}, nil, "Error: the store holds cluster x: --force\n", 1, 1},
		"another cluster": {[]string{"-y", "--force"}, "", func(f *fakeBackups) { f.replaced = "old" }, []string{"as in the backup; it replaces cluster old.\n"}, "", 0, 2},
		"with findings":   {[]string{"-y"}, "", func(f *fakeBackups) { f.findings = []*weftv1.Finding{{Key: "meta/x", Wrong: "odd", Remedy: "see"}} }, []string{"meta/x\n    odd\n"}, "Error: the backup was restored as it is", 1, 2},
	} {
		t.Run(name, func(t *testing.T) {
			f, s := newFake(), newShell(t)
			if tc.fake != nil {
				tc.fake(&f.fakeBackups)
			}
			f.serve(t, s.path)
			s.in = strings.NewReader(tc.in)
			r := s.run(append([]string{"restore", tempFile(t, string(file))}, tc.args...)...)
			if r.code != tc.code || !strings.HasPrefix(r.err, tc.err) || tc.err == "" && r.err != "" {
				t.Errorf("%+v", r)
			}
			for _, want := range tc.out {
				if !strings.Contains(r.out, want) {
					t.Errorf("printed %q, want %q in it", r.out, want)
				}
			}
			if len(f.restored) != tc.calls || !f.restored[0].DryRun || tc.calls == 2 && f.restored[1].DryRun {
				t.Errorf("the agent was asked %v, want %d times", f.restored, tc.calls)
			}
			for _, got := range f.received {
				if !bytes.Equal(got, file) {
					t.Errorf("the agent received %q", got)
				}
			}
		})
	}
}

func TestADamagedBackupIsNotSent(t *testing.T) {
	f, s := newFake(), newShell(t)
	f.serve(t, s.path)
	file := backupFile(t)
	file[len(file)/2] ^= 1
	name := tempFile(t, string(file))
	r := s.run("restore", "-y", name)
	if r.code != 1 || !strings.Contains(r.err, name+": the backup is damaged at line 2 (byte ") || !strings.Contains(r.err, "nothing was written") || len(f.restored) > 0 {
		t.Errorf("%+v, the agent was asked %v", r, f.restored)
	}
	if r := s.run("restore", name+".none"); r.code != 1 || !strings.Contains(r.err, "no such file") {
		t.Errorf("%+v", r)
	}
}

// What can be read only once is read as well as a file: a pipe has no beginning to go back to.
func TestRestoreFromAPipe(t *testing.T) {
	file := backupFile(t)
	spool := t.TempDir()
	t.Setenv("TMPDIR", spool)
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, stdin := range map[string]bool{"-": true, pipe: false} {
		f, s := newFake(), newShell(t)
		f.serve(t, s.path)
		wrote := make(chan error, 1)
		if stdin {
			s.in = io.MultiReader(bytes.NewReader(file)) // a reader and nothing else
			wrote <- nil
		} else {
			go func() { wrote <- os.WriteFile(pipe, file, 0) }()
		}
		r := s.run("restore", "--yes", name)
		if err := <-wrote; err != nil || r.code != 0 || !strings.Contains(r.out, "Restored: 2 keys written, 1 deleted.\n") {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
		if len(f.received) != 2 || !bytes.Equal(f.received[0], file) || !bytes.Equal(f.received[1], file) {
			t.Errorf("%s: the agent received %q", name, f.received)
		}
		if left, err := os.ReadDir(spool); err != nil || len(left) > 0 {
			t.Errorf("%s: left behind: %v, %v", name, left, err)
		}
	}

	// The standard input cannot be the backup and the answer
	s, in := newShell(t), tempFile(t, string(file))
	opened, err := os.Open(in)
	if err != nil {
		t.Fatal(err)
	}
	defer opened.Close()
	s.in = opened
	for _, name := range []string{"-", in} {
		if r := s.run("restore", name); r.code != 1 || r.out != "" || !strings.Contains(r.err, "give --yes") {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

func TestWhatIsNoBackupIsNotCalledDamaged(t *testing.T) {
	file := backupFile(t)
	damaged := bytes.Clone(file)
	damaged[3] ^= 0x40 // of the first line's checksum
	for name, tc := range map[string]struct{ content, want string }{
		"text":              {"hello\nworld\n", " is not a weft backup\n"},
		"gzip":              {"\x1f\x8b\x08\x00\x00\x00\x00\x00", " is not a weft backup\n"},
		"nothing":           {"", " is not a weft backup: it is empty\n"},
		"a damaged header":  {string(damaged), ": the backup is damaged at line 1 "},
		"the start of one":  {string(file[:20]), ": the backup is damaged at line 1 "},
		"one without start": {string(file[bytes.IndexByte(file, '\n')+1:]), ": the backup is damaged at line 1 "},
	} {
		path := tempFile(t, tc.content)
		if r := newShell(t).run("restore", "-y", path); r.code != 1 || r.out != "" || !strings.HasPrefix(r.err, "Error: "+path+tc.want) {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

func TestASizeInWords(t *testing.T) {
	for n, want := range map[int64]string{0: "0 bytes", 10239: "10239 bytes", 10240: "10 KiB", 11 << 20: "11 MiB"} {
		if got := inBytes(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}
