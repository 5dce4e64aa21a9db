package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"weft/agent/api"
	"weft/agent/dockerd"
	"weft/agent/registry"
	"weft/kernel"
	"weft/store/record"
)

// A namespace that others made becomes a sandbox of its own when it is connected to its first network, and is none any more after its last. The
// file that holds it (sandbox.Host.Adopt) also tells whether it is still the one that was meant: a number of a namespace, or of a process, may
// come to be another's, but not while it is held. externalwatch.go follows what becomes of it.

// Kinds of namespaces that others made: what TARGET begins with.
const (
	dockerTarget = "docker:"
	netnsTarget  = "netns:"
	pidTarget    = "pid:"
)

// external tells whether a reference is to a namespace that others made.
func external(ref string) (kind, what string, ok bool) {
	for _, kind := range []string{dockerTarget, netnsTarget, pidTarget} {
		if what, ok := strings.CutPrefix(ref, kind); ok {
			return kind, what, true
		}
	}
	return "", "", false
}

// refersTo tells whether a reference means the sandbox of a namespace that others made.
func refersTo(ref string, s *record.Sandbox) bool {
	kind, what, ok := external(ref)
	switch {
	case !ok || s.External == "" || what == "":
		return false
	case kind == dockerTarget:
		id, isDocker := strings.CutPrefix(s.External, dockerTarget)
		return isDocker && (s.Name == what || strings.HasPrefix(id, what))
	case kind == netnsTarget:
		return s.External == kind+filepath.Clean(what)
	}
	return s.External == ref
}

// stranger is a namespace of others as it was found.
type stranger struct {
	external string // record.Sandbox.External
	name     string
	hostname string
	netns    string // its file; "" where there is none now
}

var errShared = errors.New("container sharing network namespace with another container or host cannot be connected to any other network")

// findStranger looks for what a reference means, at this moment.
func (a *Agent) findStranger(ctx context.Context, kind, what string) (stranger, error) {
	switch kind {
	case dockerTarget:
		c, err := a.docker.Container(ctx, what)
		switch {
		case errors.Is(err, dockerd.ErrNotFound):
			return stranger{}, api.Refuse(api.NotFound, "%w", err)
		case err != nil:
			return stranger{}, api.Refuse(api.InUse, "%w", err)
		case c.NetworkMode == "host", strings.HasPrefix(c.NetworkMode, "container:"):
			return stranger{}, api.Refuse(api.Invalid, "%w: %s has --network %s", errShared, c.Name, c.NetworkMode)
		}
		return stranger{external: kind + c.ID, name: c.Name, hostname: c.Hostname, netns: c.Netns}, nil
	case netnsTarget:
		if !filepath.IsAbs(what) {
			return stranger{}, api.Refuse(api.Invalid, "netns:%s: it must be the absolute path of a network namespace, such as netns:/run/netns/x", what)
		}
		path := filepath.Clean(what)
		return stranger{external: kind + path, name: filepath.Base(path), hostname: filepath.Base(path), netns: path}, nil
	}
	pid, err := strconv.Atoi(what)
	if err != nil || pid <= 0 || strconv.Itoa(pid) != what {
		return stranger{}, api.Refuse(api.Invalid, "pid:%s: it must be the number of a process", what)
	}
	return stranger{external: kind + what, name: "pid-" + what, hostname: "pid-" + what, netns: pidNetns(pid)}, nil
}

func pidNetns(pid int) string { return fmt.Sprintf("/proc/%d/ns/net", pid) }

// connectable finds the sandbox that a target means, and makes one of a namespace of others that is none yet. The caller has nobody's turn.
func (a *Agent) connectable(ctx context.Context, ref string) (*record.Sandbox, error) {
	kind, what, ok := external(ref)
	if !ok {
		return a.boxes.find(ref)
	}
	st, err := a.findStranger(ctx, kind, what)
	if err != nil {
		return nil, err
	}
	for _, s := range a.boxes.snapshot() {
		if s.External == st.external || s.External != "" && record.Fold(s.Name) == record.Fold(st.name) {
			a.tendExternal(ctx, s.ID) // it may be gone, or another one by now
		}
	}
	for _, s := range a.boxes.snapshot() {
		if s.External == st.external {
			return s, nil
		}
	}
	return a.takeIn(ctx, st)
}

// takeIn makes a sandbox of a namespace of others.
func (a *Agent) takeIn(ctx context.Context, st stranger) (*record.Sandbox, error) {
	if err := registry.CheckName("sandbox", st.name); err != nil {
		return nil, kindOf(err)
	}
	if err := a.checkForeign(st); err != nil {
		return nil, err
	}
	now := a.clock.Now().UTC()
	s := &record.Sandbox{
		ID: record.SandboxID(registry.NewID()), Name: st.name, Hostname: st.hostname, External: st.external, Created: now, Started: now,
		Status: record.SandboxRunning, Up: true,
	}
	if st.netns == "" { // a container that is stopped: it joins when it is started
		s.Status, s.Up, s.Started = record.SandboxExited, false, time.Time{}
	}
	done, err := a.boxes.lock(ctx, s.ID)
	if err != nil {
		return nil, err
	}
	defer done()
	if err := a.boxes.reserve(s.Name, s.ID); err != nil {
		return nil, err
	}
	if s.Up {
		if err := a.runner.Adopt(ctx, string(s.ID), st.netns); err != nil {
			a.boxes.unreserve(s.Name, s.ID)
			return nil, api.Refuse(api.InUse, "take in %s: %w", st.external, err)
		}
	}
	if err := a.boxes.put(ctx, s); err != nil {
		a.boxes.unreserve(s.Name, s.ID)
		return nil, errors.Join(err, a.runner.Remove(context.WithoutCancel(ctx), string(s.ID), true))
	}
	a.externals.at(s.ID, st.netns)
	return s, nil
}

// checkForeign refuses a namespace that is no other's: the host's, and those that are sandboxes already.
func (a *Agent) checkForeign(st stranger) error {
	if st.netns == "" {
		return nil
	}
	id, err := kernel.WhichNetns(st.netns)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return api.Refuse(api.NotFound, "%s: no such network namespace", st.external)
	case err != nil:
		return api.Refuse(api.Invalid, "%s: %w", st.external, err)
	}
	own, err := kernel.WhichNetns("/proc/self/ns/net")
	if err != nil {
		return err
	}
	if id == own {
		return api.Refuse(api.Invalid, "%w: %s is in the host's", errShared, st.external)
	}
	for _, s := range a.boxes.snapshot() {
		if !s.Up || s.NetworkMode == "host" {
			continue
		}
		if other, err := kernel.WhichNetns(a.runner.NetnsPath(string(s.ID))); err == nil && other == id {
			return api.Refuse(api.Exists, "%s is the network namespace of sandbox %s: connect that one", st.external, s.Name)
		}
	}
	return nil
}

// dropIdle forgets a namespace of others that is in no network any more. The caller has its turn.
func (a *Agent) dropIdle(ctx context.Context, id record.SandboxID) {
	s, ok := a.boxes.get(id)
	if !ok || s.External == "" || len(s.Attachments) > 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	if err := a.forget(ctx, s); err != nil {
		a.log.Error("cannot let go of a network namespace", "sandbox", s.Name, "external", s.External, "error", err)
	}
}

// dockerHost is where this host's Docker daemon listens.
func dockerHost() string { return os.Getenv("DOCKER_HOST") }
