package sandbox

import (
	"bufio"
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"
)

// The files of users, read by hand: os/user would ask the C library, or fall short of it.
const (
	passwdFile = "/etc/passwd"
	groupFile  = "/etc/group"
)

// identity is whom a process runs as.
type identity struct {
	uid, gid uint32
	groups   []uint32
	home     string
}

// findUser reads NAME|UID[:GROUP|GID]; "" is root. A number need not be in the files. As with docker, whoever names a group gets no
// others.
func findUser(spec, passwd, group string) (identity, error) {
	name, groupName, _ := strings.Cut(spec, ":")
	if name == "" {
		name = "0"
	}
	users, err := readTable(passwd)
	if err != nil {
		return identity{}, refuse(125, "find user %s: %v", name, err)
	}
	groups, err := readTable(group)
	if err != nil {
		return identity{}, refuse(125, "find the groups of user %s: %v", name, err)
	}
	who, login, ok := lookUser(users, name)
	if !ok {
		return identity{}, refuse(125, "unable to find user %s: no matching entries in passwd file", name)
	}
	if groupName != "" {
		if who.gid, ok = lookGroup(groups, groupName); !ok {
			return identity{}, refuse(125, "unable to find group %s: no matching entries in group file", groupName)
		}
		return who, nil
	}
	for _, g := range groups {
		if len(g) > 3 && login != "" && slices.Contains(strings.Split(g[3], ","), login) {
			if gid, err := parseID(g[2]); err == nil {
				who.groups = append(who.groups, gid)
			}
		}
	}
	return who, nil
}

// lookUser finds a user by name, or else by number.
func lookUser(users [][]string, name string) (who identity, login string, ok bool) {
	number, notNumber := parseID(name)
	for _, byName := range []bool{true, false} {
		for _, u := range users {
			if len(u) < 6 || byName && u[0] != name {
				continue
			}
			uid, err := parseID(u[2])
			if err != nil || !byName && (notNumber != nil || uid != number) {
				continue
			}
			gid, err := parseID(u[3])
			if err != nil {
				continue
			}
			home := u[5]
			if home == "" {
				home = "/"
			}
			return identity{uid: uid, gid: gid, home: home}, u[0], true
		}
	}
	return identity{uid: number, home: "/"}, "", notNumber == nil
}

func lookGroup(groups [][]string, name string) (uint32, bool) {
	for _, g := range groups {
		if len(g) > 2 && g[0] == name {
			gid, err := parseID(g[2])
			return gid, err == nil
		}
	}
	gid, err := parseID(name)
	return gid, err == nil
}

// parseID: the largest 32-bit number means "leave it as it is" to the kernel and is nobody's.
func parseID(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 31)
	return uint32(n), err
}

// readTable reads a file of lines of fields between colons. One that is not there is empty.
func readTable(path string) ([][]string, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	var out [][]string
	s := bufio.NewScanner(f)
	for s.Scan() {
		if line := strings.TrimSpace(s.Text()); line != "" && line[0] != '#' {
			out = append(out, strings.Split(line, ":"))
		}
	}
	return out, s.Err()
}
