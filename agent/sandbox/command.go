package sandbox

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// command is a Spec with everything found that it names.
type command struct {
	path string
	args []string
	env  []string
	dir  string
	who  identity
}

// resolve finds a Spec's user, directory and file, as the calling thread sees the file system.
func resolve(spec Spec) (command, error) {
	if len(spec.Command) == 0 || spec.Command[0] == "" {
		return command{}, refuse(125, "no command was given")
	}
	who, err := findUser(spec.User, passwdFile, groupFile)
	if err != nil {
		return command{}, err
	}
	c := command{args: spec.Command, dir: spec.Workdir, who: who}
	if c.dir == "" {
		c.dir = "/"
	}
	if !filepath.IsAbs(c.dir) {
		return command{}, refuse(125, "the working directory %q is invalid: it must be an absolute path", c.dir)
	}
	if st, err := os.Stat(c.dir); err != nil {
		return command{}, refuse(125, "chdir to cwd (%q): %v: make the directory first", c.dir, reasonOf(err))
	} else if !st.IsDir() {
		return command{}, refuse(125, "chdir to cwd (%q): not a directory", c.dir)
	}
	c.env = environment(spec, who)
	c.path, err = lookPath(spec.Command[0], valueOf(c.env, "PATH"), c.dir)
	return c, err
}

// environment is the defaults with what the Spec says over them.
func environment(spec Spec, who identity) []string {
	hostname := spec.Hostname
	if hostname == "" {
		hostname, _ = os.Hostname()
	}
	env := []string{"PATH=" + defaultPath, "HOSTNAME=" + hostname, "HOME=" + who.home}
	if spec.TTY {
		env = append(env, "TERM=xterm")
	}
	at := map[string]int{}
	var out []string
	for _, kv := range append(env, spec.Env...) {
		k, _, ok := strings.Cut(kv, "=")
		if !ok || k == "" || strings.ContainsRune(kv, 0) {
			continue
		}
		if i, again := at[k]; again {
			out[i] = kv
			continue
		}
		at[k] = len(out)
		out = append(out, kv)
	}
	return out
}

func valueOf(env []string, key string) string {
	for _, kv := range env {
		if v, ok := strings.CutPrefix(kv, key+"="); ok {
			return v
		}
	}
	return ""
}

// lookPath finds a command as execvp does in that directory with that PATH. The words and codes are docker's.
func lookPath(name, path, dir string) (string, error) {
	if strings.Contains(name, "/") {
		file := under(dir, name)
		switch err := executable(file); {
		case err == nil:
			return file, nil
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
			return "", refuse(127, "exec: %q: stat %s: no such file or directory", name, file)
		default:
			return "", refuse(126, "exec: %q: %v", name, reasonOf(err))
		}
	}
	for d := range strings.SplitSeq(path, ":") {
		if file := under(dir, filepath.Join(d, name)); executable(file) == nil {
			return file, nil
		}
	}
	return "", refuse(127, "exec: %q: executable file not found in $PATH", name)
}

func under(dir, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

func executable(file string) error {
	st, err := os.Stat(file)
	switch {
	case err != nil:
		return err
	case st.IsDir():
		return unix.EISDIR
	case st.Mode()&0o111 == 0:
		return unix.EACCES
	}
	return nil
}

// refused words what the kernel said to a command that was found.
func refused(c command, err error) error {
	code := 125
	switch {
	case errors.Is(err, unix.ENOENT): // a script's interpreter, or it went meanwhile
		code = 127
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.ENOEXEC), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ETXTBSY),
		errors.Is(err, unix.ELIBBAD):
		code = 126
	}
	return refuse(code, "exec %s: %v", c.path, reasonOf(err))
}

// reasonOf leaves the path out, which the caller names better.
func reasonOf(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}
