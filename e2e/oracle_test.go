package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"weft/e2e/lab"
)

// The same command lines are typed to a real dockerd and to weft, and what they do is compared: exit codes, the words of refusals, columns
// of tables, keys and types of JSON. Differences that are meant are in meant, each with its reason; any other fails the test, and so does
// one of that list that is not there any more.

// line is one command line, without its first word.
type line struct {
	text string // words as a shell takes them; CMD is an image and a program for docker, and a program for weft, that waits to be ended
	says string // what both say where it fails
	in   string // what both read from their standard input
}

// oracle runs lines against both.
type oracle struct {
	t     *testing.T
	docks *dockerd
	host  *host
	found map[string]string // differences, and what both did where each was first seen
	order []string          // of them
}

func newOracle(t *testing.T) *oracle {
	t.Helper()
	needs(t, map[string]string{dockerCLI(): "docker.io"})
	c := newCluster(t, 1, lab.Embedded{})
	c.start()
	o := &oracle{t: t, docks: newDockerd(c, "dock", "etcd://"+oldEtcd(c).Addr.String()+":2379"), host: c.hosts[0], found: map[string]string{}}
	o.docks.net = []string{"--ip-forward=true"}
	o.docks.start()
	o.docks.load()
	return o
}

// dockerCLI is Debian's command, or the one of $DOCKER.
func dockerCLI() string {
	if p := os.Getenv("DOCKER"); p != "" {
		return p
	}
	return "/usr/bin/docker"
}

// docker runs Docker's command against the daemon.
func (o *oracle) docker(l line) lab.Result {
	o.t.Helper()
	args := append([]string{"-H", "unix://" + o.docks.socket()}, words(strings.ReplaceAll(l.text, "CMD", imageName+" /pause"))...)
	return o.runs(l, exec.CommandContext(within(o.t, patience), dockerCLI(), args...))
}

func (o *oracle) weft(l line) lab.Result {
	o.t.Helper()
	return o.runs(l, o.host.Command(within(o.t, patience), words(strings.ReplaceAll(l.text, "CMD", "-- sleep "+forever))...))
}

func (o *oracle) runs(l line, cmd *exec.Cmd) lab.Result {
	o.t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(l.in), &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		o.t.Fatal(err)
	}
	return lab.Result{Stdout: out.String(), Stderr: errs.String(), Code: cmd.ProcessState.ExitCode()}
}

// words splits as a shell does, as far as single quotes go.
func words(text string) (out []string) {
	for i, part := range strings.Split(text, "'") {
		if i%2 == 1 {
			out = append(out, part)
			continue
		}
		out = append(out, strings.Fields(part)...)
	}
	return out
}

// ask types a line to both and keeps what differs.
func (o *oracle) ask(l line) {
	o.t.Helper()
	theirs, ours := o.docker(l), o.weft(l)
	both := fmt.Sprintf("$ %s\ndocker: exit %d\n%s%sweft: exit %d\n%s%s", l.text, theirs.Code, theirs.Stdout, theirs.Stderr, ours.Code, ours.Stdout, ours.Stderr)
	if testing.Verbose() {
		o.t.Log(both)
	}
	for _, d := range compare(l, theirs, ours) {
		if o.found[d] == "" {
			o.found[d] = both
			o.order = append(o.order, d)
		}
	}
}

// meant is a difference that is meant, or several of one kind: a pattern of all of what says it, and the reason.
type meant struct{ what, why string }

// judge fails the test for what is not meant, and for what is meant and not there.
func (o *oracle) judge(list []meant) {
	o.t.Helper()
	found := map[string]bool{}
	forms := make([]*regexp.Regexp, len(list))
	for i, m := range list {
		forms[i] = regexp.MustCompile("^(?:" + m.what + ")$")
	}
	said := map[string]bool{}
	for _, what := range o.order {
		is := slices.IndexFunc(forms, func(f *regexp.Regexp) bool { return f.MatchString(what) })
		if is >= 0 {
			found[list[is].what] = true
			continue
		}
		o.t.Errorf("weft differs from docker: %s", what)
		if both := o.found[what]; !testing.Verbose() && !said[both] {
			said[both] = true
			o.t.Log(both)
		}
	}
	for _, m := range list {
		if !found[m.what] {
			o.t.Errorf("%q is a difference that is meant (%s), and there is no such difference any more: take it out of the list", m.what, m.why)
		}
	}
}
