package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"

	weftv1 "weft/proto/weft/v1"
)

// maxMessage bounds one request, in bytes: the largest is a sandbox with its environment.
const maxMessage = 4 << 20

// lastCalls is how long calls under way have to finish when the agent ends.
const lastCalls = time.Second

// maxPath is what fits a socket's address (unix(7)), with the byte that ends it.
const maxPath = 107

// Listen makes the admin socket at path, for the owner and the group alone (0660). A socket that nobody listens on is replaced.
func Listen(path string) (net.Listener, error) {
	if len(path) > maxPath {
		return nil, fmt.Errorf("listen on %s: the path of a socket has at most %d bytes, and this one has %d; give a shorter --run-dir or -H", path, maxPath, len(path))
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make the directory of the admin socket: %w", err)
	}
	if err := makeRoom(path); err != nil {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on the admin socket: %w", err)
	}
	if err := os.Chmod(path, 0o660); err != nil {
		return nil, errors.Join(fmt.Errorf("restrict the admin socket: %w", err), l.Close())
	}
	return l, nil
}

// makeRoom removes a socket that nobody listens on, and nothing else: not a file, nor a socket whose agent is only busy.
func makeRoom(path string) error {
	st, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at the admin socket: %w", err)
	}
	if st.Mode().Type() != os.ModeSocket {
		return fmt.Errorf("listen on %s: there is something that is no socket; give another -H, or remove it", path)
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		err = c.Close()
	}
	if !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, os.ErrNotExist) {
		return errors.Join(fmt.Errorf("listen on %s: another agent is listening there; give this one another -H", path), err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove the dead admin socket: %w", err)
	}
	return nil
}

// Serve answers on l until ctx ends; calls under way then get a second to finish. It returns when all of them have.
func Serve(ctx context.Context, l net.Listener, b Backend, log *slog.Logger) error {
	away := &forwarder{r: b}
	s := grpc.NewServer(
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxConcurrentStreams(4096),
		grpc.WaitForHandlers(true),
		grpc.ForceServerCodecV2(newPassing()),
		grpc.ChainUnaryInterceptor(unaryErrors(log), away.unary),
		grpc.ChainStreamInterceptor(streamErrors(log), away.stream),
	)
	weftv1.RegisterNetworksServer(s, &networks{b: b})
	boxes := &sandboxes{b: b}
	weftv1.RegisterSandboxesServer(s, boxes)
	weftv1.RegisterClusterServer(s, &cluster{b: b})
	weftv1.RegisterStoresServer(s, &stores{b: b})
	weftv1.RegisterImportServer(s, &importer{b: b})
	h := health.NewServer()
	healthpb.RegisterHealthServer(s, h)
	reflection.Register(s)

	serving, cancel := context.WithCancel(ctx)
	defer cancel()
	var stopping sync.WaitGroup
	stopping.Go(func() {
		<-serving.Done()
		h.Shutdown()
		t := time.AfterFunc(lastCalls, s.Stop)
		defer t.Stop()
		s.GracefulStop()
	})
	err := s.Serve(l)
	failed := ctx.Err() == nil
	cancel()
	stopping.Wait()
	boxes.inputs.Wait()
	away.inputs.Wait()
	if failed {
		return fmt.Errorf("serve the admin socket: %w", err)
	}
	return nil
}

func unaryErrors(log *slog.Logger) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (resp any, err error) {
		defer func() { err = recovered(recover(), err, info.FullMethod, log) }()
		resp, err = next(ctx, req)
		return resp, toStatus(err)
	}
}

func streamErrors(log *slog.Logger) grpc.StreamServerInterceptor {
	return func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) (err error) {
		defer func() { err = recovered(recover(), err, info.FullMethod, log) }()
		return toStatus(next(srv, ss))
	}
}

// recovered keeps one call's panic from ending the agent, whose end would take every sandbox's names with it.
func recovered(p any, err error, method string, log *slog.Logger) error {
	if p == nil {
		return err
	}
	log.Error("a call panicked; this is a bug", "method", method, "panic", fmt.Sprint(p))
	return status.Errorf(codes.Internal, "%s: internal error: %v", method, p)
}
