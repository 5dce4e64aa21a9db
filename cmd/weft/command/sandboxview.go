package command

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/durationpb"

	"weft/cmd/weft/table"
	weftv1 "weft/proto/weft/v1"
)

// inspectedSandbox is what `inspect` shows of a sandbox, with docker's names.
type inspectedSandbox struct {
	ID              string `json:"Id"`
	Created         time.Time
	Path            string
	Args            []string
	State           stateView
	Name            string
	RestartCount    int32
	LogPath         string
	Host            string
	External        string `json:",omitempty"`
	HostConfig      hostConfigView
	Config          configView
	NetworkSettings settingsView
}

type stateView struct {
	Status     string
	Running    bool
	Restarting bool
	Pid        int32
	ExitCode   int32
	Error      string
	StartedAt  time.Time
	FinishedAt time.Time
}

type hostConfigView struct {
	NetworkMode     string
	RestartPolicy   restartPolicyView
	AutoRemove      bool
	DNS             []string `json:"Dns"`
	DNSOptions      []string `json:"DnsOptions"`
	DNSSearch       []string `json:"DnsSearch"`
	ExtraHosts      []string
	Links           []string
	PortBindings    portMap
	PublishAllPorts bool
}

type restartPolicyView struct {
	Name              string
	MaximumRetryCount int32
}

type configView struct {
	Hostname     string
	User         string
	Tty          bool
	OpenStdin    bool
	Env          []string
	Cmd          []string
	WorkingDir   string
	Labels       map[string]string
	StopSignal   string              `json:",omitempty"`
	StopTimeout  *int                `json:",omitempty"` // seconds
	ExposedPorts map[string]struct{} `json:",omitempty"`
}

type settingsView struct {
	SandboxID  string
	SandboxKey string
	Ports      portMap
	Networks   map[string]attachmentView
}

type ipamConfigView struct {
	IPv4Address string `json:",omitempty"`
	IPv6Address string `json:",omitempty"`
}

type attachmentView struct {
	IPAMConfig          *ipamConfigView
	Links               []string
	Aliases             []string
	VIPAliases          []string `json:",omitempty"`
	MacAddress          string
	DriverOpts          map[string]string
	GwPriority          int32
	NetworkID           string
	EndpointID          string
	Gateway             string
	IPAddress           string
	IPPrefixLen         int
	IPv6Gateway         string
	GlobalIPv6Address   string
	GlobalIPv6PrefixLen int
	DNSNames            []string
	Isolated            string `json:",omitempty"` // why it has no address here though the sandbox runs
}

func sandboxView(s *weftv1.Sandbox) inspectedSandbox {
	v := inspectedSandbox{
		ID: s.Id, Created: moment(s.Created), Args: []string{}, Name: s.Name, LogPath: s.LogPath, Host: s.Host,
		RestartCount: s.RestartCount, External: s.External,
		State: stateView{
			Status: s.Status, Running: s.Status == "running" || s.Status == "restarting", Restarting: s.Status == "restarting", Pid: s.Pid, ExitCode: s.GetExit().GetCode(), Error: s.GetExit().GetError(),
			StartedAt: moment(s.Started), FinishedAt: moment(s.Finished),
		},
		HostConfig: hostConfigView{
			NetworkMode: networkMode(s), RestartPolicy: restartPolicy(s), AutoRemove: s.AutoRemove, DNS: listed(s.Dns),
			DNSOptions: listed(s.DnsOptions), DNSSearch: listed(s.DnsSearch), ExtraHosts: listed(s.ExtraHosts), Links: staticLinks(s),
			PortBindings: askedPorts(s), PublishAllPorts: s.PublishAll,
		},
		Config: configView{
			Hostname: s.Hostname, User: s.User, Tty: s.Tty, Env: listed(s.Env), Cmd: listed(s.Command), WorkingDir: s.Workdir, Labels: filled(s.Labels),
			OpenStdin: s.Stdin, StopSignal: signalName(s.StopSignal), StopTimeout: seconds(s.StopTimeout), ExposedPorts: exposedPorts(s),
		},
		NetworkSettings: settingsView{
			SandboxID: s.Id, SandboxKey: s.NetnsPath, Ports: publishedPorts(s), Networks: map[string]attachmentView{},
		},
	}
	if len(s.Command) > 0 {
		v.Path, v.Args = s.Command[0], s.Command[1:]
	}
	for _, e := range s.Endpoints {
		v.NetworkSettings.Networks[settingsName(e)] = attachedView(s, e)
	}
	return v
}

func restartPolicy(s *weftv1.Sandbox) restartPolicyView {
	p := s.GetRestart()
	return restartPolicyView{Name: cmp.Or(p.GetName(), "no"), MaximumRetryCount: p.GetMax()}
}

// staticLinks are the links in the default network, in docker's form; those of other networks are shown with them. As docker, nil where there
// are none.
func staticLinks(s *weftv1.Sandbox) []string {
	var out []string
	for _, e := range s.Endpoints {
		if settingsName(e) != defaultNetwork {
			continue
		}
		for _, l := range e.GetRequested().GetLinks() {
			out = append(out, "/"+l.Target+":/"+s.Name+"/"+l.Alias)
		}
	}
	return out
}

func signalName(n int32) string {
	if n == 0 {
		return ""
	}
	return cmp.Or(unix.SignalName(syscall.Signal(n)), strconv.Itoa(int(n)))
}

func seconds(d *durationpb.Duration) *int {
	if d == nil {
		return nil
	}
	n := int(d.AsDuration() / time.Second)
	return &n
}

// settingsName is the network's name; where the agent does not know it (the store is away), what was asked for.
func settingsName(e *weftv1.EndpointSettings) string {
	if n := e.GetEndpoint().GetNetworkName(); n != "" {
		return n
	}
	return e.GetRequested().GetNetwork()
}

// networkMode is docker's: "host", "none", or the first network.
func networkMode(s *weftv1.Sandbox) string {
	if s.NetworkMode != "" || len(s.Endpoints) == 0 {
		return s.NetworkMode
	}
	return settingsName(s.Endpoints[0])
}

func attachedView(s *weftv1.Sandbox, e *weftv1.EndpointSettings) attachmentView {
	asked, ep := e.GetRequested(), e.GetEndpoint()
	v := attachmentView{
		Aliases: asked.GetAliases(), VIPAliases: asked.GetVipAliases(), MacAddress: ep.GetMacAddress(), DriverOpts: asked.GetDriverOptions(), GwPriority: asked.GetGwPriority(),
		NetworkID: ep.GetNetworkId(), EndpointID: ep.GetId(), Isolated: e.GetIsolated(),
	}
	if asked.GetIp() != "" || asked.GetIp6() != "" {
		v.IPAMConfig = &ipamConfigView{IPv4Address: asked.GetIp(), IPv6Address: asked.GetIp6()}
	}
	for _, l := range asked.GetLinks() {
		v.Links = append(v.Links, l.Target+":"+l.Alias)
	}
	v4, v6 := families(ep.GetAddresses())
	v.IPAddress, v.IPPrefixLen = splitPrefix(v4)
	v.GlobalIPv6Address, v.GlobalIPv6PrefixLen = splitPrefix(v6)
	v.Gateway, v.IPv6Gateway = cmp.Or(e.GetGateway(), ep.GetGateway()), ep.GetGateway6()
	for _, n := range append([]string{s.Name}, append(slices.Clone(asked.GetAliases()), table.ShortID(s.Id), s.Hostname)...) {
		if n != "" && !slices.Contains(v.DNSNames, n) {
			v.DNSNames = append(v.DNSNames, n)
		}
	}
	return v
}

func splitPrefix(s string) (addr string, bits int) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return "", 0
	}
	return p.Addr().String(), p.Bits()
}

// listed is s, and where that is nil an empty list: docker's JSON has [] there.
func listed(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}
