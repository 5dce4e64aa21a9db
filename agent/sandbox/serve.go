package sandbox

import (
	"encoding/json"
	"fmt"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// tellTime bounds how long a client may take for the exit; one that is stopped does not keep the supervisor.
const tellTime = 5 * time.Second

// first serves the connection that start came by. Of a detached process it tells the exit. Otherwise it becomes a stream of everything
// from the beginning, if its reader says in time that it is there.
func (s *supervisor) first(l *link) {
	defer s.telling.Done()
	defer func() { _ = l.Close() }()
	defer s.release()
	if s.held == nil {
		s.release()
		s.tellExit(l)
		return
	}
	defer s.main.bus.remove(s.held)
	if err := s.agree(l); err != nil {
		return
	}
	_ = l.SetReadDeadline(time.Now().Add(holdTime))
	for {
		kind, _, err := l.receive()
		if err != nil {
			return
		}
		if kind == frameClaim {
			break
		}
	}
	_ = l.SetReadDeadline(time.Time{})
	if err := s.agree(l); err != nil {
		return
	}
	s.release()
	s.stream(l, s.main, s.held)
}

func (s *supervisor) serve() {
	for {
		c, err := s.socket.Accept()
		if err != nil {
			return // closed: the sandbox is over
		}
		go s.answer(&link{Conn: c})
	}
}

// answer serves one request, and the stream that may follow.
func (s *supervisor) answer(l *link) {
	defer func() { _ = l.Close() }()
	_ = l.SetReadDeadline(time.Now().Add(callTimeout))
	var q request
	if err := l.receiveJSON(frameRequest, &q); err != nil {
		return
	}
	_ = l.SetReadDeadline(time.Time{})
	switch q.Op {
	case opAttach:
		s.attach(l)
	case opExec:
		s.exec(l, q)
	case opWatch:
		s.watch(l)
	default:
		_ = l.sendJSON(frameReply, replyTo(s.act(q)))
	}
}

// act does what needs no connection of its own.
func (s *supervisor) act(q request) error {
	switch q.Op {
	case opSignal:
		p, err := s.target(q.Target)
		if err != nil {
			return err
		}
		return s.spawner.signal(p.pid, syscall.Signal(q.Signal))
	case opResize:
		p, err := s.target(q.Target)
		if err != nil {
			return err
		}
		return p.resize(q.Rows, q.Columns)
	case opPublish:
		return s.ports.set(q.Ports)
	case opStop:
		return s.stop(syscall.Signal(q.Signal), time.Duration(q.Timeout)*time.Millisecond)
	}
	return fmt.Errorf("this sandbox's supervisor does not know the request %q: it is of another version of weft", q.Op)
}

func (s *supervisor) target(name string) (*process, error) {
	if name == "" {
		return s.main, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if p, ok := s.execs[name]; ok {
		return p, nil
	}
	return nil, ErrNotRunning
}

// stop signals the child and, where that did not end it in time, ends everything. A negative time is endless.
func (s *supervisor) stop(sig syscall.Signal, timeout time.Duration) error {
	s.release()
	if err := s.spawner.signal(s.main.pid, sig); err != nil {
		return err
	}
	if timeout < 0 {
		return nil
	}
	time.AfterFunc(timeout, func() {
		_ = s.spawner.signal(s.main.pid, unix.SIGKILL) // with its end everything ends
	})
	return nil
}

func (s *supervisor) attach(l *link) {
	if !s.hears() {
		_ = l.sendJSON(frameReply, replyTo(ErrNotRunning))
		return
	}
	defer s.telling.Done()
	r := s.main.bus.add()
	if r == nil {
		_ = l.sendJSON(frameReply, replyTo(ErrNotRunning))
		return
	}
	defer s.main.bus.remove(r)
	if err := s.agree(l); err != nil {
		return
	}
	s.stream(l, s.main, r)
}

// stream passes a process's output to a connection, and input from it, until the exit is told or the connection ends.
func (s *supervisor) stream(l *link, p *process, r *reader) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer r.leave()
		for {
			kind, data, err := l.receive()
			switch {
			case err != nil:
				return
			case kind == frameStdin:
				p.input(data)
			case kind == frameStdinEnd:
				p.endInput()
			}
		}
	}()
	for {
		piece, ok := r.next()
		if !ok || l.send(piece.kind, piece.data) != nil {
			break
		}
	}
	_ = l.Close()
	<-done
}

// hears counts a connection among those that the supervisor lasts for; it is too late for that at the very end.
func (s *supervisor) hears() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leaving {
		return false
	}
	s.telling.Add(1)
	return true
}

// watch tells the exit, whenever it comes. At the very end the connection just ends, and the agent reads the exit from the disk.
func (s *supervisor) watch(l *link) {
	if !s.hears() {
		return
	}
	defer s.telling.Done()
	s.tellExit(l)
}

// agree replies to what is about the child.
func (s *supervisor) agree(l *link) error {
	return l.sendJSON(frameReply, reply{Version: protocolVersion, PID: s.main.pid})
}

func (s *supervisor) tellExit(l *link) {
	if err := s.agree(l); err != nil {
		return
	}
	left := make(chan struct{})
	go func() {
		defer close(left)
		for {
			if _, _, err := l.receive(); err != nil {
				return
			}
		}
	}()
	select {
	case <-left:
	case <-s.over:
		_ = l.SetDeadline(time.Now().Add(tellTime))
		_ = l.sendJSON(frameExit, s.exit)
	}
}

// exec runs one more process for as long as it and the sandbox last, whether its client stays or not.
func (s *supervisor) exec(l *link, q request) {
	if q.Spec == nil {
		_ = l.sendJSON(frameReply, replyTo(refuse(125, "no command was given")))
		return
	}
	if !s.hears() {
		_ = l.sendJSON(frameReply, replyTo(ErrNotRunning))
		return
	}
	defer s.telling.Done()
	b := newBus(nil)
	r := b.add()
	p, name, err := s.addExec(*q.Spec, b)
	if err != nil {
		_ = l.sendJSON(frameReply, replyTo(err))
		return
	}
	defer b.remove(r)
	if err := l.sendJSON(frameReply, reply{Version: protocolVersion, PID: p.pid, Exec: name}); err != nil {
		return
	}
	s.stream(l, p, r)
}

// addExec starts a process, unless the sandbox has ended, and sees it through.
func (s *supervisor) addExec(spec Spec, b *bus) (*process, string, error) {
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		return nil, "", ErrNotRunning
	}
	s.starting.Add(1)
	s.next++
	name := strconv.Itoa(s.next)
	s.mu.Unlock()
	defer s.starting.Done()
	p, err := launch(s.spawner, spec, b, s.cgroup)
	if err != nil {
		return nil, "", err
	}
	s.mu.Lock()
	s.execs[name] = p
	s.mu.Unlock()
	s.running.Go(func() { s.awaitExec(p, name) })
	return p, name, nil
}

func (s *supervisor) awaitExec(p *process, name string) {
	e := exitOf(<-p.status)
	s.mu.Lock()
	delete(s.execs, name)
	s.mu.Unlock()
	p.settle()
	raw, _ := json.Marshal(e) // cannot fail
	p.bus.close(raw)
}
