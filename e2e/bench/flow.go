package main

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// The two ends of a connection are blocking sockets on threads of their own: what is measured is the path, not a scheduler.

func sockaddr(a netip.AddrPort) *unix.SockaddrInet4 {
	return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
}

// listenIn listens in a namespace.
func listenIn(ns string, at netip.AddrPort) (fd int, err error) {
	err = in(ns, func() (err error) {
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		err = errors.Join(
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1), bound(fd, 5*time.Second),
			unix.Bind(fd, sockaddr(at)), unix.Listen(fd, 128))
		if err != nil {
			_ = unix.Close(fd)
		}
		return err
	})
	if err != nil {
		return -1, fmt.Errorf("listen on %s: %w", at, err)
	}
	return fd, nil
}

// connectHere connects from the namespace that the thread is in.
func connectHere(to netip.AddrPort, patience time.Duration) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if err := errors.Join(bound(fd, patience), unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)); err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	if err := connect(fd, sockaddr(to)); err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

// connect goes on where a signal has interrupted it: a socket with a time limit is not restarted by the kernel (signal(7)).
func connect(fd int, to unix.Sockaddr) error {
	for {
		switch err := unix.Connect(fd, to); {
		case errors.Is(err, unix.EISCONN):
			return nil
		case !errors.Is(err, unix.EINTR):
			return err
		}
	}
}

// bound lets no read, write, accept or connect wait for longer.
func bound(fd int, d time.Duration) error {
	tv := unix.NsecToTimeval(int64(d))
	return errors.Join(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv), unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv))
}

// way is a path from one namespace to an address in another.
type way struct {
	name     string
	from, to string // namespaces
	addr     netip.Addr
	listen   netip.Addr // where the other end is, where that is another address; zero: addr
}

const flowPort = 5201

// connected calls f with both ends of a connection along the way.
func (w way) connected(f func(client, server int) error) error {
	at := netip.AddrPortFrom(w.addr, flowPort)
	here := at
	if w.listen.IsValid() {
		here = netip.AddrPortFrom(w.listen, flowPort)
	}
	ln, err := listenIn(w.to, here)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(ln) }()
	client := -1
	err = in(w.from, func() (err error) {
		client, err = connectHere(at, 5*time.Second)
		return err
	})
	if err != nil {
		return fmt.Errorf("connect along %s: %w", w.name, err)
	}
	defer func() { _ = unix.Close(client) }()
	server, _, err := unix.Accept4(ln, unix.SOCK_CLOEXEC)
	if err != nil {
		return fmt.Errorf("accept along %s: %w", w.name, err)
	}
	defer func() { _ = unix.Close(server) }()
	if err := errors.Join(bound(server, 5*time.Second), unix.SetsockoptInt(server, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)); err != nil {
		return err
	}
	return f(client, server)
}

// onThread runs f on a thread of its own; wait for what comes back.
func onThread(f func() error) <-chan error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		done <- f()
	}()
	return done
}

// stream sends as much as goes for a while, and returns Gbit/s as received.
func (w way) stream(d time.Duration) (rate float64, err error) {
	err = w.connected(func(client, server int) error {
		var stop atomic.Bool
		timer := time.AfterFunc(d, func() { stop.Store(true) })
		defer timer.Stop()
		sender := onThread(func() error {
			buf := make([]byte, 128<<10)
			for !stop.Load() {
				if _, err := unix.Write(client, buf); err != nil && !errors.Is(err, unix.EINTR) {
					return fmt.Errorf("send along %s: %w", w.name, err)
				}
			}
			return unix.Shutdown(client, unix.SHUT_WR)
		})
		receiver := onThread(func() error {
			buf := make([]byte, 256<<10)
			total, began := 0, time.Now()
			for {
				n, err := unix.Read(server, buf)
				switch {
				case errors.Is(err, unix.EINTR):
					continue
				case err != nil:
					return fmt.Errorf("receive along %s: %w", w.name, err)
				case n == 0:
					rate = float64(total) * 8 / 1e9 / time.Since(began).Seconds()
					return nil
				}
				total += n
			}
		})
		return errors.Join(<-sender, <-receiver)
	})
	return rate, err
}

// pingPong sends one byte and waits for one, for a while, and returns how often a second.
func (w way) pingPong(d time.Duration) (rate float64, err error) {
	err = w.connected(func(client, server int) error {
		echo := onThread(func() error {
			b := make([]byte, 1)
			for {
				if n, err := exchange(server, b, unix.Read); n == 0 || err != nil {
					return err
				}
				if _, err := exchange(server, b, unix.Write); err != nil {
					return err
				}
			}
		})
		asker := onThread(func() error {
			b := make([]byte, 1)
			n, began := 0, time.Now()
			for time.Since(began) < d {
				if _, err := exchange(client, b, unix.Write); err != nil {
					return err
				}
				if _, err := exchange(client, b, unix.Read); err != nil {
					return err
				}
				n++
			}
			rate = float64(n) / time.Since(began).Seconds()
			return unix.Shutdown(client, unix.SHUT_WR)
		})
		err := <-asker
		if err != nil {
			_ = unix.Shutdown(client, unix.SHUT_RDWR)
		}
		if err := errors.Join(err, <-echo); err != nil {
			return fmt.Errorf("ask and answer along %s: %w", w.name, err)
		}
		return nil
	})
	return rate, err
}

func exchange(fd int, b []byte, f func(int, []byte) (int, error)) (int, error) {
	for {
		n, err := f(fd, b)
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}
