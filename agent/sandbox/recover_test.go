package sandbox

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// holderEnv makes a process of this binary an agent that starts one sandbox and waits to be killed. Its value is a JSON holderTask.
const holderEnv = "WEFT_TEST_HOLDER"

type holderTask struct {
	RunDir, StateDir string
	Groups           bool
	ID               string
	Spec             Spec
	Hosts            string
}

func holdHost() {
	fail := func(err error) {
		if err != nil {
			fmt.Println("holder:", err)
			os.Exit(1)
		}
	}
	var task holderTask
	fail(json.Unmarshal([]byte(os.Getenv(holderEnv)), &task))
	unix.Umask(0o077)
	signal.Ignore(unix.SIGHUP, unix.SIGUSR1, unix.SIGPIPE) // as under nohup
	h, err := New(Config{RunDir: task.RunDir, StateDir: task.StateDir})
	fail(err)
	if !task.Groups {
		h.cgroups = cgroups{}
	}
	ctx := context.Background()
	fail(h.Create(ctx, task.ID, false))
	task.Spec.Hosts = task.Hosts
	fail(h.Start(ctx, task.ID, task.Spec))
	if !task.Spec.Detached {
		s, err := h.Attach(ctx, task.ID)
		fail(err)
		_, err = s.Recv()
		fail(err)
	}
	fmt.Println("started")
	select {}
}

// agent starts an agent of its own that starts a sandbox, and returns it with what it says.
func (w *world) agent(spec Spec) (id string, cmd *exec.Cmd, says *bufio.Reader) {
	w.t.Helper()
	id = w.create()
	task, err := json.Marshal(holderTask{RunDir: w.cfg.RunDir, StateDir: w.cfg.StateDir, Groups: w.cgroups.dir != "", ID: id, Spec: spec, Hosts: spec.Hosts})
	if err != nil {
		w.t.Fatal(err)
	}
	cmd = exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), holderEnv+"="+string(task))
	out, err := cmd.StdoutPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	return id, cmd, bufio.NewReader(out)
}

// killedAgent starts a sandbox by an agent of its own, which is then killed.
func (w *world) killedAgent(spec Spec) string {
	w.t.Helper()
	id, cmd, says := w.agent(spec)
	line, err := says.ReadString('\n')
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if line != "started\n" {
		w.t.Fatalf("the agent says %q, %v", line, err)
	}
	return id
}

func (w *world) recover(known ...string) map[string]bool {
	w.t.Helper()
	live, err := w.Recover(w.ctx, known)
	if err != nil {
		w.t.Fatalf("Recover: %v", err)
	}
	return live
}

// An agent is killed; the process does not notice, and the next agent finds it, reads it, writes to it and hears of its end.
func TestAgentIsKilled(t *testing.T) {
	t.Parallel()
	const talk = "echo begin; while read line; do echo got $line; done; exit 11"
	for kind, groups := range kinds {
		for _, detached := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/detached %v", kind, detached), func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, groups)
				id := w.killedAgent(Spec{Command: shell(talk), Stdin: true, Detached: detached})
				if live := w.recover(id); !live[id] {
					t.Fatalf("Recover: %v, want %s", live, id)
				}
				if pid := w.PID(id); !alive(pid) {
					t.Fatalf("the process is %d and does not live", pid)
				}
				s := w.attach(id)
				if _, err := s.Write([]byte("this\n")); err != nil {
					t.Fatal(err)
				}
				readUntil(t, s, "got this\n")
				e, err := w.Exec(w.ctx, id, Spec{Command: shell("exit 12")})
				if err != nil {
					t.Fatal(err)
				}
				if got := readAll(t, e); got.exit.Code != 12 {
					t.Errorf("an exec ended with %+v", got.exit)
				}
				if err := s.CloseStdin(); err != nil {
					t.Fatal(err)
				}
				if got := readAll(t, s); got.exit.Code != 11 {
					t.Errorf("it ended with %+v", got.exit)
				}
				if got := w.awaitExit(id); got.Code != 11 {
					t.Errorf("Wait: %+v", got)
				}
				if got := w.logged(id)["stdout"]; got != "begin\ngot this\n" {
					t.Errorf("the log has %q", got)
				}
			})
		}
	}
}

// What an agent was started with is not its sandboxes': neither the signals it ignores nor its mask.
func TestAgentWithItsOwnWays(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	id := w.killedAgent(Spec{Command: shell(signalScript("SigIgn") + "; cat /etc/hosts; umask"), User: "4321", Hosts: "10.0.0.1 a\n", Detached: true})
	eventually(t, "the supervisor has ended", func() bool { return lockHolder(w.runDir(id)) == 0 })
	if got := w.logged(id)["stdout"]; got != "0\n10.0.0.1 a\n0022\n" {
		t.Errorf("the process says %q", got)
	}
	w.recover(id)
}

// A supervisor that got ready for nothing ends: with Remove, with Close, and with its agent.
func TestPreparedSupervisor(t *testing.T) {
	t.Parallel()
	for end, f := range map[string]func(w *world, id string, v ready){
		"removed": func(w *world, id string, _ ready) {
			if err := w.Remove(w.ctx, id, true); err != nil {
				w.t.Error(err)
			}
		},
		"closed": func(w *world, _ string, _ ready) { w.Close() },
		"the agent is gone": func(w *world, _ string, v ready) {
			_ = v.link.Close()
			eventually(w.t, "it ends by itself", func() bool { return !alive(v.pid) })
		},
	} {
		t.Run(end, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, true)
			id := w.create()
			if err := w.Create(w.ctx, id, false); err != nil { // once more
				t.Fatal(err)
			}
			w.mu.Lock()
			v, ok := w.prepared[id]
			w.mu.Unlock()
			if !ok || !alive(v.pid) {
				t.Fatalf("no supervisor gets ready: %+v", v)
			}
			f(w, id, v)
			if alive(v.pid) {
				t.Error("it lives")
			}
		})
	}
}

// A process ends while no agent is there: Recover does not call it live, and its exit is told by LastExit.
func TestEndWithoutAgent(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	id := w.killedAgent(Spec{Command: shell("sleep 0.3; echo last; exit 13"), Detached: true})
	eventually(t, "the supervisor has ended", func() bool { return lockHolder(w.runDir(id)) == 0 })
	if live := w.recover(id); len(live) != 0 {
		t.Errorf("Recover: %v, want none", live)
	}
	if e, ok := w.LastExit(id); !ok || e.Code != 13 {
		t.Errorf("LastExit: %+v, %v", e, ok)
	}
	if e, err := w.Wait(w.ctx, id); err != nil || e.Code != 13 {
		t.Errorf("Wait: %+v, %v", e, err)
	}
	if got := readAll(t, w.attach(id)); got.exit.Code != 13 {
		t.Errorf("Attach: %+v", got)
	}
	if got := w.logged(id)["stdout"]; got != "last\n" {
		t.Errorf("the log has %q", got)
	}
	w.gone(id)
}

// A second Host in the same process takes over from one that was closed.
func TestHostIsClosed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first := worldIn(t, true, filepath.Join(dir, "run"), filepath.Join(dir, "state"))
	id := first.start(Spec{Command: []string{"sleep", "60"}, Detached: true})
	pid := first.PID(id)
	waited := make(chan error, 1)
	go func() {
		_, err := first.Wait(context.Background(), id)
		waited <- err
	}()
	first.ids = nil
	first.Close()
	if err := <-waited; err == nil {
		t.Error("Wait goes on after Close, or tells of an end that was none")
	}
	second := worldIn(t, true, filepath.Join(dir, "run"), filepath.Join(dir, "state"))
	second.ids = []string{id}
	if live := second.recover(id); !live[id] || second.PID(id) != pid {
		t.Fatalf("Recover: %v and process %d, want %s and %d", live, second.PID(id), id, pid)
	}
	if err := second.Signal(second.ctx, id, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if e := second.awaitExit(id); e.Code != 137 {
		t.Errorf("it ended with %+v", e)
	}
}

// A supervisor is killed: its child goes with it, with all that the child had started, and the agent hears of it.
func TestSupervisorIsKilled(t *testing.T) {
	t.Parallel()
	for kind, groups := range kinds {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, groups)
			id := w.start(Spec{Command: shell("setsid -f sleep 60; sleep 60 & echo $!; wait")})
			s := w.attach(id)
			var orphan int
			if _, err := fmt.Sscan(readUntil(t, s, "\n"), &orphan); err != nil {
				t.Fatal(err)
			}
			pid := w.PID(id)
			if err := unix.Kill(lockHolder(w.runDir(id)), unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
			if e := w.awaitExit(id); e.Code != 137 || e.Error == "" {
				t.Errorf("it ended with %+v, want 137 and why", e)
			}
			if e, ok := readExit(w.stateDir(id)); !ok || e.Code != 137 {
				t.Errorf("on the disk: %+v, %v", e, ok)
			}
			for _, p := range []int{pid, orphan} {
				if alive(p) {
					t.Errorf("process %d lives", p)
				}
			}
			if f, err := s.Recv(); err == nil {
				t.Errorf("its stream goes on with %+v", f)
			}
			if err := w.Remove(w.ctx, id, false); err != nil {
				t.Fatal(err)
			}
			w.gone(id)
		})
	}
}

// Agent and supervisor are killed: the next agent kills what is left, and says how it ended.
func TestBothAreKilled(t *testing.T) {
	t.Parallel()
	for kind, groups := range kinds {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, groups)
			id := w.killedAgent(Spec{Command: shell("setsid -f sh -c 'echo $$; exec sleep 60'; sleep 60"), Detached: true})
			orphan := 0
			eventually(t, "the orphan tells its number", func() bool {
				_, err := fmt.Sscan(w.logged(id)["stdout"], &orphan)
				return err == nil
			})
			if err := unix.Kill(lockHolder(w.runDir(id)), unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the supervisor has ended", func() bool { return lockHolder(w.runDir(id)) == 0 })
			if !alive(orphan) {
				t.Fatal("the orphan ended by itself: this proves nothing")
			}
			if live := w.recover(id); live[id] {
				t.Error("Recover calls it live")
			}
			if alive(orphan) {
				t.Errorf("process %d lives", orphan)
			}
			if e, ok := w.LastExit(id); !ok || e.Code != 137 || !strings.Contains(e.Error, "supervisor") {
				t.Errorf("LastExit: %+v, %v", e, ok)
			}
			w.gone(id)
		})
	}
}

// What nobody knows goes whole; what is known keeps its log and its exit. Another Host's sandboxes are left alone.
func TestRecoverSweeps(t *testing.T) {
	t.Parallel()
	w, other := newWorld(t, true), newWorld(t, true)
	theirs := other.start(Spec{Command: []string{"sleep", "60"}, Detached: true})
	unknown := w.killedAgent(Spec{Command: []string{"sleep", "60"}, Detached: true})
	made := w.create() // and never started
	ended := w.killedAgent(Spec{Command: shell("echo kept; exit 3"), Detached: true})
	eventually(t, "the known one has ended", func() bool { return lockHolder(w.runDir(ended)) == 0 })
	supervisor := lockHolder(w.runDir(unknown))
	if err := os.MkdirAll(filepath.Join(w.cfg.StateDir, "not-an-id"), 0o700); err != nil {
		t.Fatal(err)
	}
	if live := w.recover(ended, made, "0123"); len(live) != 0 {
		t.Errorf("Recover: %v, want none", live)
	}
	for _, id := range []string{unknown, made, ended} {
		w.gone(id)
	}
	if _, err := os.Stat(w.stateDir(unknown)); !os.IsNotExist(err) {
		t.Errorf("the state of what nobody knows is there: %v", err)
	}
	if e, ok := w.LastExit(ended); !ok || e.Code != 3 || w.logged(ended)["stdout"] != "kept\n" {
		t.Errorf("of the known one there is %+v, %v and the log %q", e, ok, w.logged(ended))
	}
	if _, ok := w.LastExit(made); ok {
		t.Error("what never ran has an exit")
	}
	eventually(t, "the unknown one's supervisor is gone", func() bool { return !alive(supervisor) })
	if _, err := os.Stat(filepath.Join(w.cfg.StateDir, "not-an-id")); err != nil {
		t.Errorf("what is not a sandbox went too: %v", err)
	}
	if !alive(other.PID(theirs)) {
		t.Error("the other Host's sandbox ended")
	}
}

// A supervisor that does not answer is as good as dead.
func TestSupervisorHangs(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	id := w.killedAgent(Spec{Command: []string{"sleep", "60"}, Detached: true})
	supervisor := lockHolder(w.runDir(id))
	if err := unix.Kill(supervisor, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all of its threads are stopped", func() bool {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", supervisor))
		for _, path := range threads {
			raw, readErr := os.ReadFile(path)
			if readErr != nil || !strings.Contains(string(raw), ") T ") {
				return false
			}
		}
		return err == nil && len(threads) > 0
	})
	before := time.Now()
	if live := w.recover(id); live[id] {
		t.Error("Recover calls it live")
	}
	if took := time.Since(before); took > 2*recoverTimeout {
		t.Errorf("Recover took %v", took)
	}
	if alive(supervisor) {
		t.Error("the supervisor lives")
	}
	w.gone(id)
}

// An agent may be killed at any moment of a start. The next one finds the sandbox running, or nothing of it.
func TestAgentIsKilledInStart(t *testing.T) {
	t.Parallel()
	for kind, groups := range kinds {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			for ms := range 12 {
				w := newWorld(t, groups)
				id, cmd, _ := w.agent(Spec{Command: []string{"sleep", "60"}, Detached: true})
				<-time.After(time.Duration(4*ms) * time.Millisecond)
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
				live := w.recover(id)[id]
				if pid := w.PID(id); live != (pid != 0) || live && !alive(pid) {
					t.Fatalf("after %d ms: live is %v, and the process is %d", 4*ms, live, pid)
				}
				if !live {
					if holder := lockHolder(w.runDir(id)); holder != 0 {
						t.Errorf("after %d ms: supervisor %d lives", 4*ms, holder)
					}
					w.gone(id)
				}
			}
		})
	}
}

// A start that its caller gave up leaves nothing running.
func TestStartIsGivenUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	ctx, cancel := context.WithCancel(w.ctx)
	for _, wait := range []time.Duration{0, 5 * time.Millisecond, 10 * time.Millisecond, 20 * time.Millisecond} {
		id := w.create()
		ctx, cancel := context.WithTimeout(ctx, wait)
		err := w.Start(ctx, id, Spec{Command: []string{"sleep", "60"}, Detached: true})
		cancel()
		if (err == nil) != (w.PID(id) != 0) {
			t.Errorf("after %v: Start: %v, and the process is %d", wait, err, w.PID(id))
		}
		if err != nil && (lockHolder(w.runDir(id)) != 0 || len(groupProcesses(w.cgroups.path(id))) > 0) {
			t.Errorf("after %v: something runs", wait)
		}
	}
	cancel()
}
