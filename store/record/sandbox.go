package record

import (
	"net/netip"
	"time"
)

// Sandbox is what a host knows of one sandbox of its own: what was asked for and what came of it. It is kept in the host's journal
// and never in the cluster's store; other hosts know a sandbox by its endpoints only.
type Sandbox struct {
	ID          SandboxID         `json:"id"`
	Name        string            `json:"name"`
	Created     time.Time         `json:"created"`
	Command     []string          `json:"command"`
	Env         []string          `json:"env,omitempty"`
	Hostname    string            `json:"hostname"`
	User        string            `json:"user,omitempty"`
	Workdir     string            `json:"workdir,omitempty"`
	TTY         bool              `json:"tty,omitempty"`
	Stdin       bool              `json:"stdin,omitempty"`
	Detached    bool              `json:"detached,omitempty"`
	AutoRemove  bool              `json:"auto_remove,omitempty"`
	NetworkMode string            `json:"network_mode,omitempty"` // "host", "none" or "": Attachments say where
	DNS         []netip.Addr      `json:"dns,omitempty"`
	DNSSearch   []string          `json:"dns_search,omitempty"`
	DNSOptions  []string          `json:"dns_options,omitempty"`
	ExtraHosts  []string          `json:"extra_hosts,omitempty"` // NAME:IP
	Labels      map[string]string `json:"labels,omitempty"`
	Attachments []Attachment      `json:"attachments,omitempty"`
	Ports       []PortSpec        `json:"ports,omitempty"`       // asked for
	Expose      []PortSpec        `json:"expose,omitempty"`      // its container ports only
	PublishAll  bool              `json:"publish_all,omitempty"` // every exposed port gets a host port
	Published   []PortBinding     `json:"published,omitempty"`   // what Ports came to, while it is up
	Restart     RestartPolicy     `json:"restart,omitzero"`
	Restarts    int               `json:"restarts,omitempty"`     // by the policy, since the last start by a user
	Stopped     bool              `json:"stopped,omitempty"`      // a user ended it: the policy leaves it down until a user starts it
	Again       bool              `json:"again,omitempty"`        // a user's restart is under way: it is started when its process has ended, whatever its policy
	Removing    bool              `json:"removing,omitempty"`     // a user's removal is under way: it goes when its process has ended
	Once        bool              `json:"once,omitempty"`         // made to be started right away: where that fails, or is cut short, nothing of it is left
	StopSignal  int               `json:"stop_signal,omitempty"`  // 0: SIGTERM
	StopTimeout *time.Duration    `json:"stop_timeout,omitempty"` // before SIGKILL; nil: 10 s; negative: without end
	External    string            `json:"external,omitempty"`     // netns:PATH, pid:N or docker:ID: a namespace that others made; weft runs nothing in it
	Status      SandboxStatus     `json:"status"`
	Up          bool              `json:"up,omitempty"` // its network namespace exists: its endpoints answer
	Started     time.Time         `json:"started,omitzero"`
	Finished    time.Time         `json:"finished,omitzero"`
	ExitCode    int               `json:"exit_code,omitempty"`
	Error       string            `json:"error,omitempty"` // why it could not be run
	PID         int               `json:"-"`               // while it runs
	extra       extra
}

// SandboxStatus is where a sandbox is in its life.
type SandboxStatus string

// A sandbox has been created and not yet started, runs, has ended and is to be started again by its policy (it keeps its names and
// addresses meanwhile), or has ended.
const (
	SandboxCreated    SandboxStatus = "created"
	SandboxRunning    SandboxStatus = "running"
	SandboxRestarting SandboxStatus = "restarting"
	SandboxExited     SandboxStatus = "exited"
)

// Attachment is one network of a sandbox: what the user asked for, and the endpoint that was made of it.
type Attachment struct {
	Network    NetworkID         `json:"network"`
	IP         netip.Addr        `json:"ip,omitzero"`  // asked for
	IP6        netip.Addr        `json:"ip6,omitzero"` // asked for
	Aliases    []string          `json:"aliases,omitempty"`
	VIPAliases []string          `json:"vip_aliases,omitempty"` // of Aliases, those with a virtual address
	Links      []Link            `json:"links,omitempty"`
	MAC        MAC               `json:"mac,omitempty"` // asked for
	DriverOpts map[string]string `json:"driver_opts,omitempty"`
	GwPriority int               `json:"gw_priority,omitempty"`
	NoGateway  bool              `json:"no_gateway,omitempty"` // an internal network has no way out
	Endpoint   EndpointID        `json:"endpoint"`
	Intent     bool              `json:"intent,omitempty"`   // the endpoint may not be in the store yet: a crash now undoes the attachment
	IfName     string            `json:"if_name"`            // eth0, eth1, … as long as the attachment lasts
	Addrs      []netip.Addr      `json:"addrs,omitempty"`    // the last ones it had: a start asks for them again
	Isolated   string            `json:"isolated,omitempty"` // why it has no endpoint though its sandbox is up: others have what was its own; "": it has
}

// Attachment returns the sandbox's attachment to a network.
func (s *Sandbox) Attachment(id NetworkID) (Attachment, bool) {
	for _, a := range s.Attachments {
		if a.Network == id {
			return a, true
		}
	}
	return Attachment{}, false
}

// PortSpec is one published or exposed range of ports, as asked for. Ranges are inclusive; of one port, both ends are the same.
type PortSpec struct {
	Proto     string     `json:"proto"`                // tcp or udp
	HostAddr  netip.Addr `json:"host_addr,omitzero"`   // zero: the network's default, which is all
	HostFirst uint16     `json:"host_first,omitempty"` // 0: one that is free
	HostLast  uint16     `json:"host_last,omitempty"`
	First     uint16     `json:"first"` // in the sandbox
	Last      uint16     `json:"last"`
}

// PortBinding is one published port: what reaches HostAddr:HostPort goes to Port in the sandbox.
type PortBinding struct {
	Proto    string     `json:"proto"`
	HostAddr netip.Addr `json:"host_addr"` // unspecified (0.0.0.0 or ::) for all addresses of the family
	HostPort uint16     `json:"host_port"`
	Port     uint16     `json:"port"`
}

// RestartPolicy says when a sandbox whose process has ended is started again: never ("" or "no"), "on-failure" at most Max times (0: without
// end), "always", or "unless-stopped".
type RestartPolicy struct {
	Name string `json:"name,omitempty"`
	Max  int    `json:"max,omitempty"`
}
