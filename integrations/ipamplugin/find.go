package ipamplugin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// Dirs are where plugins are looked for, in this order: first all sockets, then all specifications.
type Dirs struct {
	Sockets []string // of NAME.sock or NAME/NAME.sock
	Specs   []string // of NAME.spec, which is an address, or NAME.json; also in a directory NAME
}

// DockerDirs are Docker's.
func DockerDirs() Dirs {
	return Dirs{Sockets: []string{"/run/docker/plugins"}, Specs: []string{"/etc/docker/plugins", "/usr/lib/docker/plugins"}}
}

// place is where a plugin listens.
type place struct {
	network, address string // "unix" and a path, or "tcp" and HOST:PORT
	tls              *tlsFiles
}

// tlsFiles is Docker's TLSConfig.
type tlsFiles struct {
	InsecureSkipVerify        bool
	CAFile, CertFile, KeyFile string
}

// nameForm keeps a name from being a path. Docker's plugins are called so.
var nameForm = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`)

const maxSpec = 64 << 10

// find looks for a plugin's socket or specification.
func find(dirs Dirs, name string) (place, error) {
	if !nameForm.MatchString(name) || len(name) > 128 {
		return place{}, fmt.Errorf("%w: %.140q is no name of one", ErrNotFound, name)
	}
	for _, dir := range dirs.Sockets {
		for _, p := range []string{filepath.Join(dir, name+".sock"), filepath.Join(dir, name, name+".sock")} {
			if st, err := os.Stat(p); err == nil && st.Mode().Type() == fs.ModeSocket {
				return place{network: "unix", address: p}, nil
			}
		}
	}
	for _, dir := range dirs.Specs {
		for _, base := range []string{filepath.Join(dir, name), filepath.Join(dir, name, name)} {
			at, err := readSpec(base+".spec", parseSpec)
			if errors.Is(err, fs.ErrNotExist) {
				at, err = readSpec(base+".json", parseJSON)
			}
			if !errors.Is(err, fs.ErrNotExist) {
				return at, err
			}
		}
	}
	return place{}, fmt.Errorf("%w: there is no %s.sock in %s, and no %s.spec or %s.json in %s", ErrNotFound, name, strings.Join(dirs.Sockets, ", "),
		name, name, strings.Join(dirs.Specs, ", "))
}

func readSpec(path string, parse func([]byte) (place, error)) (place, error) {
	f, err := os.Open(path)
	if err != nil {
		return place{}, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxSpec))
	if err != nil {
		return place{}, fmt.Errorf("read %s: %w", path, err)
	}
	at, err := parse(raw)
	if err != nil {
		return place{}, fmt.Errorf("%s: %w", path, err)
	}
	return at, nil
}

func parseSpec(raw []byte) (place, error) { return parseAddress(strings.TrimSpace(string(raw))) }

func parseJSON(raw []byte) (place, error) {
	var s struct {
		Addr      string
		TLSConfig *tlsFiles
	}
	if err := json.Unmarshal(raw, &s); err != nil {
		return place{}, err
	}
	at, err := parseAddress(s.Addr)
	at.tls = s.TLSConfig
	return at, err
}

// parseAddress reads unix:///PATH or tcp://HOST:PORT.
func parseAddress(s string) (place, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return place{}, err
	case u.Scheme == "unix" && u.Host == "" && strings.HasPrefix(u.Path, "/"):
		return place{network: "unix", address: u.Path}, nil
	case (u.Scheme == "tcp" || u.Scheme == "http" || u.Scheme == "https") && u.Hostname() != "" && u.Port() != "":
		return place{network: "tcp", address: u.Host}, nil
	}
	return place{}, fmt.Errorf("the address %.200q is neither unix:///PATH nor tcp://HOST:PORT", s)
}
