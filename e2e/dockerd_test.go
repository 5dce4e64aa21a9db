package e2e

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"weft/e2e/lab"
)

// dockerd is a Docker host of old: a node whose daemon, Debian's 20.10, shares its networks through a store. The daemon and its containers
// have mount, process and host-name namespaces of their own, with a private /run, and end together.
type dockerd struct {
	c      *cluster
	node   *lab.Node
	dir    string
	store  string   // its --cluster-store; "" where it has none
	net    []string // how its own networks are; with none of that, it has none
	cmd    *exec.Cmd
	client *http.Client
}

// dockerNeeds are the programs that these stories need beside weft's own; none of their services has to run.
var dockerNeeds = map[string]string{"dockerd": "docker.io", "containerd": "containerd", "runc": "runc", "tini": "tini", "iptables": "iptables"}

// needs fails where a program is missing.
func needs(t testing.TB, programs map[string]string) {
	t.Helper()
	var missing []string
	for program, pkg := range programs {
		if _, err := exec.LookPath(program); err != nil {
			missing = append(missing, pkg)
		}
	}
	if len(missing) > 0 {
		slices.Sort(missing)
		t.Fatalf("this story runs Docker as it was: apt-get install --no-install-recommends %s (their services need not run)", strings.Join(missing, " "))
	}
}

// newDockerd makes a node; its daemon is not started.
func newDockerd(c *cluster, name, store string) *dockerd {
	c.t.Helper()
	node, err := c.lab.AddNode(name)
	must(c.t, err)
	return dockerdOn(c, node, name, store)
}

// dockerdOn makes a daemon for a node that is there.
func dockerdOn(c *cluster, node *lab.Node, name, store string) *dockerd {
	c.t.Helper()
	needs(c.t, dockerNeeds)
	d := &dockerd{c: c, node: node, dir: filepath.Join(c.cfg.Dir, name), store: store}
	must(c.t, os.MkdirAll(d.dir, 0o755))
	d.client = &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", d.socket())
		},
	}}
	c.t.Cleanup(func() { // while the lab is still there
		d.kill()
		if c.t.Failed() {
			text, _ := os.ReadFile(filepath.Join(d.dir, "log"))
			c.t.Logf("last of the log of dockerd on %s:\n%s", name, text[max(0, len(text)-3000):])
		}
		d.removeGroups()
	})
	return d
}

// socket is where the daemon listens.
func (d *dockerd) socket() string { return filepath.Join(d.dir, "d.sock") }

// dockerdPath is Debian's daemon, or the one of $DOCKERD.
func dockerdPath() string { return cmp.Or(os.Getenv("DOCKERD"), "dockerd") }

// inside is what becomes the daemon. Without a reaper beside it, dockerd could not restart after a SIGKILL.
const inside = `set -e
mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs tmpfs /run
hostname "$1"
ip link set lo up
shift
exec "$@"`

// start starts the daemon and waits until it answers.
func (d *dockerd) start() {
	d.c.t.Helper()
	d.launch()
	d.await()
}

func (d *dockerd) await() {
	d.c.t.Helper()
	eventually(d.c.t, patience, func() error { return d.ask(http.MethodGet, "/_ping", nil, nil) })
}

// launch starts the daemon's process.
func (d *dockerd) launch() {
	d.c.t.Helper()
	log, err := os.OpenFile(filepath.Join(d.dir, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	must(d.c.t, err)
	defer log.Close()
	args := []string{"--", "sh", "-c", inside, "sh", d.node.Name,
		dockerdPath(), "--data-root", filepath.Join(d.dir, "data"), "--exec-root", "/run/docker", "--pidfile", "/run/docker.pid",
		"-H", "unix://" + d.socket(), "--storage-driver", "vfs", "--cgroup-parent", d.group()}
	if d.net == nil {
		args = append(args, "--iptables=false", "--bridge", "none")
	}
	if d.store != "" {
		args = append(args, "--cluster-store", d.store, "--cluster-advertise", d.node.Addr.String()+":2376")
	}
	d.cmd = exec.Command("tini", append(args, d.net...)...)
	d.cmd.Stdout, d.cmd.Stderr = log, log
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS}
	must(d.c.t, d.node.Start(d.cmd))
}

// kill is a power failure: daemon and containers are gone, and the store has not heard of it.
func (d *dockerd) kill() {
	if d.cmd != nil && d.cmd.ProcessState == nil {
		_ = d.cmd.Process.Kill() // it may have ended
		_ = d.cmd.Wait()         // killed: its status says so
	}
}

// group is the control group of this daemon's containers.
func (d *dockerd) group() string { return "/" + filepath.Base(d.c.cfg.Dir) + "-" + d.node.Name }

// removeGroups removes what runc made, in each hierarchy. Killed containers leave empty groups.
func (d *dockerd) removeGroups() {
	found, _ := filepath.Glob("/sys/fs/cgroup/*" + d.group()) // the pattern is a good one
	for _, g := range append(found, "/sys/fs/cgroup"+d.group()) {
		kids, _ := filepath.Glob(g + "/*/cgroup.procs")
		for _, k := range kids {
			eventually(d.c.t, patience, func() error { return ignoreGone(os.Remove(filepath.Dir(k))) })
		}
		eventually(d.c.t, patience, func() error { return ignoreGone(os.Remove(g)) })
	}
}

func ignoreGone(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// ask calls the daemon's API.
func (d *dockerd) ask(method, path string, body, answer any) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var in io.Reader
	kind := "application/json"
	switch b := body.(type) {
	case nil:
	case []byte:
		in, kind = bytes.NewReader(b), "application/x-tar"
	default:
		raw, err := json.Marshal(b)
		if err != nil {
			return err
		}
		in = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://docker/v1.41"+path, in)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", kind)
	resp, err := d.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode >= 300 {
		return fmt.Errorf("docker %s %s: %s: %s", method, path, resp.Status, raw)
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(raw, answer)
}

// must calls the daemon's API with success.
func (d *dockerd) must(method, path string, body, answer any) {
	d.c.t.Helper()
	must(d.c.t, d.ask(method, path, body, answer))
}

type object = map[string]any

// network is a network for Docker's API: its settings beside name and driver, and its pools.
func (d *dockerd) network(name string, pools []object, more object) {
	d.c.t.Helper()
	body := object{"Name": name, "Driver": "overlay", "CheckDuplicate": true, "IPAM": object{"Driver": "default", "Config": pools}}
	for k, v := range more {
		body[k] = v
	}
	d.must(http.MethodPost, "/networks/create", body, nil)
}

// old is what Docker's API says of a network.
type old struct {
	ID       string `json:"Id"`
	Name     string
	Internal bool
	Options  map[string]string
	Labels   map[string]string
	IPAM     struct {
		Config []struct {
			Subnet, Gateway, IPRange string
			AuxiliaryAddresses       map[string]string
		}
	}
}

func (d *dockerd) inspect(name string) (n old) {
	d.c.t.Helper()
	d.must(http.MethodGet, "/networks/"+name, nil, &n)
	return n
}

// create makes a container in a network, not started.
func (d *dockerd) create(name, network string, settings, more object) {
	d.c.t.Helper()
	body := object{
		"Image": imageName, "Cmd": []string{"/pause"}, "HostConfig": object{"NetworkMode": network},
		"NetworkingConfig": object{"EndpointsConfig": object{network: settings}},
	}
	for k, v := range more {
		body[k] = v
	}
	d.must(http.MethodPost, "/containers/create?name="+name, body, nil)
}

// run starts a container in a network.
func (d *dockerd) run(name, network string, settings, more object) {
	d.c.t.Helper()
	d.create(name, network, settings, more)
	d.must(http.MethodPost, "/containers/"+name+"/start", nil, nil)
}

const imageName = "pause:1"

// load gives the daemon an image that waits to be ended.
func (d *dockerd) load() {
	d.c.t.Helper()
	image, err := pauseImage()
	must(d.c.t, err)
	d.must(http.MethodPost, "/images/create?fromSrc=-&repo=pause&tag=1", image, nil)
}

const pauseProgram = `package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM)
	<-ended
}
`

// pauseImage is a file system with one program that needs nothing else, built once.
var pauseImage = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "weft-pause-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	source, program := filepath.Join(dir, "pause.go"), filepath.Join(dir, "pause")
	if err := os.WriteFile(source, []byte(pauseProgram), 0o644); err != nil {
		return nil, err
	}
	build := exec.Command("go", "build", "-o", program, source)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the program of the image: %w\n%s", err, text)
	}
	binary, err := os.ReadFile(program)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: "pause", Mode: 0o755, Size: int64(len(binary)), ModTime: time.Unix(0, 0)}); err != nil {
		return nil, err
	}
	if _, err := w.Write(binary); err != nil {
		return nil, err
	}
	return b.Bytes(), w.Close()
})
