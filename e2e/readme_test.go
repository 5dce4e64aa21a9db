package e2e

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"weft/e2e/lab"
)

// block is a fenced part of the README.
type block struct {
	kind  string
	lines []string
}

func readmeBlocks(t *testing.T) []block {
	t.Helper()
	text, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	var out []block
	inside := false
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSuffix(line, "\n")
		switch kind, fence := strings.CutPrefix(line, "```"); {
		case fence && !inside:
			out, inside = append(out, block{kind: kind}), true
		case fence:
			inside = false
		case inside:
			out[len(out)-1].lines = append(out[len(out)-1].lines, line)
		}
	}
	return out
}

// byReadme leaves it to the README which store is used.
type byReadme struct{}

func (byReadme) Args(*lab.Host) []string { return nil }

// typed is a line that the README types on a host, with what it shows as the answer.
type typed struct {
	host, line string
	answer     []string
}

func consoleLines(bs []block) []typed {
	prompt := regexp.MustCompile(`^(alpha|beta)\$ (.*)$`)
	var out []typed
	for _, b := range bs {
		if b.kind != "console" {
			continue
		}
		for _, line := range b.lines {
			if m := prompt.FindStringSubmatch(line); m != nil {
				out = append(out, typed{host: m[1], line: m[2]})
			} else {
				out[len(out)-1].answer = append(out[len(out)-1].answer, line)
			}
		}
	}
	return out
}

// pattern makes an expression of an answer: … stands for anything, a line of … alone for one or more lines, blanks for blanks.
func pattern(answer []string) *regexp.Regexp {
	var b strings.Builder
	b.WriteString(`^`)
	for _, line := range answer {
		if line == "…" {
			b.WriteString(`(?:.+\n)+?`)
			continue
		}
		words := strings.Fields(line)
		for i, w := range words {
			words[i] = strings.ReplaceAll(regexp.QuoteMeta(w), "…", ".*")
		}
		b.WriteString(strings.Join(words, `\s+`) + `.*\n`)
	}
	return regexp.MustCompile(b.String() + `$`)
}

// The tour goes on two hosts as it is written, and shows what is written there.
func TestReadmeTour(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 0, byReadme{})
	hosts := map[string]*host{"alpha": c.addHost("alpha"), "beta": c.addHost("beta")}
	lines := consoleLines(readmeBlocks(t))
	t.Cleanup(func() { // which the tour makes
		_ = os.Remove("/var/tmp/weft.backup")
		_ = os.Remove("/var/tmp/weft.token")
	})
	hosts["beta"].NoJoin = true // but as the tour has it
	if len(lines) < 15 {
		t.Fatalf("the README has %d lines to type", len(lines))
	}
	for _, l := range lines {
		h := hosts[l.host]
		if args, ok := strings.CutPrefix(l.line, "weftd "); ok {
			h.Args = strings.Fields(strings.TrimSuffix(args, "&"))
			h.up()
			h.awaitJoined()
			continue
		}
		if l.line == "poweroff -f" {
			must(t, h.PowerOff(within(t, patience)))
			continue
		}
		got := h.shell(l.line)
		if !pattern(l.answer).MatchString(got) {
			t.Errorf("%s$ %s\nprinted\n%swant\n%s", l.host, l.line, got, strings.Join(l.answer, "\n"))
		}
	}
}

// inSandbox finds `weft` as a command to run in a sandbox, whose path is not the test's.
var inSandbox = regexp.MustCompile(`(-- |weft exec \S+ )weft `)

// shell runs a line as typed on the host, and returns all that it printed.
func (h *host) shell(line string) string {
	h.c.t.Helper()
	line = inSandbox.ReplaceAllString(line, "${1}"+weftPath+" ")
	cmd := exec.CommandContext(within(h.c.t, patience), "/bin/sh", "-c", line)
	cmd.Env = append(os.Environ(), "WEFT_HOST="+h.Socket(), "PATH="+filepath.Dir(weftPath)+":"+os.Getenv("PATH"))
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := h.Node.Start(cmd); err != nil {
		h.c.t.Fatal(err)
	}
	_ = cmd.Wait() // the tour shows errors too
	return out.String()
}

// Each file of the README is one that weftd takes: the first two make a cluster, the third names files that this machine has not.
func TestReadmeFiles(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 0, byReadme{})
	var files []string
	token := filepath.Join(t.TempDir(), "token")
	for _, b := range readmeBlocks(t) {
		if b.kind == "yaml" {
			file := filepath.Join(t.TempDir(), "weftd.yaml")
			text := strings.ReplaceAll(strings.Join(b.lines, "\n"), "/etc/weft/token", token)
			must(t, os.WriteFile(file, []byte(text), 0o600))
			files = append(files, file)
		}
	}
	if len(files) != 3 {
		t.Fatalf("the README has %d files", len(files))
	}
	for i, file := range files[:2] {
		h := c.addHost(fmt.Sprintf("host%d", i+1))
		h.Args, h.NoJoin = []string{"--config", file}, true
		h.up()
		h.awaitJoined()
		if i == 0 {
			must(t, os.WriteFile(token, []byte(h.weft("cluster", "token")), 0o600))
			continue
		}
		if _, err := os.Stat(filepath.Join(h.StateDir, "pki", "host.pem")); err != nil {
			t.Errorf("it has not joined: %v", err)
		}
	}
	h := c.addHost("host3")
	h.Args = []string{"--config", files[2]}
	r, err := h.Run(within(t, patience))
	must(t, err)
	if r.Code != 1 || !strings.Contains(r.Stderr, "kv.cacertfile") || !strings.Contains(r.Stderr, "/etc/weft/ca.pem") {
		t.Errorf("exit %d, %s; want that the certificate is not there", r.Code, r.Stderr)
	}
}

// toNobody types a line that is about another store. No such store is there, so it says so and changes nothing; what it does where one is has
// stories of its own (TestMigrate…, TestNetworksOfDocker…).
func toNobody(line string) func(*testing.T) {
	return func(t *testing.T) {
		c := newCluster(t, 1, lab.Embedded{})
		c.start()
		h := c.hosts[0]
		h.weft("network", "create", "-d", "overlay", "n")
		address := regexp.MustCompile(`//([0-9.:]+)`).FindStringSubmatch(line)[1]
		if got := h.shell(line + " || echo exit $?"); !strings.Contains(got, address) || !strings.HasSuffix(got, "exit 1\n") {
			t.Errorf("%s\n%s; want exit 1, and that %s cannot be reached", line, got, address)
		}
		h.weft("network", "create", "-d", "overlay", "m")
		h.weft("store", "check")
	}
}

// Every other command of the README is known here by what proves it.
func TestReadmeCommands(t *testing.T) {
	t.Parallel()
	dest := t.TempDir()
	runMake := func(t *testing.T, args ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "make", append([]string{"-C", ".."}, args...)...)
		if text, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("make %v: %v\n%s", args, err, text)
		}
	}
	proofs := map[string]func(*testing.T){
		"sudo make demo": func(t *testing.T) {
			text, err := exec.CommandContext(t.Context(), "make", "-C", "..", "-n", "demo").Output()
			if err != nil || !strings.Contains(string(text), "./bin/weft demo") { // which TestDemo runs
				t.Errorf("make demo would run %q, %v", text, err)
			}
		},
		"sudo make test": func(t *testing.T) {
			text, err := os.ReadFile("../.ci/run") // which has brought us here
			if err != nil || !strings.Contains(string(text), "make test") {
				t.Errorf("the checks of a clean clone do not run it: %v", err)
			}
		},
		"make build": func(t *testing.T) { runMake(t, "build") },
		"sudo make install": func(t *testing.T) {
			runMake(t, "install", "DESTDIR="+dest)
			for _, f := range []string{"usr/local/bin/weft", "usr/local/bin/weftd", "usr/local/share/man/man1/weft-network-create.1", "etc/systemd/system/weftd.service"} {
				if _, err := os.Stat(filepath.Join(dest, f)); err != nil {
					t.Error(err)
				}
			}
		},
		"sudo systemctl enable --now weftd":  func(t *testing.T) { unitIsSound(t, dest) },
		"sudo systemctl disable --now weftd": func(t *testing.T) { systemctl(t, dest, "disable") },
		"source <(weft completion bash)": func(t *testing.T) { // TestShellsComplete looks at what it offers
			cmd := exec.CommandContext(t.Context(), "bash", "-c", "source <(weft completion bash) && complete -p weft")
			cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(weftPath)+":"+os.Getenv("PATH"))
			if text, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(text), "__start_weft") {
				t.Errorf("bash completes weft by %q, %v", text, err)
			}
		},
		"weft rm -f $(weft ps -aq)":                                         removeAll,
		"sudo rm -rf /var/lib/weft /run/weft":                               func(t *testing.T) { directoriesAreThese(t) },
		"nohup weftd --cluster-advertise eth0 --join 192.0.2.11 --token @…": startByHand,
	}
	for _, line := range []string{"weft store migrate --to consul://192.0.2.21:8500/weft", "weft import docker --from consul://192.0.2.7:8500 --dry-run"} {
		proofs[line] = toNobody(line)
	}
	seen := map[string]bool{}
	order := []string{}
	for _, b := range readmeBlocks(t) {
		if b.kind != "sh" {
			continue
		}
		for _, line := range b.lines {
			line, _, _ = strings.Cut(line, "    #")
			key := strings.TrimSpace(line)
			if strings.HasPrefix(key, "nohup ") {
				key = key[:strings.Index(key, "@")] + "@…"
			}
			if proofs[key] == nil {
				t.Errorf("nothing proves %q", line)
				continue
			}
			seen[key], order = true, append(order, key)
		}
	}
	for _, key := range order { // as the README has them: enable after install
		t.Run(key, proofs[key])
	}
	if missing := len(proofs) - len(seen); missing > 0 {
		t.Errorf("the README has lost %d of %v", missing, slices.Sorted(maps.Keys(proofs)))
	}
}

func systemctl(t *testing.T, root string, verb string) {
	t.Helper()
	if text, err := exec.CommandContext(t.Context(), "systemctl", "--root="+root, verb, "weftd").CombinedOutput(); err != nil {
		t.Errorf("systemctl %s weftd: %v\n%s", verb, err, text)
	}
}

// unitIsSound checks the unit that was installed, and enables it there. No systemd runs on the machines of the tests.
func unitIsSound(t *testing.T, root string) {
	unit := filepath.Join(root, "etc/systemd/system/weftd.service")
	text, err := exec.CommandContext(t.Context(), "systemd-analyze", "verify", "--root="+root, "--man=no", "--recursive-errors=no", unit).CombinedOutput()
	if err != nil || strings.Contains(string(text), "weftd.service:") {
		t.Errorf("systemd-analyze verify: %v\n%s", err, text)
	}
	systemctl(t, root, "enable")
	if _, err := os.Lstat(filepath.Join(root, "etc/systemd/system/multi-user.target.wants/weftd.service")); err != nil {
		t.Error(err)
	}
}

// directoriesAreThese: what the README deletes is what weftd uses by default.
func directoriesAreThese(t *testing.T) {
	text, err := exec.CommandContext(t.Context(), weftdPath, "--help").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"/var/lib/weft", "/run/weft"} {
		if !strings.Contains(string(text), fmt.Sprintf("(default %q)", d)) {
			t.Errorf("weftd --help does not have %s as a default", d)
		}
	}
}

func removeAll(t *testing.T) {
	c := newCluster(t, 1, lab.Embedded{})
	c.start()
	h := c.hosts[0]
	h.weft("network", "create", "-d", "overlay", "n")
	h.weft("run", "-d", "--name", "a", "--network", "n", "--", "sleep", "1000")
	h.weft("run", "--name", "b", "--network", "n", "--", "true")
	h.shell("weft rm -f $(weft ps -aq)")
	if left := h.weft("ps", "-aq"); left != "" {
		t.Errorf("left: %s", left)
	}
}

// startByHand types the README's line on a second host, where the first serves the store: the agent joins, and a hang-up does not end it.
func startByHand(t *testing.T) {
	c := newCluster(t, 1, lab.Embedded{})
	c.start()
	h := c.addHost("byhand")
	line := ""
	for _, b := range readmeBlocks(t) {
		for _, l := range b.lines {
			if strings.HasPrefix(l, "nohup weftd ") {
				line = l
			}
		}
	}
	token := filepath.Join(t.TempDir(), "token")
	must(t, os.WriteFile(token, []byte(c.hosts[0].weft("cluster", "token")), 0o600))
	line = strings.NewReplacer("/var/log/weftd.log", h.LogPath(), "/etc/weft/token", token).Replace(line)
	env := fmt.Sprintf("WEFT_CONFIG=/dev/null WEFT_STATE_DIR=%s WEFT_RUN_DIR=%s WEFT_NAME=byhand ", h.StateDir, h.RunDir())
	pid, err := strconv.Atoi(strings.TrimSpace(h.shell(env + line + " echo $!")))
	if err != nil {
		t.Fatal(err)
	}
	both := func() error {
		r := h.try("host", "ls", "--format", "{{.Name}}")
		if r.Stdout != "byhand\nhost1\n" {
			return fmt.Errorf("weft host ls: %s%s", r.Stdout, r.Stderr)
		}
		return nil
	}
	eventually(t, patience, both)
	if err := syscall.Kill(pid, syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	if err := both(); err != nil {
		t.Error(err)
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually(t, patience, func() error {
		if syscall.Kill(pid, 0) == nil {
			return errors.New("it did not end")
		}
		return nil
	})
}
