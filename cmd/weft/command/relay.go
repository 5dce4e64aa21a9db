package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"golang.org/x/term"
	"google.golang.org/grpc"

	weftv1 "weft/proto/weft/v1"
)

type stream = grpc.BidiStreamingClient[weftv1.StreamInput, weftv1.StreamOutput]

// relay joins this process's stdin, stdout and stderr with a process of a sandbox.
type relay struct {
	a        *client
	out, err io.Writer
	in       *input                    // nil: none
	resized  <-chan os.Signal          // SIGWINCH
	size     func() *weftv1.WindowSize // nil where there is no terminal
	signals  <-chan syscall.Signal     // passed through the stream; nil: none
}

var errNoExit = errors.New("the stream ended before the process did")

// follow opens a stream and serves it until the process has ended; all output has been written by then. started is called when the
// agent has said that the process is attached.
func (r *relay) follow(ctx context.Context, open func(context.Context, ...grpc.CallOption) (stream, error), first *weftv1.StreamInput, started func()) (*weftv1.Exit, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	late := time.AfterFunc(callTimeout, func() {
		cancel(fmt.Errorf("the weft agent at %s did not answer within %s", r.a.host, callTimeout))
	})
	defer late.Stop()
	s, o, err := begin(ctx, open, first)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return nil, cause
		}
		return nil, r.a.said(err)
	}
	late.Stop()
	if e := o.GetExit(); e != nil {
		return e, nil
	}
	started()
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		if r.send(ctx, s) {
			cancel(errDetached)
		}
	}()
	e, err := r.receive(s)
	if err != nil && isDetached(context.Cause(ctx)) {
		err = errDetached
	}
	cancel(nil)
	<-sent
	return e, err
}

func begin(ctx context.Context, open func(context.Context, ...grpc.CallOption) (stream, error), first *weftv1.StreamInput) (stream, *weftv1.StreamOutput, error) {
	s, err := open(ctx)
	if err != nil {
		return nil, nil, err
	}
	// After a failed Send, Recv has the reason.
	if err := s.Send(first); err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, err
	}
	o, err := s.Recv()
	if errors.Is(err, io.EOF) {
		err = errNoExit
	}
	return s, o, err
}

// receive writes output as it comes.
func (r *relay) receive(s stream) (*weftv1.Exit, error) {
	for {
		o, err := s.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return nil, errNoExit
		case err != nil:
			return nil, r.a.said(err)
		}
		switch k := o.Kind.(type) {
		case *weftv1.StreamOutput_Stdout:
			_, err = r.out.Write(k.Stdout)
		case *weftv1.StreamOutput_Stderr:
			_, err = r.err.Write(k.Stderr)
		case *weftv1.StreamOutput_Exit:
			return k.Exit, nil
		}
		if err != nil {
			return nil, &fault{code: codeAgent, text: fmt.Sprintf("weft: write the output of the process: %v.", err), err: err}
		}
	}
}

// send passes on what comes from this side, until the stream ends or the user detaches. It is the stream's only sender.
func (r *relay) send(ctx context.Context, s stream) (detached bool) {
	var chunks <-chan []byte
	var leave <-chan struct{}
	if r.in != nil {
		chunks, leave = r.in.chunks, r.in.detached
	}
	for {
		m := &weftv1.StreamInput{}
		select {
		case <-ctx.Done():
			return false
		case <-leave:
			return true
		case b, more := <-chunks:
			m.Kind = &weftv1.StreamInput_Stdin{Stdin: b}
			if !more {
				chunks = nil
				m.Kind = &weftv1.StreamInput_CloseStdin{CloseStdin: true}
			}
		case <-r.resized:
			m.Kind = &weftv1.StreamInput_Resize{Resize: r.size()}
		case sig := <-r.signals:
			m.Kind = &weftv1.StreamInput_Signal{Signal: int32(sig)}
		}
		if s.Send(m) != nil {
			return false // receive learns why
		}
	}
}

// windowSize reads the size of the terminal f.
func windowSize(f *os.File) *weftv1.WindowSize {
	columns, rows, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return nil
	}
	return &weftv1.WindowSize{Rows: uint32(rows), Columns: uint32(columns)}
}
