package kernel

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
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

// ownConf are the settings of links that weft itself gives, and that are read back in every namespace; others, which users ask for, as soon as
// this executor has put one.
var ownConf = []string{"ipv6/conf/disable_ipv6", "ipv6/conf/accept_dad", "ipv6/conf/accept_ra", "ipv6/conf/accept_redirects"}

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

// confNames are the settings to read: the map is replaced and never changed.
func (k *Kernel) confNames() []string {
	k.mu.Lock()
	asked := k.confs
	k.mu.Unlock()
	return slices.Compact(slices.Sorted(func(yield func(string) bool) {
		for _, n := range ownConf {
			if !yield(n) {
				return
			}
		}
		for n := range asked {
			if !yield(n) {
				return
			}
		}
	}))
}

// readConf reads the settings of weft's links in a namespace. One that the kernel does not have, or whose link has gone meanwhile, is left out.
func (k *Kernel) readConf(c *conn, s scope, out State) error {
	names := k.confNames()
	var links []string
	for index, l := range s.links.byIndex {
		if name, ours := s.link(index); ours && l.master == 0 { // ports of bridges have no settings of weft's
			links = append(links, name)
		}
	}
	if len(links) == 0 {
		return nil
	}
	return inside(c.ns, func() error {
		for _, link := range links {
			for _, dst := range names {
				file, err := ConfPath(link, dst)
				if err != nil {
					return err
				}
				b, err := os.ReadFile("/proc/sys/" + file)
				if errors.Is(err, os.ErrNotExist) {
					continue
				}
				if err != nil {
					return fmt.Errorf("read a setting of interface %s: %w", link, err)
				}
				k := Key{Kind: KindConf, NS: s.ns, Link: link, Dst: dst}
				c.settings.add(k, file)
				out.Add(Object{Key: k, Spec: Conf{Value: strings.TrimSpace(string(b))}})
			}
		}
		return nil
	})
}

// writeConf gives links their settings. A kernel without IPv6 has none of its: what turns it off is true there.
func writeConf(c *conn, ops []Op) []error {
	errs := make([]error, len(ops))
	err := inside(c.ns, func() error {
		for i, o := range ops {
			if errs[i] = writeOneConf(o.Obj); errs[i] == nil {
				file, _ := ConfPath(o.Obj.Link, o.Obj.Dst)
				c.settings.add(o.Obj.Key, file)
			}
		}
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
