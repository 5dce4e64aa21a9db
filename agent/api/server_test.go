package api_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	"weft/agent/api"
	weftv1 "weft/proto/weft/v1"
	"weft/store"
)

func TestTheSocketIsForOwnerAndGroup(t *testing.T) {
	path := socket(t) + "/deeper/s" // its directory is made
	l, err := api.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o660 || st.Mode().Type() != os.ModeSocket {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

func TestADeadSocketIsReplacedAndNothingElse(t *testing.T) {
	for name, tc := range map[string]struct {
		before func(t *testing.T, path string) // what is there
		want   string                          // "": it is replaced
	}{
		"dead socket":    {dead, ""},
		"live socket":    {func(t *testing.T, path string) { live(t, path) }, "another agent is listening there"},
		"busy socket":    {busy, "another agent is listening there"},
		"file":           {func(t *testing.T, path string) { write(t, path) }, "something that is no socket"},
		"directory":      {func(t *testing.T, path string) { mkdir(t, path) }, "something that is no socket"},
		"link to a file": {link, "something that is no socket"},
	} {
		t.Run(name, func(t *testing.T) {
			path := socket(t)
			tc.before(t, path)
			was, err := os.Lstat(path)
			if err != nil {
				t.Fatal(err)
			}
			l, err := api.Listen(path)
			if tc.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				c, err := net.Dial("unix", path)
				if err != nil {
					t.Fatalf("replaced, and nobody answers: %v", err)
				}
				if err := errors.Join(c.Close(), l.Close()); err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
			if is, err := os.Lstat(path); err != nil || !os.SameFile(was, is) {
				t.Errorf("what was there is gone: %v", err)
			}
		})
	}
}

func live(t *testing.T, path string) *net.UnixListener {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func dead(t *testing.T, path string) {
	t.Helper()
	l := live(t, path)
	l.SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// busy is a socket whose agent does not come to accept: the queue is full, and a connection is refused for now.
func busy(t *testing.T, path string) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: path}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		c, err := net.DialTimeout("unix", path, time.Second)
		if err == nil {
			t.Cleanup(func() { _ = c.Close() })
		} else if !errors.Is(err, syscall.EAGAIN) {
			t.Fatal(err)
		}
	}
}

func write(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
}

func mkdir(t *testing.T, path string) {
	t.Helper()
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
}

func link(t *testing.T, path string) {
	t.Helper()
	write(t, path+".file")
	if err := os.Symlink(path+".file", path); err != nil {
		t.Fatal(err)
	}
}

func TestAPathThatNoSocketCanHaveSaysSo(t *testing.T) {
	path := "/tmp/" + strings.Repeat("x", 200)
	_, err := api.Listen(path)
	if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "at most 107 bytes, and this one has 205") {
		t.Errorf("got %v", err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("something was made: %v", err)
	}
}

func TestErrorsGetTheirCodes(t *testing.T) {
	refused := api.Refuse(api.NotFound, "network %s not found", "x")
	for name, tc := range map[string]struct {
		err  error
		code codes.Code
	}{
		"not found":            {refused, codes.NotFound},
		"exists":               {api.Refuse(api.Exists, "taken"), codes.AlreadyExists},
		"invalid":              {api.Refuse(api.Invalid, "bad"), codes.InvalidArgument},
		"in use":               {api.Refuse(api.InUse, "used"), codes.FailedPrecondition},
		"unsupported":          {api.Refuse(api.Unsupported, "not yet"), codes.Unimplemented},
		"wrapped":              {fmt.Errorf("connect c1: %w", refused), codes.NotFound},
		"joined":               {errors.Join(errors.New("first"), refused), codes.NotFound},
		"of no kind":           {&api.Refusal{Err: errors.New("odd")}, codes.Unknown},
		"store away":           {fmt.Errorf("list: %w", store.ErrUnreachable), codes.Unavailable},
		"outcome unknown":      {fmt.Errorf("create: %w", store.ErrUnknown), codes.Unavailable},
		"canceled":             {fmt.Errorf("wait: %w", context.Canceled), codes.Canceled},
		"out of time":          {fmt.Errorf("wait: %w", context.DeadlineExceeded), codes.DeadlineExceeded},
		"any other":            {errors.New("disk full"), codes.Unknown},
		"a refusal in trouble": {errors.Join(refused, store.ErrUnreachable), codes.NotFound},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := networks(t, &fake{err: tc.err}).RemoveNetwork(t.Context(), &weftv1.RemoveNetworkRequest{Ref: "x"})
			if s := status.Convert(err); s.Code() != tc.code || s.Message() != tc.err.Error() {
				t.Errorf("got %s %q, want %s %q", s.Code(), s.Message(), tc.code, tc.err)
			}
		})
	}
}

// One call's bug ends that call alone.
func TestAPanicIsInternalAndTheOthersGoOn(t *testing.T) {
	c := client(t, struct{ api.Backend }{}) // every call panics
	n := weftv1.NewNetworksClient(c)
	for range 2 {
		_, err := n.ListNetworks(t.Context(), &weftv1.ListNetworksRequest{})
		if s := status.Convert(err); s.Code() != codes.Internal || !strings.Contains(s.Message(), "/weft.v1.Networks/ListNetworks: internal error") {
			t.Errorf("got %v", err)
		}
	}
	st, err := weftv1.NewSandboxesClient(c).AttachSandbox(t.Context())
	if err == nil {
		err = st.Send(attachTo("c1"))
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := st.Recv(); status.Code(err) != codes.Internal {
		t.Errorf("in a stream: %v", err)
	}
}

func TestAMessageThatIsTooLargeIsRefused(t *testing.T) {
	f := &fake{}
	c := client(t, f)
	big := strings.Repeat("x", 5<<20)
	_, err := weftv1.NewSandboxesClient(c).CreateSandbox(t.Context(), &weftv1.CreateSandboxRequest{Env: []string{big}})
	if s := status.Convert(err); s.Code() != codes.ResourceExhausted || !strings.Contains(s.Message(), "larger than max") {
		t.Errorf("got %.200v", err)
	}
	st, err := weftv1.NewSandboxesClient(c).Exec(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_ = st.Send(&weftv1.StreamInput{Kind: &weftv1.StreamInput_Exec{Exec: &weftv1.ExecStart{Ref: big}}})
	if _, err := st.Recv(); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("in a stream: %.200v", err)
	}
	if f.asked != nil {
		t.Error("the backend was asked all the same")
	}
}

func TestHealthAndReflectionAnswer(t *testing.T) {
	c := client(t, &fake{})
	h, err := healthpb.NewHealthClient(c).Check(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil || h.Status != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("health: %v, %v", h, err)
	}
	r, err := reflectionpb.NewServerReflectionClient(c).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	m, err := r.Recv()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"weft.v1.Networks", "weft.v1.Sandboxes", "weft.v1.Cluster"} {
		if !strings.Contains(m.String(), want) {
			t.Errorf("%s is not told of", want)
		}
	}
}

func TestTheEndWaitsForCallsButNotForEver(t *testing.T) {
	f := &fake{block: true}
	c, stop := serve(t, f)
	ended := make(chan error, 1)
	go func() {
		_, err := weftv1.NewSandboxesClient(c).WaitSandbox(context.Background(), &weftv1.WaitSandboxRequest{Ref: "c1"})
		ended <- err
	}()
	if _, err := weftv1.NewClusterClient(c).Version(t.Context(), &weftv1.VersionRequest{}); err != nil { // it is up
		t.Fatal(err)
	}
	begin := time.Now()
	stop()
	if d := time.Since(begin); d > 5*time.Second {
		t.Errorf("the end took %v", d)
	}
	if err := <-ended; err == nil {
		t.Error("the call that was cut off ended well")
	}
}

func TestAListenerThatFailsEndsTheServing(t *testing.T) {
	l := live(t, socket(t))
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	err := api.Serve(t.Context(), l, &fake{}, slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), "serve the admin socket") {
		t.Errorf("got %v", err)
	}
}
