package dnssvc

import (
	"bufio"
	"context"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"time"
)

// serveTCP accepts connections, as many as may be open; the others wait in the kernel until one ends.
func (r *resolver) serveTCP() {
	for {
		select {
		case r.conns <- struct{}{}:
		case <-r.stop:
			return
		}
		c, err := r.sockets.tcp.Accept()
		if err != nil {
			<-r.conns
			if r.stopped() {
				return
			}
			r.service.cfg.Log.Warn("cannot accept a connection", "sandbox", r.known.Load().ID, "error", err)
			if !r.pause() {
				return
			}
			continue
		}
		r.wg.Go(func() {
			defer func() { <-r.conns }()
			r.serveConn(c)
		})
	}
}

// serveConn answers the questions of one connection; each answer goes as soon as it is there (RFC 7766, 6.2.1.1), so a forwarded
// question does not hold up the next one.
func (r *resolver) serveConn(c net.Conn) {
	defer context.AfterFunc(r.ctx, func() { _ = c.Close() })()
	answers := make(chan []byte)
	var writer, asks sync.WaitGroup
	writer.Go(func() { writeAnswers(c, answers) })
	r.readQuestions(c, answers, &asks)
	asks.Wait() // what was asked before the asker closed its side is still answered
	close(answers)
	writer.Wait()
	_ = c.Close()
}

// writeAnswers writes until answers is closed; after an error it only takes them away.
func writeAnswers(c net.Conn, answers <-chan []byte) {
	var err error
	for a := range answers {
		if err != nil {
			continue
		}
		framed := make([]byte, 2, 2+len(a))
		binary.BigEndian.PutUint16(framed, uint16(len(a)))
		_ = c.SetWriteDeadline(time.Now().Add(connWrite))
		if _, err = c.Write(append(framed, a...)); err != nil {
			_ = c.Close() // the reader ends by that
		}
	}
}

// readQuestions reads until the asker is done, idle for too long, or sends what is no question.
func (r *resolver) readQuestions(c net.Conn, answers chan<- []byte, asks *sync.WaitGroup) {
	in := bufio.NewReaderSize(c, 512)
	l := r.locals()
	for r.ctx.Err() == nil {
		_ = c.SetReadDeadline(time.Now().Add(connIdle))
		var frame [2]byte
		if _, err := io.ReadFull(in, frame[:]); err != nil {
			return
		}
		n := int(binary.BigEndian.Uint16(frame[:]))
		if n > maxQuestion {
			return
		}
		packet := make([]byte, n)
		if _, err := io.ReadFull(in, packet); err != nil {
			return
		}
		l.begin(r.known.Load())
		out, v := l.answer(packet, true)
		if v == pass {
			asks.Add(1)
			var passed bool
			out, passed = r.pass(l, packet, true, func(a []byte) {
				defer asks.Done()
				if a != nil {
					answers <- a
				}
			})
			if !passed {
				asks.Done()
				v = reply
			}
		}
		l.done()
		switch v {
		case drop:
			return
		case reply:
			answers <- out
		}
	}
}
