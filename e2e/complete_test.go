package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"weft/e2e/lab"
)

// What a user's shell offers after TAB, with the names that are there at that moment, in real shells.
func TestShellsComplete(t *testing.T) {
	t.Parallel()
	needs(t, map[string]string{"bash": "bash", "fish": "fish", "zsh": "zsh"})
	const library = "/usr/share/bash-completion/bash_completion"
	if _, err := os.Stat(library); err != nil {
		t.Fatal("this story needs bash's completion library: apt-get install --no-install-recommends bash-completion")
	}
	c := newCluster(t, 1, lab.Embedded{})
	c.start()
	h := c.hosts[0]
	h.weft("network", "create", "alpha")
	h.weft("network", "create", "-d", "overlay", "beta")
	h.box("one", "alpha")
	h.box("two", "beta")

	shell := func(name string, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(within(t, patience), name, args...)
		cmd.Env = append(h.Command(t.Context()).Env, "PATH="+filepath.Dir(weftPath)+":"+os.Getenv("PATH"), "HOME="+t.TempDir(), "XDG_CONFIG_HOME="+t.TempDir())
		var errs bytes.Buffer
		cmd.Stderr = &errs
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s %q: %v: %s", name, args, err, errs.String())
		}
		return string(out)
	}
	const bash = `source ` + library + `
source <(weft completion bash)
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMP_LINE="$*" COMP_POINT=${#COMP_LINE} COMP_TYPE=9
__start_weft
printf '%s\n' "${COMPREPLY[@]}"`
	for _, tt := range []struct {
		line []string
		want []string
	}{
		{[]string{"weft", "netw"}, []string{"network"}},
		{[]string{"weft", "network", "rm", ""}, []string{"alpha", "beta"}},
		{[]string{"weft", "network", "rm", "al"}, []string{"alpha"}},
		{[]string{"weft", "network", "disconnect", "alpha", ""}, []string{"one"}},
		{[]string{"weft", "network", "connect", "alpha", ""}, []string{"two"}},
		{[]string{"weft", "stop", "o"}, []string{"one"}},
		{[]string{"weft", "run", "--network", "b"}, []string{"beta", "bridge"}},
		{[]string{"weft", "network", "create", "-d", "o"}, []string{"overlay"}},
	} {
		trim := func(out string) (names []string) {
			for line := range strings.Lines(out) {
				name, _, _ := strings.Cut(strings.TrimSpace(line), "\t")
				name, _, _ = strings.Cut(name, " ")
				names = append(names, name)
			}
			slices.Sort(names)
			return names
		}
		if got := trim(shell("bash", append([]string{"--norc", "-c", bash, "bash"}, tt.line...)...)); !slices.Equal(got, tt.want) {
			t.Errorf("bash offers %q after %q, want %q", got, tt.line, tt.want)
		}
		fish := "weft completion fish | source; complete -C '" + strings.Join(tt.line, " ") + "'"
		if got := trim(shell("fish", "--no-config", "-c", fish)); !slices.Equal(got, tt.want) {
			t.Errorf("fish offers %q after %q, want %q", got, tt.line, tt.want)
		}
	}
	zsh := `autoload -U compinit && compinit -u -D && source <(weft completion zsh) && print -r -- ${_comps[weft]}`
	if got := shell("zsh", "-f", "-c", zsh); strings.TrimSpace(got) != "_weft" {
		t.Errorf("zsh completes weft by %q", got)
	}
}
