package api

import (
	"errors"
	"io"
	"syscall"

	"google.golang.org/grpc"

	weftv1 "weft/proto/weft/v1"
)

type streamServer = grpc.BidiStreamingServer[weftv1.StreamInput, weftv1.StreamOutput]

func (s *sandboxes) AttachSandbox(ss streamServer) error {
	first, err := ss.Recv()
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
	return relay(ss, st)
}

func (s *sandboxes) Exec(ss streamServer) error {
	first, err := ss.Recv()
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
	return relay(ss, st)
}

// relay passes input and output until the process or the caller is gone. The reader of input ends with the call: gRPC cancels its Recv
// when relay returns, and relay waits for nothing else of it than what Recv was doing.
func relay(ss streamServer, st Stream) (err error) {
	defer func() { err = errors.Join(err, st.Close()) }()
	if err := ss.Send(&weftv1.StreamOutput{Kind: &weftv1.StreamOutput_Ready{Ready: true}}); err != nil {
		return err
	}
	go input(ss, st)
	for {
		o, err := st.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
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
