package sandbox

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// What a process sees of what its Spec says.
func TestInside(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 100_000)
	for _, tc := range []struct {
		name   string
		spec   Spec
		script string
		want   string
	}{
		{"the default environment", Spec{Hostname: "box"}, `echo "$PATH|$HOME|$HOSTNAME|$TERM"`, defaultPath + "|/root|box|"},
		{"a terminal's environment", Spec{TTY: true}, `echo "$TERM"`, "xterm"},
		{"the given environment goes first", Spec{Env: []string{"HOME=/elsewhere", "A=1", "A=2", "no-value"}}, `echo "$HOME|$A"`, "/elsewhere|2"},
		{"nothing of the supervisor's environment", Spec{}, `echo "$GOMAXPROCS$GOGC$GOMEMLIMIT"`, ""},
		{"a long environment", Spec{Env: []string{"LONG=" + long}}, `echo ${#LONG}`, "100000"},
		{"root", Spec{}, `echo $(id -u):$(id -g)`, "0:0"},
		{"a user by name", Spec{User: "daemon"}, `echo $(id -u):$(id -g):$HOME`, "1:1:/usr/sbin"},
		{"a user by number", Spec{User: "1"}, `echo $(id -u):$(id -g)`, "1:1"},
		{"a number that is nobody's", Spec{User: "4321"}, `echo $(id -u):$(id -g):$(id -G):$HOME`, "4321:0:0:/"},
		{"a user and a group", Spec{User: "4321:1234"}, `echo $(id -u):$(id -g):$(id -G)`, "4321:1234:1234"},
		{"a user and a named group", Spec{User: "daemon:mail"}, `echo $(id -u):$(id -g)`, "1:8"},
		{"the root directory", Spec{}, `pwd`, "/"},
		{"a directory", Spec{Workdir: "/usr"}, `pwd`, "/usr"},
		{"the host name", Spec{Hostname: "box"}, `echo $(uname -n):$(cat /etc/hostname)`, "box:box"},
		{"names", Spec{Hosts: "10.1.2.3 somebody\n"}, `cat /etc/hosts`, "10.1.2.3 somebody"},
		{"resolver", Spec{Resolv: "nameserver 127.0.0.11\n"}, `cat /etc/resolv.conf`, "nameserver 127.0.0.11"},
		{"no standard input", Spec{}, `readlink /proc/self/fd/0; cat`, "/dev/null"},
		{"no terminal", Spec{}, `test -t 1 || echo none`, "none"},
		{"no open files", Spec{}, `ls /proc/self/fd | tr '\n' ' '`, "0 1 2 3"}, // 3 is ls's own
		{"the usual mask", Spec{}, `umask`, "0022"},
		{"a session of its own", Spec{}, `test $(cut -d' ' -f6 /proc/self/stat) = $$ && echo own`, "own"},
		{"no ignored and no blocked signals", Spec{}, signalScript("SigBlk") + "; " + signalScript("SigIgn"), "0\n0"},
		{"its links only", Spec{}, `ls /sys/class/net; cat /sys/class/net/lo/ifindex`, "lo\n1"},
		{"no mounts of others", Spec{}, `grep -c " $SHARED" /proc/self/mountinfo`, "0"},
		{"its outputs by name, as another user", Spec{User: "4321"}, `echo out >/dev/stdout`, "out"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, true)
			tc.spec.Command, tc.spec.Env = shell(tc.script), append(tc.spec.Env, "SHARED="+w.cfg.RunDir)
			w.create() // another one
			got := w.run(tc.spec)
			if out := strings.TrimSpace(strings.ReplaceAll(got.stdout, "\r", "")); out != tc.want {
				t.Errorf("it wrote %q (and %q), want %q", out, got.stderr, tc.want)
			}
		})
	}
}

// Supplementary groups come from the files, unless a group is named.
func TestFindUser(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	passwd, group := filepath.Join(dir, "passwd"), filepath.Join(dir, "group")
	write(t, passwd, "# comment\nroot:x:0:0::/root:/bin/sh\n\nann:x:1000:100::/home/ann:/bin/sh\n2000:x:3000:300::/home/n:/bin/sh\nhomeless:x:1001:100:::\nbad:x:y:z::/:\n")
	write(t, group, "root:x:0:\nusers:x:100:\nwheel:x:10:root,ann\nvideo:x:44:ann\nshort\n")
	for _, tc := range []struct{ spec, want string }{
		{"", "0:0 [10] /root"},
		{"ann", "1000:100 [10 44] /home/ann"},
		{"1000", "1000:100 [10 44] /home/ann"},
		{"ann:video", "1000:44 [] /home/ann"},
		{"ann:7", "1000:7 [] /home/ann"},
		{"2000", "3000:300 [] /home/n"}, // a name goes before a number
		{"5", "5:0 [] /"},
		{"homeless", "1001:100 [] /"},
	} {
		got, err := findUser(tc.spec, passwd, group)
		if err != nil {
			t.Errorf("findUser(%q): %v", tc.spec, err)
		} else if s := fmt.Sprintf("%d:%d %v %s", got.uid, got.gid, got.groups, got.home); s != tc.want {
			t.Errorf("findUser(%q) = %s, want %s", tc.spec, s, tc.want)
		}
	}
	for _, spec := range []string{"bob", "bad", "ann:nope", "-1", "4294967295"} {
		if got, err := findUser(spec, passwd, group); err == nil {
			t.Errorf("findUser(%q) = %+v, want an error", spec, got)
		}
	}
	if got, err := findUser("7", filepath.Join(dir, "none"), filepath.Join(dir, "none")); err != nil || got.uid != 7 {
		t.Errorf("findUser without files: %+v, %v", got, err)
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// What is put over /etc can be changed while the process runs, and the host's own files stay as they are.
func TestFilesOfEtc(t *testing.T) {
	t.Parallel()
	before := hostFiles(t)
	w := newWorld(t, true)
	id := w.create()
	if err := w.SetHosts(id, "10.0.0.1 early\n"); err != nil {
		t.Fatal(err)
	}
	spec := Spec{Command: shell("while read f; do cat /etc/$f; done"), Stdin: true, Resolv: "nameserver 10.0.0.9\n", Hostname: "box"}
	if err := w.Start(w.ctx, id, spec); err != nil {
		t.Fatal(err)
	}
	s := w.attach(id)
	ask := func(file, want string) {
		t.Helper()
		if _, err := s.Write([]byte(file + "\n")); err != nil {
			t.Fatal(err)
		}
		if got := readUntil(t, s, "\n"); got != want {
			t.Errorf("/etc/%s is %q, want %q", file, got, want)
		}
	}
	ask("hosts", "10.0.0.1 early\n") // set before the start, and not by it
	ask("resolv.conf", "nameserver 10.0.0.9\n")
	if err := w.SetHosts(id, "::1 late\n"); err != nil {
		t.Fatal(err)
	}
	if err := w.SetResolv(id, "nameserver 10.0.0.8\n"); err != nil {
		t.Fatal(err)
	}
	ask("hosts", "::1 late\n")
	ask("resolv.conf", "nameserver 10.0.0.8\n")
	ask("hostname", "box\n")
	if after := hostFiles(t); after != before {
		t.Errorf("the host's files changed:\n%s\nbefore:\n%s", after, before)
	}
}

func hostFiles(t *testing.T) string {
	t.Helper()
	var out strings.Builder
	for _, name := range []string{hostsName, resolvName, hostnameName} {
		raw, err := os.ReadFile("/etc/" + name)
		if err != nil {
			t.Fatal(err)
		}
		link, _ := os.Readlink("/etc/" + name)
		fmt.Fprintf(&out, "%s %s\n%s", name, link, raw)
	}
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	return out.String() + name
}

// Over a link the file that it leads to is covered; over nothing, and over a link that leads nowhere, a layer is laid. It is done in a
// mount namespace of a thread, as a supervisor's spawner does it.
func TestBindFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	etc, elsewhere, run := filepath.Join(dir, "etc"), filepath.Join(dir, "elsewhere"), filepath.Join(dir, "run")
	for _, d := range []string{etc, elsewhere, run} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(etc, "other"), "other")
	write(t, filepath.Join(elsewhere, "real"), "the host's")
	for link, to := range map[string]string{resolvName: "../elsewhere/real", hostsName: "../elsewhere/nothing"} {
		if err := os.Symlink(to, filepath.Join(etc, link)); err != nil {
			t.Fatal(err)
		}
	}
	names := []string{hostsName, resolvName, hostnameName}
	for _, n := range names {
		write(t, filepath.Join(run, n), "ours "+n)
	}
	s, err := newSpawner(place{Shared: dir, Run: run}, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { close(s.tasks) })
	err = s.do(func() error {
		if err := bindFiles(place{Run: run, Hosts: true, Resolv: true, Hostname: true}, etc); err != nil {
			return err
		}
		for _, n := range names {
			if raw, err := os.ReadFile(filepath.Join(etc, n)); err != nil || string(raw) != "ours "+n {
				return fmt.Errorf("inside, %s is %q, %v", n, raw, err)
			}
		}
		if raw, err := os.ReadFile(filepath.Join(etc, "other")); err != nil || string(raw) != "other" {
			return fmt.Errorf("inside, the rest is %q, %v", raw, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if raw, err := os.ReadFile(filepath.Join(etc, resolvName)); err != nil || string(raw) != "the host's" {
		t.Errorf("outside, the link's file is %q, %v", raw, err)
	}
	if _, err := os.Stat(filepath.Join(etc, hostsName)); !os.IsNotExist(err) {
		t.Errorf("outside, the link leads somewhere: %v", err)
	}
	if _, err := os.Lstat(filepath.Join(etc, hostnameName)); !os.IsNotExist(err) {
		t.Errorf("outside, there is a new file: %v", err)
	}
}

// A process is in its sandbox's network and in no other, unless it is to have the host's.
func TestNetworkOfProcess(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	id := w.start(Spec{Command: []string{"sleep", "60"}, Detached: true})
	if got, want := inode(t, fmt.Sprintf("/proc/%d/ns/net", w.PID(id))), inode(t, w.NetnsPath(id)); got != want {
		t.Errorf("the process is in network namespace %d, want %d", got, want)
	}
	for _, ns := range []string{"mnt", "uts", "net"} {
		if inode(t, fmt.Sprintf("/proc/%d/ns/%s", w.PID(id), ns)) == inode(t, "/proc/thread-self/ns/"+ns) {
			t.Errorf("the process is in the host's %s namespace", ns)
		}
	}
	id = w.create()
	if err := w.Remove(w.ctx, id, true); err != nil {
		t.Fatal(err)
	}
	if err := w.Create(w.ctx, id, true); err != nil {
		t.Fatal(err)
	}
	if err := w.Start(w.ctx, id, Spec{Command: []string{"sleep", "60"}, HostNetwork: true, Detached: true}); err != nil {
		t.Fatal(err)
	}
	if inode(t, fmt.Sprintf("/proc/%d/ns/net", w.PID(id))) != inode(t, "/proc/thread-self/ns/net") {
		t.Error("a process in the host's network is elsewhere")
	}
	if _, err := os.Stat(w.NetnsPath(id)); !os.IsNotExist(err) {
		t.Errorf("a sandbox in the host's network has a namespace: %v", err)
	}
}

func inode(t *testing.T, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatalf("stat %s: %v", path, err)
	}
	return st.Ino
}

// A sandbox that outlives another must not keep that one's network namespace alive: a link in it would stay.
func TestNamespacesEndWithTheirSandbox(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	first := w.start(Spec{Command: []string{"sleep", "60"}, Detached: true})
	keeper := w.start(Spec{Command: []string{"sleep", "60"}, Detached: true})
	host, inner := "wsb"+first[:8], "wsc"+first[:8]
	test := exec.Command("unshare", "-n", "sleep", "60") // the other end of the pair lives in a namespace of the test's own
	test.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := test.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = test.Process.Kill(); _ = test.Wait() })
	own := inode(t, "/proc/thread-self/ns/net")
	eventually(t, "the test has a network namespace", func() bool { return inode(t, fmt.Sprintf("/proc/%d/ns/net", test.Process.Pid)) != own })
	in := func(args ...string) ([]byte, error) {
		return exec.Command("nsenter", append([]string{"-t", itoa(test.Process.Pid), "-n"}, args...)...).CombinedOutput()
	}
	if out, err := in("ip", "link", "add", host, "type", "veth", "peer", "name", inner, "netns", itoa(w.PID(first))); err != nil {
		t.Fatalf("make a pair of links: %v: %s", err, out)
	}
	if err := w.Remove(w.ctx, first, true); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the link of the removed sandbox is gone", func() bool {
		_, err := in("ip", "link", "show", host)
		return err != nil
	})
	if w.PID(keeper) == 0 {
		t.Error("the other sandbox ended")
	}
}

func TestSocketIsPrivate(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	id := w.start(Spec{Command: []string{"sleep", "60"}, Detached: true})
	st, err := os.Stat(filepath.Join(w.runDir(id), socketName))
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the socket has mode %v, %v, want 0600", st.Mode().Perm(), err)
	}
	var c net.Conn
	if err := within(w.runDir(id), func(dir string) (err error) { c, err = net.Dial("unix", filepath.Join(dir, socketName)); return err }); err != nil {
		t.Fatal(err)
	}
	l := &link{Conn: c}
	defer func() { _ = l.Close() }()
	if err := l.send(99, []byte("skipped")); err != nil { // of a later version
		t.Fatal(err)
	}
	if err := l.sendJSON(frameRequest, map[string]any{"v": 9, "op": "dance", "later": true}); err != nil {
		t.Fatal(err)
	}
	var r reply
	if err := l.receiveJSON(frameReply, &r); err != nil || !strings.Contains(r.Error, "another version") {
		t.Errorf("an unknown request is answered with %+v, %v", r, err)
	}
}

// signalScript prints a set of signals as a number, without 32 and 33: those are the C library's own, and it ignores them in what it spawns
// (make does so with the tests).
func signalScript(set string) string {
	return "echo $((0x$(grep ^" + set + " /proc/self/status | cut -f2) & ~0x180000000))"
}
