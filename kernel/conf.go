package kernel

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Conf is a setting of one link, below /proc/sys/net/FAMILY/conf or …/neigh; Key.Link is the link and Key.Dst the rest ("ipv6/conf/accept_ra").
// It is written only where it says something else: a write that changes nothing still wakes who listens to it.
type Conf struct{ Value string }

// Equal compares values.
func (s Conf) Equal(o Spec) bool { return o == Spec(s) }
func (s Conf) String() string    { return "=" + s.Value }

// ConfPath is the file of a link's setting below /proc/sys. It fails for what is none.
func ConfPath(link, dst string) (string, error) {
	f := strings.Split(dst, "/")
	ok := len(f) == 3 && (f[0] == "ipv4" || f[0] == "ipv6") && (f[1] == "conf" || f[1] == "neigh")
	for _, part := range append(f, link) {
		ok = ok && part != "" && part != "." && part != ".." && !strings.ContainsAny(part, "/\x00")
	}
	if !ok || link == "all" || link == "default" {
		return "", fmt.Errorf("no setting of an interface: %q of %q", dst, link)
	}
	return path.Join("net", f[0], f[1], link, f[2]), nil
}

// linkConf are the settings of links that weft itself gives, and that are read back in every namespace; others, which users ask for, as soon as
// this executor has put one. These come with each link from the kernel, by their number (linux/ipv6.h, DEVCONF_…): to open a file below /proc/sys takes
// the longer, the more namespaces there are, since those of one name all lie in one chain of the kernel's.
var linkConf = [...]struct {
	dst    string
	number int
}{
	{"ipv6/conf/accept_dad", 27}, {"ipv6/conf/accept_ra", 3}, {"ipv6/conf/accept_redirects", 4}, {"ipv6/conf/disable_ipv6", 26},
}

// parseConf6 reads the settings of IPv6 in what a link has of address families.
func parseConf6(families []byte, l *linkInfo) {
	for family, v := range attributes(families) {
		if family != unix.AF_INET6 {
			continue
		}
		for typ, all := range attributes(v) {
			if typ != unix.IFLA_INET6_CONF {
				continue
			}
			l.has6 = true
			for i, c := range linkConf {
				l.conf6[i] = int32(u32(all[min(len(all), 4*c.number):]))
			}
		}
	}
}

// isLinkConf tells a setting that comes with its link.
func isLinkConf(dst string) bool {
	for _, c := range linkConf {
		if c.dst == dst {
			return true
		}
	}
	return false
}

// learnConf remembers which settings are put.
func (k *Kernel) learnConf(ops []Op) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, o := range ops {
		if !k.confs[o.Obj.Dst] {
			k.confs = maps.Clone(k.confs)
			if k.confs == nil {
				k.confs = map[string]bool{}
			}
			k.confs[o.Obj.Dst] = true
		}
	}
}

// askedConf are the settings to read beside those that come with a link: the map is replaced and never changed.
func (k *Kernel) askedConf() (out []string) {
	k.mu.Lock()
	asked := k.confs
	k.mu.Unlock()
	for dst := range asked {
		if !isLinkConf(dst) {
			out = append(out, dst)
		}
	}
	return out
}

// readConf reads the settings of weft's links in a namespace, and has them watched. One that the kernel does not have, or whose link has gone meanwhile,
// is left out.
func (k *Kernel) readConf(c *conn, s scope, out State) error {
	var links []string
	for index, l := range s.links.byIndex {
		name, ours := s.link(index)
		if !ours || l.master != 0 { // ports of bridges have no settings of weft's
			continue
		}
		links = append(links, name)
		for _, o := range l.conf(s.ns) {
			out.Add(o)
			c.settings.later(o)
		}
	}
	asked := k.askedConf()
	if len(asked) == 0 || len(links) == 0 {
		return nil
	}
	return inside(c.ns, func() error {
		for _, link := range links {
			for _, dst := range asked {
				if err := readAsked(c, Key{Kind: KindConf, NS: s.ns, Link: link, Dst: dst}, out); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// conf are the settings that came with a link.
func (l linkInfo) conf(ns string) []Object {
	if !l.has6 {
		return nil
	}
	out := make([]Object, len(linkConf))
	for i, c := range linkConf {
		out[i] = Object{Key: Key{Kind: KindConf, NS: ns, Link: l.name, Dst: c.dst}, Spec: Conf{Value: strconv.Itoa(int(l.conf6[i]))}}
	}
	return out
}

// readAsked reads a setting from its file. It runs in the namespace.
func readAsked(c *conn, k Key, out State) error {
	file, err := ConfPath(k.Link, k.Dst)
	if err != nil {
		return err
	}
	b, err := os.ReadFile("/proc/sys/" + file)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read a setting of interface %s: %w", k.Link, err)
	}
	if !c.settings.watches(k) {
		c.settings.add(settingFile{k, file})
	}
	out.Add(Object{Key: k, Spec: Conf{Value: strings.TrimSpace(string(b))}})
	return nil
}

// writeConf gives links their settings. A kernel without IPv6 has none of its: what turns it off is true there.
func writeConf(c *conn, ops []Op) []error {
	errs := make([]error, len(ops))
	err := inside(c.ns, func() error {
		var files []settingFile
		for i, o := range ops {
			if errs[i] = writeOneConf(o.Obj); errs[i] == nil {
				file, _ := ConfPath(o.Obj.Link, o.Obj.Dst)
				files = append(files, settingFile{o.Obj.Key, file})
			}
		}
		c.settings.add(files...)
		return nil
	})
	if err != nil {
		return each(ops, err)
	}
	return errs
}

func writeOneConf(o Object) error {
	want := o.Spec.(Conf).Value
	file, err := ConfPath(o.Link, o.Dst)
	if err != nil {
		return err
	}
	now, err := os.ReadFile("/proc/sys/" + file)
	if err == nil && strings.TrimSpace(string(now)) == want {
		return nil
	}
	if err == nil {
		err = os.WriteFile("/proc/sys/"+file, []byte(want), 0o644)
	}
	if _, none := os.Stat("/proc/sys/net/ipv6"); none != nil && o.Dst == "ipv6/conf/disable_ipv6" && want == "1" {
		return nil
	}
	if err != nil {
		return fmt.Errorf("set %s of interface %s to %s: %w", o.Dst, o.Link, want, err)
	}
	return nil
}
