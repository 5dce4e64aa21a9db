package api

import (
	"context"
	"errors"
	"io"
	"sync"
	"syscall"

	"google.golang.org/grpc"

	weftv1 "weft/proto/weft/v1"
)

type streamServer = grpc.BidiStreamingServer[weftv1.StreamInput, weftv1.StreamOutput]

func (s *sandboxes) AttachSandbox(ss streamServer) error {
	first, err := opening(ss)
	if err != nil {
		return err
	}
	a := first.GetAttach()
	if a == nil {
		return Refuse(Invalid, "the first message of an attach must say which sandbox")
	}
	st, err := s.b.AttachSandbox(ss.Context(), AttachRequest{Ref: a.Ref, Stdin: a.Stdin, Start: a.Start, Size: sizeFrom(a.Size)})
	if err != nil {
		return err
	}
	return s.relay(ss, st)
}

func (s *sandboxes) Exec(ss streamServer) error {
	first, err := opening(ss)
	if err != nil {
		return err
	}
	e := first.GetExec()
	if e == nil {
		return Refuse(Invalid, "the first message of an exec must say what to run, and in which sandbox")
	}
	st, err := s.b.Exec(ss.Context(), ExecRequest{
		Ref: e.Ref, Command: e.Command, Env: e.Env, User: e.User, Workdir: e.Workdir, TTY: e.Tty, Stdin: e.Stdin, Size: sizeFrom(e.Size),
	})
	if err != nil {
		return err
	}
	return s.relay(ss, st)
}

// opening is the message that says what the stream is for.
func opening(ss streamServer) (*weftv1.StreamInput, error) {
	first, err := ss.Recv()
	if errors.Is(err, io.EOF) {
		return nil, Refuse(Invalid, "the caller ended the stream before it said what it is for")
	}
	return first, err
}

// relay passes input and output until the process or the caller is gone. gRPC ends the input's Recv when relay has returned, so Serve waits
// for it, and not relay.
func (s *sandboxes) relay(ss streamServer, st Stream) (err error) {
	end := sync.OnceValue(st.Close)
	defer func() { err = errors.Join(err, end()) }()
	// A process may be silent for ever, and Recv knows nothing of the caller.
	gone := context.AfterFunc(ss.Context(), func() { _ = end() })
	defer gone()
	if err := ss.Send(&weftv1.StreamOutput{Kind: &weftv1.StreamOutput_Ready{Ready: true}}); err != nil {
		return err
	}
	bug := make(chan any, 1)
	s.inputs.Go(func() {
		defer func() {
			if p := recover(); p != nil {
				bug <- p
				_ = end()
			}
		}()
		input(ss, st)
	})
	for {
		o, err := st.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil && len(bug) > 0:
			panic(<-bug) // of this call: it is reported as one
		case err != nil && ss.Context().Err() != nil:
			return ss.Context().Err()
		case err != nil:
			return err
		}
		if err := ss.Send(outputProto(o)); err != nil {
			return err
		}
	}
}

// input ends when the caller's side ends, or when the process no longer takes any; what the caller sends after that has no reader left.
func input(ss streamServer, st Stream) {
	for {
		in, err := ss.Recv()
		if err != nil {
			return
		}
		switch k := in.Kind.(type) {
		case *weftv1.StreamInput_Stdin:
			_, err = st.Write(k.Stdin)
		case *weftv1.StreamInput_CloseStdin:
			err = st.CloseStdin()
		case *weftv1.StreamInput_Resize:
			err = st.Resize(sizeFrom(k.Resize))
		case *weftv1.StreamInput_Signal:
			err = st.Signal(syscall.Signal(k.Signal))
		}
		if errors.Is(err, io.ErrClosedPipe) {
			return
		}
	}
}

func outputProto(o Output) *weftv1.StreamOutput {
	switch {
	case o.Exit != nil:
		return &weftv1.StreamOutput{Kind: &weftv1.StreamOutput_Exit{Exit: exitProto(*o.Exit)}}
	case o.Stderr:
		return &weftv1.StreamOutput{Kind: &weftv1.StreamOutput_Stderr{Stderr: o.Data}}
	default:
		return &weftv1.StreamOutput{Kind: &weftv1.StreamOutput_Stdout{Stdout: o.Data}}
	}
}

func sizeFrom(w *weftv1.WindowSize) Size {
	return Size{Rows: uint16(w.GetRows()), Columns: uint16(w.GetColumns())}
}
