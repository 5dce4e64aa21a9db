package command

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/protobuf/proto"

	weftv1 "weft/proto/weft/v1"
)

// runFlags are the options of `weft run`, as they came.
type runFlags struct {
	detach, remove, stdin, tty, sigProxy bool

	name, hostname, user, workdir string
	networks, aliases, links      []string
	ip, ip6, mac                  string
	dns, dnsSearch, dnsOptions    []string
	hosts                         []string
	env                           envFlags
	labels                        pairs
	life                          lifeFlags
	ports                         portFlags
}

func (r *runFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.SetInterspersed(false) // what follows the command's name belongs to it
	f.SetNormalizeFunc(formerNames)
	f.Bool("help", false, "Show this help")
	f.BoolVarP(&r.detach, "detach", "d", false, "Run in the background and print the sandbox's ID")
	f.BoolVar(&r.remove, "rm", false, "Remove the sandbox when its process ends")
	f.StringVar(&r.name, "name", "", "Name of the sandbox (default: one that is made up)")
	f.StringArrayVar(&r.networks, "network", nil, "Network to connect to; several times for several: NAME, or name=N,alias=A,ip=IP,…; or host, none")
	f.StringVar(&r.ip, "ip", "", "IPv4 address in the network")
	f.StringVar(&r.ip6, "ip6", "", "IPv6 address in the network")
	f.StringVar(&r.mac, "mac-address", "", "MAC address in the network")
	f.StringArrayVar(&r.aliases, "network-alias", nil, "Another name for the sandbox in the network; NAME,mode=vip gives it one virtual address, balanced over all that have the name")
	f.StringArrayVar(&r.links, "link", nil, "Give another sandbox a name here (NAME[:ALIAS])")
	f.StringVarP(&r.hostname, "hostname", "h", "", "Host name inside (default: the short ID)")
	f.StringArrayVar(&r.dns, "dns", nil, "DNS server for names that are not of the networks")
	f.StringArrayVar(&r.dnsSearch, "dns-search", nil, "DNS search domain")
	f.StringArrayVar(&r.dnsOptions, "dns-option", nil, "Option for resolv.conf")
	f.StringArrayVar(&r.hosts, "add-host", nil, "Line for /etc/hosts (NAME:IP)")
	r.env.add(f)
	r.labels = pairs{}
	f.VarP(r.labels, "label", "l", "Set metadata on the sandbox (KEY=VALUE)")
	f.StringVarP(&r.user, "user", "u", "", "User, and group, to run as (NAME|UID[:GROUP|GID])")
	f.StringVarP(&r.workdir, "workdir", "w", "", "Working directory")
	f.BoolVarP(&r.stdin, "interactive", "i", true, "Pass standard input on")
	f.BoolVarP(&r.tty, "tty", "t", false, "Give the process a terminal")
	f.BoolVar(&r.sigProxy, "sig-proxy", true, "Pass signals on to the process")
	r.ports.add(f)
	r.life.add(cmd)
	notInWeft.add(cmd, map[string]string{"volume": "v", "memory": "m"},
		"privileged", "init", "read-only", "oom-kill-disable", "no-healthcheck")
}

// formerNames are docker's older names of its flags.
func formerNames(_ *pflag.FlagSet, name string) pflag.NormalizedName {
	switch name {
	case "net":
		name = "network"
	case "net-alias":
		name = "network-alias"
	case "dns-opt":
		name = "dns-option"
	}
	return pflag.NormalizedName(name)
}

const (
	noLimits   = "weft sets up networks, not resources; run it under systemd-run or in a cgroup of yours"
	noImages   = "a sandbox has the files of its host: there is no image and no mount"
	noSecurity = "a sandbox is a network namespace, not a jail: its process has the rights of its user (-u)"
	noLog      = "weft keeps what a process writes itself: weft logs shows it"
)

// notInWeft are the options of docker run that have no counterpart yet.
var notInWeft = foreign{
	"init":   "a sandbox's supervisor reaps what its process leaves behind",
	"volume": noImages, "volumes-from": noImages, "mount": noImages, "tmpfs": noImages, "read-only": noImages, "entrypoint": noImages,
	"platform": noImages, "pull": noImages, "device": noImages, "volume-driver": noImages,
	"privileged": noSecurity, "cap-add": noSecurity, "cap-drop": noSecurity, "security-opt": noSecurity, "userns": noSecurity, "group-add": noSecurity,
	"pid": noSecurity, "ipc": noSecurity, "uts": noSecurity, "sysctl": noSecurity, "runtime": noSecurity, "isolation": noSecurity,
	"memory": noLimits, "memory-swap": noLimits, "cpus": noLimits, "cpu-shares": noLimits, "cpuset-cpus": noLimits, "pids-limit": noLimits,
	"ulimit": noLimits, "shm-size": noLimits, "oom-kill-disable": noLimits, "oom-score-adj": noLimits, "blkio-weight": noLimits,
	"log-driver": noLog, "log-opt": noLog,
	"link-local-ip":  "weft gives out the addresses of its pools only",
	"domainname":     "put the domain into --hostname and --dns-search",
	"attach":         "in the foreground all of stdin, stdout and stderr are attached; with -d none is",
	"health-cmd":     "weft has no health checks of processes",
	"no-healthcheck": "weft has no health checks of processes",
}

// request makes of the flags what the agent is asked for.
func (r *runFlags) request(command []string, lookup func(string) (string, bool)) (*weftv1.CreateSandboxRequest, error) {
	env, err := r.env.resolve(lookup)
	if err != nil {
		return nil, err
	}
	out := &weftv1.CreateSandboxRequest{
		Name: r.name, Command: command, Env: env, Hostname: r.hostname, User: r.user, Workdir: r.workdir,
		Tty: r.tty, Stdin: r.stdin, AutoRemove: r.remove, Detached: r.detach, Once: true,
		Dns: r.dns, DnsSearch: r.dnsSearch, DnsOptions: r.dnsOptions, Labels: r.labels,
	}
	if err := r.ports.into(out); err != nil {
		return nil, err
	}
	if err := r.life.into(out); err != nil {
		return nil, err
	}
	if out.ExtraHosts, err = extraHosts(r.hosts); err != nil {
		return nil, err
	}
	if len(r.networks) == 1 && (r.networks[0] == "host" || r.networks[0] == "none") {
		out.NetworkMode = r.networks[0]
		if r.ip != "" || r.ip6 != "" || r.mac != "" || len(r.aliases) > 0 || len(r.links) > 0 {
			return nil, fmt.Errorf("--ip, --ip6, --mac-address, --network-alias and --link need a network of weft; with --network %s there is none", out.NetworkMode)
		}
		return out, nil
	}
	out.Attachments, err = r.attachments()
	return out, err
}

// extraHosts reads NAME:IP or NAME=IP, with docker's words on what is wrong with it. An IPv6 address may stand in brackets.
func extraHosts(in []string) ([]string, error) {
	var out []string
	for _, h := range in {
		at := strings.IndexAny(h, ":=")
		if at <= 0 || at == len(h)-1 {
			return nil, fmt.Errorf("bad format for add-host: %q (write NAME:IP)", h)
		}
		ip := strings.TrimSuffix(strings.TrimPrefix(h[at+1:], "["), "]")
		if _, err := netip.ParseAddr(ip); err != nil {
			return nil, fmt.Errorf("invalid IP address in add-host: %q", h[at+1:])
		}
		out = append(out, h[:at]+":"+ip)
	}
	return out, nil
}

// attachments are the networks in order. The options without a network belong to the first, and where none is given to the default
// network. Which network that is without any option, the agent decides.
func (r *runFlags) attachments() ([]*weftv1.Attachment, error) {
	first := &weftv1.Attachment{Network: defaultNetwork}
	out := []*weftv1.Attachment{first}
	for i, n := range r.networks {
		a, err := parseNetwork(n)
		if err != nil {
			return nil, err
		}
		if a.Network == "host" || a.Network == "none" {
			return nil, fmt.Errorf("--network %s cannot be combined with other networks or options", a.Network)
		}
		if i == 0 {
			first, out = a, []*weftv1.Attachment{a}
		} else {
			out = append(out, a)
		}
	}
	for _, o := range []struct {
		flag, key, value string
		to               *string
	}{{"--ip", "ip", r.ip, &first.Ip}, {"--ip6", "ip6", r.ip6, &first.Ip6}, {"--mac-address", "mac-address", r.mac, &first.MacAddress}} {
		switch {
		case o.value == "":
		case *o.to != "":
			return nil, fmt.Errorf("conflicting options: cannot specify both %s and --network %s=", o.flag, o.key)
		default:
			*o.to = o.value
		}
	}
	if err := errors.Join(addAliases(first, r.aliases), addLinks(first, r.links)); err != nil {
		return nil, err
	}
	if len(r.networks) == 0 && proto.Equal(first, &weftv1.Attachment{Network: defaultNetwork}) {
		return nil, nil
	}
	return out, nil
}

// defaultNetwork is the one of a sandbox that names none.
const defaultNetwork = "bridge"

// networkKeys are the keys of --network's long form.
var networkKeys = []string{"name", "alias", "mode", "ip", "ip6", "mac-address", "link", "driver-opt", "gw-priority"}

// parseNetwork reads NAME or docker's name=NAME,alias=A,ip=IP,…
func parseNetwork(s string) (*weftv1.Attachment, error) {
	if !strings.Contains(s, "=") {
		if s == "" {
			return nil, fmt.Errorf("invalid value for --network: the name is empty")
		}
		return &weftv1.Attachment{Network: s}, nil
	}
	a := &weftv1.Attachment{}
	for field := range strings.SplitSeq(s, ",") {
		k, v, ok := strings.Cut(strings.TrimSpace(field), "=")
		if k = strings.ToLower(k); !ok || v == "" || !slices.Contains(networkKeys, k) {
			return nil, fmt.Errorf("invalid field %q in --network %s: it takes KEY=VALUE with the keys %s", field, s, strings.Join(networkKeys, ", "))
		}
		if err := setNetworkField(a, k, v); err != nil {
			return nil, err
		}
	}
	if a.Network == "" {
		return nil, fmt.Errorf("invalid value for --network: %s has no name=", s)
	}
	return a, nil
}

func setNetworkField(a *weftv1.Attachment, k, v string) error {
	switch k {
	case "name":
		a.Network = v
	case "alias":
		return addAlias(a, v)
	case "mode":
		return setAliasMode(a, v)
	case "ip":
		a.Ip = v
	case "ip6":
		a.Ip6 = v
	case "mac-address":
		a.MacAddress = v
	case "link":
		return addLinks(a, []string{v})
	case "driver-opt":
		key, value, _ := strings.Cut(v, "=")
		if a.DriverOptions == nil {
			a.DriverOptions = map[string]string{}
		}
		a.DriverOptions[key] = value
	case "gw-priority":
		n, err := strconv.ParseInt(v, 10, 32)
		if err != nil {
			return fmt.Errorf("invalid gw-priority %q in --network: a whole number is needed", v)
		}
		a.GwPriority = int32(n)
	}
	return nil
}
