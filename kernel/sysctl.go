package kernel

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// ownSysctls are those whose values are read back in a network's namespace; hostSysctls, in the host's.
var (
	ownSysctls = []string{
		"net/ipv4/ip_forward", "net/ipv4/conf/all/rp_filter", "net/ipv4/conf/default/rp_filter", "net/ipv4/conf/all/send_redirects",
		"net/ipv4/conf/default/send_redirects", "net/ipv6/conf/all/disable_ipv6", "net/ipv6/conf/default/disable_ipv6", "net/ipv6/conf/all/forwarding",
		"net/ipv6/conf/default/accept_dad", "net/ipv6/conf/default/accept_ra",
		"net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables", "net/bridge/bridge-nf-call-arptables",
	}
	hostSysctls = []string{"net/ipv4/ip_forward", forwarding6}
)

// forwarding6 makes a router of a namespace in IPv6.
const forwarding6 = "net/ipv6/conf/all/forwarding"

// absent tells a sysctl whose module is not loaded: bridge netfilter is off then, and IPv6 too.
func absent(name string, err error) bool {
	return errors.Is(err, os.ErrNotExist) && (strings.HasPrefix(name, "net/bridge/") || strings.HasPrefix(name, "net/ipv6/"))
}

func readSysctls(c *conn, ns string, names []string, out State) error {
	return inside(c.ns, func() error {
		var files []settingFile
		for _, name := range names {
			b, err := os.ReadFile("/proc/sys/" + name)
			value := strings.TrimSpace(string(b))
			if absent(name, err) {
				if value, err = "0", nil; strings.HasSuffix(name, "disable_ipv6") {
					value = "1"
				}
			}
			if err != nil {
				return fmt.Errorf("read sysctl: %w", err)
			}
			k := Key{Kind: KindSysctl, NS: ns, Link: name}
			files = append(files, settingFile{k, name})
			out.Add(Object{Key: k, Spec: Sysctl{Value: value}})
		}
		c.settings.add(slices.DeleteFunc(files, func(f settingFile) bool { return c.settings.watches(f.key) })...)
		return nil
	})
}

// writeSysctls sets values as the namespace sees them, where they are others.
func writeSysctls(c *conn, ops []Op) []error {
	errs := make([]error, len(ops))
	err := inside(c.ns, func() error {
		var files []settingFile
		for i, o := range ops {
			errs[i] = writeSysctl(o.Obj)
			files = append(files, settingFile{o.Obj.Key, o.Obj.Link})
		}
		c.settings.add(files...)
		return nil
	})
	if err != nil {
		return each(ops, err)
	}
	return errs
}

func writeSysctl(o Object) error {
	name, value := o.Link, o.Spec.(Sysctl).Value
	now, err := os.ReadFile("/proc/sys/" + name)
	if err == nil && strings.TrimSpace(string(now)) == value || err != nil && absent(name, err) {
		return nil
	}
	if name == forwarding6 && o.NS == HostNS && value == "1" {
		err = keepRouters()
	}
	if err = errors.Join(err, os.WriteFile("/proc/sys/"+name, []byte(value), 0o644)); err != nil {
		return fmt.Errorf("set sysctl %s to %s: %w", name, value, err)
	}
	return nil
}

// keepRouters makes the interfaces of the calling thread's namespace that take routes and addresses from routers' advertisements go on with it: one that
// forwards does so only where accept_ra is 2 (Documentation/networking/ip-sysctl.rst). A host must not lose its own way out because sandboxes
// get one.
func keepRouters() error {
	files, err := filepath.Glob("/proc/sys/net/ipv6/conf/*/accept_ra")
	for _, f := range files {
		b, rerr := os.ReadFile(f)
		if rerr != nil || strings.TrimSpace(string(b)) != "1" {
			continue // it has gone meanwhile, or takes none
		}
		err = errors.Join(err, os.WriteFile(f, []byte("2"), 0o644))
	}
	return err
}
