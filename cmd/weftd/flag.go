package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"weft/agent"
	"weft/agent/about"
	"weft/ipam"
	"weft/store/record"
)

// flags are the command line as it was given.
type flags struct {
	config    string
	store     string
	storeOpts []string
	advertise string
	stateDir  string
	runDir    string
	host      string
	dataAddr  string
	vxlanPort uint16
	embedded  string
	addrPools []string
	logLevel  string
	pluginDir string
	hostname  string
	grace     time.Duration
	join      string
	token     string
	peerCA    string
	peerCert  string
	peerKey   string
	refuse    bool
}

func command(run func(context.Context, agent.Config) error) *cobra.Command {
	var f flags
	cmd := &cobra.Command{
		Use:   "weftd [OPTIONS]",
		Short: "The agent of one host of a weft cluster",
		Long: `weftd is the agent of one host. Without any option it keeps the cluster's records in an etcd of its own, and works.

Every option is also a key of ` + defaultConfig + ` (without the dashes in front) and an environment variable
(--cluster-store is WEFT_CLUSTER_STORE). An option wins over a variable, a variable over the file.

` + storeHelp,
		Example: `  # the first host, whose embedded etcd serves the others
  weftd --cluster-advertise eth0 --embedded-listen 10.0.0.1:2379

  # every other host, at its first start; the token is made on the first by: weft cluster token
  weftd --cluster-advertise eth0 --join 10.0.0.1 --token @/root/token

  # a store of three servers, with TLS and a user
  weftd --cluster-advertise eth0 --cluster-store etcd://h1,h2,h3/weft \
      --cluster-store-opt kv.cacertfile=/etc/weft/ca.pem,kv.certfile=/etc/weft/cert.pem,kv.keyfile=/etc/weft/key.pem \
      --cluster-store-opt kv.user=weft,kv.passwordfile=/etc/weft/password`,
		Args:              noArgs,
		Version:           about.Version,
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := layer(cmd.Flags(), f.config, os.LookupEnv); err != nil {
				return err
			}
			cfg, err := f.agentConfig()
			if err != nil {
				return err
			}
			return run(cmd.Context(), cfg)
		},
	}
	f.register(cmd.Flags())
	return cmd
}

func noArgs(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("unknown argument %q: weftd takes options only; see weftd --help", args[0])
	}
	return nil
}

func (f *flags) register(fs *pflag.FlagSet) {
	fs.SortFlags = false
	fs.StringVar(&f.config, "config", defaultConfig, "file with options")
	fs.StringVar(&f.store, "cluster-store", "", "where the cluster's records are: etcd://, consul:// or zk://HOST[:PORT][,HOST[:PORT]…][/PREFIX], or embedded (default: what --join has told, else embedded)")
	fs.StringVar(&f.join, "join", "", "HOST[:PORT] of the host that has the cluster's authority: this one gets its certificate there; ignored once it has one")
	fs.StringVar(&f.token, "token", "", "TOKEN or @FILE, from weft cluster token on that host; also as WEFT_TOKEN, which other users do not see")
	fs.StringArrayVar(&f.storeOpts, "cluster-store-opt", nil, "KEY=VALUE[,KEY=VALUE…] for the store, see above; may be repeated")
	fs.StringVar(&f.advertise, "cluster-advertise", "", "INTERFACE[:PORT] or ADDRESS[:PORT] that the other hosts reach this one at (default: of the default route)")
	fs.StringVar(&f.dataAddr, "data-addr", "", "address or interface for the tunnels (default: the advertised address)")
	fs.StringVar(&f.stateDir, "state-dir", "/var/lib/weft", "what must outlive a reboot")
	fs.StringVar(&f.runDir, "run-dir", "/run/weft", "what lives as long as the host is up")
	fs.StringVarP(&f.host, "host", "H", "", "the admin socket (default: unix://RUN-DIR/weftd.sock)")
	fs.Uint16Var(&f.vxlanPort, "vxlan-port", 4789, "UDP port of the tunnels; the first host of a cluster fixes it for all")
	fs.StringVar(&f.embedded, "embedded-listen", "", "ADDRESS:PORT on which the embedded etcd also serves other hosts, those with a certificate of this cluster (default: on loopback only)")
	fs.StringVar(&f.peerCA, "peer-cacertfile", "", "PEM file of the CAs that the hosts' certificates are of, where they are not the cluster's own authority's")
	fs.StringVar(&f.peerCert, "peer-certfile", "", "PEM file of this host's certificate for the other hosts; with --peer-keyfile")
	fs.StringVar(&f.peerKey, "peer-keyfile", "", "PEM file of its key")
	fs.StringArrayVar(&f.addrPools, "default-addr-pool", nil, "base=CIDR,size=N: where automatic subnets come from; the first host of a cluster fixes it for all")
	fs.DurationVar(&f.grace, "stale-grace", 5*time.Minute, "how long a host must have been lost before a sandbox elsewhere gets the name that one of its endpoints has")
	fs.BoolVar(&f.refuse, "refuse-forwarded", false, "take no commands about this host's sandboxes from other hosts of the cluster")
	fs.StringVar(&f.hostname, "name", "", "this host's name in the cluster (default: its host name)")
	fs.StringVar(&f.pluginDir, "plugin-dir", "", "where IPAM plugins (NAME.sock, NAME.spec, NAME.json) are looked for before Docker's directories")
	fs.StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error")
}

func (f *flags) agentConfig() (agent.Config, error) {
	cfg := agent.Config{
		ClusterStore: f.store, Advertise: f.advertise, DataAddr: f.dataAddr, StateDir: f.stateDir, RunDir: f.runDir,
		VXLANPort: f.vxlanPort, EmbeddedListen: f.embedded, Join: f.join, Token: f.token, PeerCAFile: f.peerCA, PeerCertFile: f.peerCert, PeerKeyFile: f.peerKey,
		HostName: f.hostname, LogLevel: f.logLevel, StaleGrace: f.grace, PluginDir: f.pluginDir, RefuseForwarded: f.refuse,
	}
	var err error
	if cfg.StoreOpts, err = keyValues(f.storeOpts); err != nil {
		return cfg, err
	}
	for _, s := range f.addrPools {
		p, err := parseAddrPool(s)
		if err != nil {
			return cfg, err
		}
		cfg.AddrPools = append(cfg.AddrPools, p)
	}
	if f.host == "" {
		f.host = "unix://" + f.runDir + "/weftd.sock"
	}
	path, ok := strings.CutPrefix(f.host, "unix://")
	if !ok || !strings.HasPrefix(path, "/") {
		return cfg, fmt.Errorf("--host %s: only unix:///PATH is supported", f.host)
	}
	cfg.Socket = path
	return cfg, nil
}

// keyValues splits KEY=VALUE words; Docker also took several in one, separated by commas. What has no "=" is not shown: it may be what follows
// a comma in a password.
func keyValues(words []string) (map[string]string, error) {
	out := map[string]string{}
	for _, w := range words {
		for kv := range strings.SplitSeq(w, ",") {
			k, v, ok := strings.Cut(kv, "=")
			if !ok || k == "" {
				first, _, _ := strings.Cut(w, "=")
				return nil, fmt.Errorf("--cluster-store-opt %s…: it must be KEY=VALUE[,KEY=VALUE…]", first)
			}
			if _, twice := out[k]; twice {
				return nil, fmt.Errorf("--cluster-store-opt %s is given twice", k)
			}
			out[k] = v
		}
	}
	return out, nil
}

func parseAddrPool(s string) (record.AddrPool, error) {
	bad := func(why string) (record.AddrPool, error) {
		return record.AddrPool{}, fmt.Errorf("--default-addr-pool %s: %s; it must be base=CIDR,size=N", s, why)
	}
	var p record.AddrPool
	given := map[string]bool{}
	for kv := range strings.SplitSeq(s, ",") {
		k, v, _ := strings.Cut(kv, "=")
		if given[k] {
			return bad(k + " is given twice")
		}
		given[k] = true
		var err error
		switch k {
		case "base":
			if p.Base, err = netip.ParsePrefix(v); err != nil {
				return bad(fmt.Sprintf("%q is not a CIDR", v))
			}
		case "size":
			if p.Size, err = strconv.Atoi(v); err != nil {
				return bad(fmt.Sprintf("%q is not a number", v))
			}
		default:
			return bad(fmt.Sprintf("unknown key %q", k))
		}
	}
	switch {
	case !p.Base.IsValid():
		return bad("no base")
	case p.Base != p.Base.Masked():
		return bad(fmt.Sprintf("%s has host bits set, did you mean %s?", p.Base, p.Base.Masked()))
	case !p.Base.Addr().Is4():
		return bad("this version chooses IPv4 subnets only")
	case p.Size < p.Base.Bits() || p.Size > p.Base.Addr().BitLen()-2:
		return bad(fmt.Sprintf("size %d is not between %d and %d", p.Size, p.Base.Bits(), p.Base.Addr().BitLen()-2))
	}
	// What cannot be one network's subnet cannot hold those of many: the first host would fix it for all.
	if _, err := (ipam.Request{Subnets: []string{p.Base.String()}}).Parse(); err != nil {
		return bad(err.Error())
	}
	return p, nil
}
