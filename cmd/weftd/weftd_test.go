package main

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"weft/agent"
	"weft/store/open"
	"weft/store/record"
)

const mainEnv = "WEFT_TEST_MAIN"

// TestMain is also the program itself, for the tests that run it.
func TestMain(m *testing.M) {
	if os.Getenv(mainEnv) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// weftd runs the program up to where the agent would begin.
func weftd(t *testing.T, args ...string) (cfg agent.Config, out string, err error) {
	t.Helper()
	ran := false
	cmd := command(func(_ context.Context, c agent.Config) error {
		cfg, ran = c, true
		return nil
	})
	var b bytes.Buffer
	cmd.SetOut(&b)
	cmd.SetErr(&b)
	cmd.SetArgs(args)
	err = cmd.ExecuteContext(t.Context())
	if err != nil && ran {
		t.Errorf("the agent was started, and %v", err)
	}
	return cfg, b.String(), err
}

func file(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "weftd.yaml")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestWithoutOptionsTheAgentWorks(t *testing.T) {
	got, _, err := weftd(t, "--config", file(t, ""))
	want := agent.Config{
		StateDir: "/var/lib/weft", RunDir: "/run/weft", Socket: "/run/weft/weftd.sock", VXLANPort: 4789, LogLevel: "info",
		StoreOpts: map[string]string{}, StaleGrace: 5 * time.Minute,
	}
	if d := cmp.Diff(want, got); d != "" || err != nil {
		t.Error(d, err)
	}
}

func TestEveryOptionReachesTheAgent(t *testing.T) {
	got, _, err := weftd(t, "--config", file(t, ""), "--cluster-store=etcd://h:2379/p", "--cluster-store-opt=kv.user=u,kv.passwordfile=/pw", "--cluster-store-opt", "discovery.ttl=20",
		"--cluster-advertise=eth0:2376", "--data-addr=192.0.2.1", "--state-dir=/s", "--run-dir=/r", "-H", "unix:///x/sock", "--vxlan-port=8472",
		"--embedded-listen=192.0.2.1:2379", "--join=h1:2377", "--token=@/t", "--peer-cacertfile=/ca", "--peer-certfile=/cert", "--peer-keyfile=/key", "--default-addr-pool=base=10.9.0.0/16,size=24", "--default-addr-pool=size=26,base=172.30.0.0/16", "--name=alpha", "--log-level=debug", "--stale-grace=90s",
		"--refuse-forwarded")
	want := agent.Config{
		ClusterStore: "etcd://h:2379/p", StoreOpts: map[string]string{"kv.user": "u", "kv.passwordfile": "/pw", "discovery.ttl": "20"}, Advertise: "eth0:2376", DataAddr: "192.0.2.1",
		StateDir: "/s", RunDir: "/r", Socket: "/x/sock", VXLANPort: 8472, EmbeddedListen: "192.0.2.1:2379", Join: "h1:2377", Token: "@/t",
		PeerCAFile: "/ca", PeerCertFile: "/cert", PeerKeyFile: "/key", HostName: "alpha", LogLevel: "debug",
		AddrPools:  []record.AddrPool{{Base: netip.MustParsePrefix("10.9.0.0/16"), Size: 24}, {Base: netip.MustParsePrefix("172.30.0.0/16"), Size: 26}},
		StaleGrace: 90 * time.Second, RefuseForwarded: true,
	}
	if d := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Prefix{})); d != "" || err != nil {
		t.Error(d, err)
	}
}

// An option wins over a variable, a variable over the file.
func TestLayers(t *testing.T) {
	for name, tc := range map[string]struct {
		file string
		env  map[string]string
		args []string
		want string // the host's name, and the number of store options
		opts int
	}{
		"nothing":                  {"", nil, nil, "", 0},
		"file":                     {"name: from-file", nil, nil, "from-file", 0},
		"variable over file":       {"name: from-file", map[string]string{"WEFT_NAME": "from-env"}, nil, "from-env", 0},
		"option over both":         {"name: from-file", map[string]string{"WEFT_NAME": "from-env"}, []string{"--name", "from-flag"}, "from-flag", 0},
		"option over file":         {"name: from-file", nil, []string{"--name=from-flag"}, "from-flag", 0},
		"empty option wins":        {"name: from-file", nil, []string{"--name="}, "", 0},
		"empty variable wins":      {"name: from-file", map[string]string{"WEFT_NAME": ""}, nil, "", 0},
		"a number is as written":   {"name: 10000000", nil, nil, "10000000", 0},
		"a quoted one, too":        {`name: "007"`, nil, nil, "007", 0},
		"a list":                   {"cluster-store-opt: [kv.user=a, kv.path=b]", nil, nil, "", 2},
		"one value for a list":     {"cluster-store-opt: kv.user=a", nil, nil, "", 1},
		"a list replaced":          {"cluster-store-opt: [kv.user=a, kv.path=b]", nil, []string{"--cluster-store-opt=kv.user=c"}, "", 1},
		"several in one variable":  {"", map[string]string{"WEFT_CLUSTER_STORE_OPT": "kv.user=a,kv.path=b,discovery.ttl=9"}, nil, "", 3},
		"an empty WEFT_CONFIG":     {"name: from-file", map[string]string{"WEFT_CONFIG": ""}, nil, "from-file", 0},
		"foreign variables":        {"", map[string]string{"WEFT_SOMETHING": "x"}, nil, "", 0},
		"no help from a variable":  {"", map[string]string{"WEFT_HELP": "true", "WEFT_VERSION": "true"}, nil, "", 0},
		"comments and blank lines": {"# a file\n\nname: from-file # yes\n", nil, nil, "from-file", 0},
	} {
		t.Run(name, func(t *testing.T) {
			for k, v := range tc.env {
				t.Setenv(k, v)
			}
			got, _, err := weftd(t, append([]string{"--config", file(t, tc.file)}, tc.args...)...)
			if err != nil || got.HostName != tc.want || len(got.StoreOpts) != tc.opts {
				t.Errorf("name %q, options %v, %v", got.HostName, got.StoreOpts, err)
			}
		})
	}
}

func TestTheFileIsFoundByVariable(t *testing.T) {
	t.Setenv("WEFT_CONFIG", file(t, "name: by-env"))
	if got, _, err := weftd(t); err != nil || got.HostName != "by-env" {
		t.Errorf("%q, %v", got.HostName, err)
	}
	if got, _, err := weftd(t, "--config", file(t, "name: by-flag")); err != nil || got.HostName != "by-flag" {
		t.Errorf("the option wins: %q, %v", got.HostName, err)
	}
	if _, _, err := weftd(t, "--config", "/nowhere/weftd.yaml"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that was named and is not there: %v", err)
	}
}

// The whole message, with FILE for the file's path.
func TestBadValuesAreNamed(t *testing.T) {
	for name, tc := range map[string]struct {
		file string
		env  string // NAME=VALUE
		args []string
		want string
	}{
		"unknown option":       {args: []string{"--bogus"}, want: "unknown flag: --bogus"},
		"unknown short option": {args: []string{"-x"}, want: "unknown shorthand flag: 'x' in -x"},
		"argument":             {args: []string{"start"}, want: `unknown argument "start": weftd takes options only; see weftd --help`},
		"no value":             {args: []string{"--name"}, want: "flag needs an argument: --name"},
		"port":                 {args: []string{"--vxlan-port=70000"}, want: `invalid argument "70000" for "--vxlan-port" flag: strconv.ParseUint: parsing "70000": value out of range`},
		"port by variable":     {env: "WEFT_VXLAN_PORT=x", want: `WEFT_VXLAN_PORT: invalid argument "x" for "--vxlan-port" flag: strconv.ParseUint: parsing "x": invalid syntax`},
		"port by file":         {file: "vxlan-port: -1", want: `FILE: vxlan-port: invalid argument "-1" for "--vxlan-port" flag: strconv.ParseUint: parsing "-1": invalid syntax`},
		"unknown key":          {file: "cluster-stor: x", want: `FILE: unknown key "cluster-stor": keys are weftd's options without the dashes; see weftd --help`},
		"key with dashes":      {file: "--name: x", want: `FILE: unknown key "--name": keys are weftd's options without the dashes; see weftd --help`},
		"help as a key":        {file: "help: true", want: `FILE: unknown key "help": keys are weftd's options without the dashes; see weftd --help`},
		"config as a key":      {file: "config: x", want: `FILE: unknown key "config": keys are weftd's options without the dashes; see weftd --help`},
		"key without value":    {file: "name:", want: `FILE: key "name" has no value: leave it out, or give it one`},
		"list for one":         {file: "name: [a, b]", want: `FILE: key "name" has 2 values, and takes one`},
		"map for one":          {file: "name: {a: b}", want: `FILE: key "name": a value or a list of values is expected`},
		"map in a list":        {file: "cluster-store-opt: [{kv.user: b}]", want: `FILE: key "cluster-store-opt": a value or a list of values is expected`},
		"no map":               {file: "- a", want: "FILE: a map of keys and values is expected"},
		"key twice":            {file: "name: a\nname: b", want: "FILE: yaml: unmarshal errors:\n  line 2: key \"name\" already set in map"},
		"store option":         {args: []string{"--cluster-store-opt=kv.user"}, want: "--cluster-store-opt kv.user…: it must be KEY=VALUE[,KEY=VALUE…]"},
		"store option twice":   {args: []string{"--cluster-store-opt=kv.user=a,kv.user=b"}, want: "--cluster-store-opt kv.user is given twice"},
		"socket":               {args: []string{"-H", "tcp://127.0.0.1:1"}, want: "--host tcp://127.0.0.1:1: only unix:///PATH is supported"},
		"relative socket":      {args: []string{"-H", "unix://sock"}, want: "--host unix://sock: only unix:///PATH is supported"},
		"pool without base":    pool("size=24", "no base"),
		"pool without size":    pool("base=10.0.0.0/8", "size 0 is not between 8 and 30"),
		"pool of what":         pool("10.0.0.0/8", `unknown key "10.0.0.0/8"`),
		"pool's base":          pool("base=10.0.0.0,size=24", `"10.0.0.0" is not a CIDR`),
		"pool's host bits":     pool("base=10.0.0.1/8,size=24", "10.0.0.1/8 has host bits set, did you mean 10.0.0.0/8?"),
		"pool's size":          pool("base=10.0.0.0/8,size=x", `"x" is not a number`),
		"pool's size, small":   pool("base=10.0.0.0/16,size=8", "size 8 is not between 16 and 30"),
		"pool's size, large":   pool("base=10.0.0.0/16,size=31", "size 31 is not between 16 and 30"),
		"pool's base twice":    pool("base=10.0.0.0/16,base=10.1.0.0/16,size=24", "base is given twice"),
		"pool in IPv6":         pool("base=fd00::/48,size=64", "this version chooses IPv4 subnets only"),
		"pool of everything":   pool("base=0.0.0.0/0,size=24", "invalid subnet 0.0.0.0/0: the largest is a /8"),
		"pool of loopback":     pool("base=127.0.0.0/8,size=24", "invalid subnet 127.0.0.0/8: 127.0.0.0/8 is loopback"),
	} {
		t.Run(name, func(t *testing.T) {
			if k, v, ok := strings.Cut(tc.env, "="); ok {
				t.Setenv(k, v)
			}
			path := file(t, tc.file)
			_, _, err := weftd(t, append([]string{"--config", path}, tc.args...)...)
			if err == nil {
				t.Fatalf("accepted; want %q", tc.want)
			}
			if got := strings.ReplaceAll(err.Error(), path, "FILE"); got != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
}

func pool(s, why string) (tc struct {
	file string
	env  string
	args []string
	want string
}) {
	tc.args, tc.want = []string{"--default-addr-pool=" + s}, "--default-addr-pool "+s+": "+why+"; it must be base=CIDR,size=N"
	return tc
}

func TestAllThatIsWrongIsSaidAtOnce(t *testing.T) {
	t.Setenv("WEFT_VXLAN_PORT", "x")
	t.Setenv("WEFT_DEFAULT_ADDR_POOL", "base=10.0.0.0/8,size=24") // right
	_, _, err := weftd(t, "--config", file(t, "log-level: info"))
	if err == nil || !strings.Contains(err.Error(), "WEFT_VXLAN_PORT") {
		t.Error(err)
	}
}

func TestHelpHasAnExampleAndEveryOption(t *testing.T) {
	_, out, err := weftd(t, "--help")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range append(open.Names(),
		"Examples:", "weftd --cluster-advertise eth0 --join 10.0.0.1 --token @/root/token", "/etc/weft/weftd.yaml", "WEFT_CLUSTER_STORE", "--cluster-store-opt",
		"--cluster-advertise", "--data-addr", "--state-dir", "--run-dir", "--host", "--vxlan-port", "--embedded-listen", "--join", "--token", "--peer-cacertfile", "--default-addr-pool", "--name", "--log-level", "--version", "etcd://", "consul://", "zk://",
	) {
		if !strings.Contains(out, want) {
			t.Errorf("the help has no %q", want)
		}
	}
}

// The manual has what the program has.
func TestTheManualHasEveryOption(t *testing.T) {
	text, err := os.ReadFile("../../docs/operating.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range open.Names() {
		if !strings.Contains(string(text), "`"+name+"`") {
			t.Errorf("the manual has no %s", name)
		}
	}
}

func TestVersion(t *testing.T) {
	if _, out, err := weftd(t, "--version"); err != nil || !strings.HasPrefix(out, "weftd version ") || strings.TrimSpace(out) == "weftd version" {
		t.Errorf("%q, %v", out, err)
	}
}

// What can never work ends the program at once, with one line on stderr, before anything was touched. And no error shows a secret.
func TestTheProgramSaysWhatIsWrongAndEnds(t *testing.T) {
	secret := "hunter2"
	dir := t.TempDir()
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"scheme":                {[]string{"--cluster-store=redis://x:" + secret + "@h"}, "unknown cluster store scheme"},
		"password in the URL":   {[]string{"--cluster-store=etcd://u:" + secret + "@h:2379"}, "must not hold a password"},
		"no URL":                {[]string{"--cluster-store=u:" + secret + "@h"}, "is no URL"},
		"password option":       {[]string{"--cluster-store=etcd://h:1", "--cluster-store-opt=kv.password=" + secret}, "unknown --cluster-store-opt kv.password"},
		"password and comma":    {[]string{"--cluster-store=etcd://h:1", "--cluster-store-opt=kv.password=a," + secret}, "--cluster-store-opt kv.password…"},
		"password twice":        {[]string{"--cluster-store-opt=kv.password=a,kv.password=" + secret}, "kv.password is given twice"},
		"log level":             {[]string{"--log-level=loud"}, "--log-level loud"},
		"user and token":        {[]string{"--cluster-store=consul://h", "--cluster-store-opt=kv.user=x"}, "Consul has no users"},
		"token in the URL":      {[]string{"--cluster-store=consul://" + secret + "@h"}, "kv.tokenfile"},
		"half of TLS":           {[]string{"--cluster-store=zk://h", "--cluster-store-opt=kv.keyfile=/x"}, "go together"},
		"port 0":                {[]string{"--vxlan-port=0"}, "--vxlan-port 0"},
		"listen without etcd":   {[]string{"--cluster-store=etcd://h:1", "--embedded-listen=192.0.2.1:1"}, "--embedded-listen is for --cluster-store=embedded only"},
		"join without token":    {[]string{"--join=192.0.2.1"}, "--join and --token go together"},
		"token without join":    {[]string{"--token=" + secret}, "--join and --token go together"},
		"join where":            {[]string{"--join=192.0.2.1:x", "--token=" + secret}, "--join 192.0.2.1:x: it must be HOST[:PORT]"},
		"join a URL":            {[]string{"--join=https://h1", "--token=" + secret}, "--join https://h1: it must be HOST[:PORT]"},
		"join port 0":           {[]string{"--join=h1:0", "--token=" + secret}, "--join h1:0: it must be HOST[:PORT]"},
		"join and serve":        {[]string{"--join=h1", "--token=" + secret, "--embedded-listen=192.0.2.1:2379"}, "give one of them"},
		"join and certificates": {[]string{"--join=h1", "--token=" + secret, "--peer-cacertfile=/a", "--peer-certfile=/c", "--peer-keyfile=/k"}, "give one of them"},
		"certificate, no key":   {[]string{"--peer-cacertfile=/a", "--peer-certfile=/c"}, "--peer-cacertfile, --peer-certfile and --peer-keyfile go together"},
		"authorities alone":     {[]string{"--peer-cacertfile=/a"}, "--peer-cacertfile, --peer-certfile and --peer-keyfile go together"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			state := filepath.Join(dir, "state")
			args := append([]string{"--config", file(t, ""), "--state-dir", state, "--run-dir", filepath.Join(dir, "run")}, tc.args...)
			cmd := exec.CommandContext(ctx, os.Args[0], args...)
			cmd.Env = append(os.Environ(), mainEnv+"=1")
			var out, errs bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &errs
			var exit *exec.ExitError
			if err := cmd.Run(); !errors.As(err, &exit) || exit.ExitCode() != 1 {
				t.Errorf("ended with %v, want exit code 1", err)
			}
			line := errs.String()
			if !strings.HasPrefix(line, "weftd: ") || !strings.Contains(line, tc.want) || out.Len() > 0 {
				t.Errorf("it said %q on stderr and %q on stdout, want %q", line, out.String(), tc.want)
			}
			if strings.Contains(line, secret) {
				t.Errorf("it shows the secret: %s", line)
			}
			if _, err := os.Stat(state); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the state directory was touched: %v", err)
			}
		})
	}
}

func FuzzAddrPool(f *testing.F) {
	f.Add("base=10.0.0.0/8,size=24")
	f.Add("size=30,base=192.168.0.0/30")
	f.Add("base=::/0,size=0,")
	f.Fuzz(func(t *testing.T, s string) {
		p, err := parseAddrPool(s)
		if err == nil && (!p.Base.Addr().Is4() || p.Base != p.Base.Masked() || p.Size < p.Base.Bits() || p.Size > 30) {
			t.Errorf("%q became %+v", s, p)
		}
		if err != nil && !strings.Contains(err.Error(), "--default-addr-pool") {
			t.Errorf("%q: %v", s, err)
		}
	})
}

func FuzzKeyValues(f *testing.F) {
	f.Add("kv.user=a,kv.path=b", "discovery.ttl=9")
	f.Add("=", ",,")
	f.Fuzz(func(t *testing.T, a, b string) {
		got, err := keyValues([]string{a, b})
		if err != nil {
			return
		}
		if n := strings.Count(a+","+b, ",") + 1; len(got) != n {
			t.Errorf("%q and %q are %d pairs: %v", a, b, n, got)
		}
	})
}

func FuzzConfigFile(f *testing.F) {
	f.Add([]byte("name: a\ncluster-store-opt: [kv.user=a, 1, true]\n"))
	f.Add([]byte("a: {b: c}\n? [x]\n: y"))
	f.Add([]byte("a: &x [1]\nb: *x\nc: 0x10\nd: .inf"))
	f.Fuzz(func(t *testing.T, b []byte) {
		keys, err := parseConfig(b)
		if err != nil && keys != nil {
			t.Errorf("%v beside %v", keys, err)
		}
	})
}
