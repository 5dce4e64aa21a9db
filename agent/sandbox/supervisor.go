package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// supervisorName is a supervisor's first argument, by which Main knows it and people see it.
	supervisorName = "weft-supervisor"
	// startFD is the socket that a supervisor inherits.
	startFD = 3
	// holdTime bounds how long the first output waits for a reader: an agent that died does not stop the child.
	holdTime = 3 * time.Second
	// killTime bounds how long the last processes may take to be gone; one in the kernel's uninterruptible sleep takes its own.
	killTime = 10 * time.Second
)

// Main takes over, and does not return, where this process was started as a sandbox's supervisor. The program's main must call it before
// anything else.
func Main() {
	if os.Args[0] != supervisorName {
		return
	}
	os.Exit(supervise())
}

// supervisor holds one sandbox's processes. What is the host's, it sees as the host does: only its spawner is in the namespaces.
type supervisor struct {
	place   place
	lock    *os.File
	cgroup  *os.File // nil: there are no control groups
	log     *logFile
	spawner *spawner
	main    *process
	held    *reader // of everything from the beginning; nil: the child is detached
	socket  net.Listener
	ports   *portSet // on the host

	claimed  chan struct{} // closed when the first output need not wait for a reader any more
	claim    sync.Once
	over     chan struct{} // closed when exit is there and on the disk
	exit     Exit
	telling  sync.WaitGroup // connections that are to hear of an exit
	starting sync.WaitGroup // of execs
	running  sync.WaitGroup

	mu      sync.Mutex // guards the rest, and what is added to the groups above
	execs   map[string]*process
	next    int
	ended   bool // nothing may be started any more
	leaving bool // nobody can be told any more
}

func supervise() int {
	runtime.LockOSThread() // what others see of a process is its first thread: it must stay in the host's namespaces
	_ = os.Chdir("/")
	unix.Umask(0o077)
	_ = unix.CloseRange(startFD, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC) // whatever the agent had inherited
	outliveSignals()
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return 1
	}
	f := os.NewFile(startFD, "start")
	conn, err := net.FileConn(f)
	_ = f.Close()
	if err != nil {
		return 1
	}
	l := &link{Conn: conn}
	s := &supervisor{claimed: make(chan struct{}), over: make(chan struct{}), execs: map[string]*process{}, ports: newPortSet(usualBounds())}
	q, err := s.prepare(l)
	if err != nil {
		return 1
	}
	if err := s.start(l, q); err != nil {
		s.end()
		_ = l.sendJSON(frameReply, replyTo(err))
		return 1
	}
	s.telling.Add(1)
	go s.first(l)
	go s.serve()
	shrink()
	s.await()
	return 0
}

// prepare takes the ports that are asked for before the child is, and returns the first other request.
func (s *supervisor) prepare(l *link) (request, error) {
	for {
		var q request
		if err := l.receiveJSON(frameRequest, &q); err != nil || q.Op != opPublish {
			return q, err
		}
		if err := l.sendJSON(frameReply, replyTo(s.ports.set(q.Ports))); err != nil {
			return q, err
		}
	}
}

// outliveSignals drops what would end the supervisor, and what it was started to ignore: a signal with a handler is the default again in
// whatever is started, an ignored one would stay so. It does not take all, because each costs a turn of the runtime's.
func outliveSignals() {
	drop := []os.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM}
	for n := syscall.Signal(1); n <= 64; n++ {
		if signal.Ignored(n) {
			drop = append(drop, n)
		}
	}
	signal.Notify(make(chan os.Signal, 1), drop...)
}

// shrink gives back what the packages of the agent took when they were initialised; to collect it before would delay the child.
func shrink() {
	debug.SetGCPercent(25)
	debug.FreeOSMemory()
}

// start makes everything ready and runs the child.
func (s *supervisor) start(l *link, q request) (err error) {
	if q.Op != opStart || q.Spec == nil || q.Places == nil {
		return fmt.Errorf("the agent's first request is %q and not a complete %q: is the agent of another version?", q.Op, opStart)
	}
	s.place = *q.Places
	if s.lock, err = takeLock(s.place.Run); err != nil {
		return err
	}
	// An agent that died before the lock was taken has left no trace of this start: the next one may have looked already.
	if !l.connected() {
		return errors.New("the agent is gone")
	}
	if s.place.Cgroup != "" {
		if s.cgroup, err = os.Open(s.place.Cgroup); err != nil {
			return fmt.Errorf("open the control group: %w", err)
		}
	}
	if s.log, err = openLog(s.place.State, logLimit); err != nil {
		return err
	}
	if s.spawner, err = newSpawner(s.place, q.Spec.Hostname); err != nil {
		return err
	}
	if s.cgroup == nil {
		if err := pinUTS(s.place.Run, s.spawner.thread); err != nil {
			return err
		}
	}
	if s.socket, err = listen(s.place.Run); err != nil {
		return err
	}
	if err := forgetExit(s.place.State); err != nil {
		return err
	}
	b := newBus(s.log)
	if !q.Spec.Detached {
		s.held = b.add()
	}
	s.main, err = launch(s.spawner, *q.Spec, b, s.cgroup)
	return err
}

// replyTo words an error for the agent.
func replyTo(err error) reply {
	r := reply{Version: protocolVersion}
	if err == nil {
		return r
	}
	r.Error = err.Error()
	var refused *StartError
	if errors.As(err, &refused) {
		r.Code = refused.Code
	}
	r.Ended = errors.Is(err, ErrNotRunning)
	errors.As(err, &r.Bind)
	return r
}

func listen(dir string) (net.Listener, error) {
	var l *net.UnixListener
	err := within(dir, func(dir string) error {
		path := filepath.Join(dir, socketName)
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		var err error
		l, err = net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen for the agent: %w", err)
	}
	l.SetUnlinkOnClose(false) // its name is true in this function only
	if err := os.Chmod(filepath.Join(dir, socketName), 0o600); err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("listen for the agent: %w", err)
	}
	return l, nil
}

// await sees the child's end through: nothing of it is left, its output is kept, its exit is on the disk, and then it is told.
func (s *supervisor) await() {
	e := exitOf(<-s.main.status)
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	s.starting.Wait() // so that nothing starts behind the end
	s.end()
	s.ports.close() // whoever is told of the end may take them
	select {
	case <-s.claimed:
	case <-time.After(holdTime):
	}
	s.main.settle()
	s.running.Wait()
	_ = s.log.close()
	if err := writeExit(s.place.State, e); err != nil {
		e.Error = err.Error() // the agent that is there hears of the exit all the same
	}
	s.exit = e
	close(s.over)
	raw, _ := json.Marshal(e) // cannot fail
	s.main.bus.close(raw)
	_ = s.socket.Close()
	s.mu.Lock()
	s.leaving = true
	s.mu.Unlock()
	s.telling.Wait()
}

// end kills whatever is left in the sandbox.
func (s *supervisor) end() {
	if s.spawner == nil {
		return
	}
	wait := time.Millisecond
	for limit := time.Now().Add(killTime); time.Now().Before(limit); time.Sleep(wait) {
		killed := killGroup(s.place.Cgroup)
		if s.spawner.childless() && !killed {
			return
		}
		if !killed { // what left the group, or there are no groups
			for _, pid := range descendants(os.Getpid()) {
				_ = unix.Kill(pid, unix.SIGKILL)
			}
		}
		wait = min(2*wait, 20*time.Millisecond)
	}
}

// release lets the first output go without a reader.
func (s *supervisor) release() { s.claim.Do(func() { close(s.claimed) }) }
