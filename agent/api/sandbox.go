package api

import (
	"context"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	weftv1 "weft/proto/weft/v1"
	"weft/store/record"
)

type sandboxes struct {
	weftv1.UnimplementedSandboxesServer
	b      SandboxBackend
	inputs sync.WaitGroup // readers of callers' input, for Serve to wait for
}

func (s *sandboxes) CreateSandbox(ctx context.Context, r *weftv1.CreateSandboxRequest) (*weftv1.CreateSandboxResponse, error) {
	sb := &record.Sandbox{
		Name: r.Name, Command: r.Command, Env: r.Env, Hostname: r.Hostname, User: r.User, Workdir: r.Workdir,
		TTY: r.Tty, Stdin: r.Stdin, Detached: r.Detached, AutoRemove: r.AutoRemove, Once: r.Once, NetworkMode: r.NetworkMode,
		DNSSearch: r.DnsSearch, DNSOptions: r.DnsOptions, ExtraHosts: r.ExtraHosts, Labels: r.Labels,
		Restart:    record.RestartPolicy{Name: r.GetRestart().GetName(), Max: int(r.GetRestart().GetMax())},
		StopSignal: int(r.StopSignal), StopTimeout: durationFrom(r.StopTimeout),
	}
	if err := setPorts(sb, r); err != nil {
		return nil, err
	}
	for _, d := range r.Dns {
		a, err := netip.ParseAddr(d)
		if err != nil {
			return nil, Refuse(Invalid, "%s is not an IP address (--dns)", d)
		}
		sb.DNS = append(sb.DNS, a)
	}
	as := make([]AttachmentRequest, 0, len(r.Attachments))
	for _, a := range r.Attachments {
		as = append(as, attachmentRequest(a))
	}
	made, err := s.b.CreateSandbox(ctx, sb, as)
	if err != nil {
		return nil, err
	}
	return &weftv1.CreateSandboxResponse{Id: string(made.ID), Name: made.Name}, nil
}

func (s *sandboxes) StartSandbox(ctx context.Context, r *weftv1.StartSandboxRequest) (*weftv1.StartSandboxResponse, error) {
	sb, err := s.b.StartSandbox(ctx, r.Ref)
	if err != nil {
		return nil, err
	}
	return &weftv1.StartSandboxResponse{Id: string(sb.ID), Name: sb.Name}, nil
}

func (s *sandboxes) StopSandbox(ctx context.Context, r *weftv1.StopSandboxRequest) (*weftv1.StopSandboxResponse, error) {
	sb, err := s.b.StopSandbox(ctx, r.Ref, stopping(r.Signal, r.Timeout))
	if err != nil {
		return nil, err
	}
	return &weftv1.StopSandboxResponse{Id: string(sb.ID), Name: sb.Name}, nil
}

func (s *sandboxes) RestartSandbox(ctx context.Context, r *weftv1.RestartSandboxRequest) (*weftv1.RestartSandboxResponse, error) {
	sb, err := s.b.RestartSandbox(ctx, r.Ref, stopping(r.Signal, r.Timeout))
	if err != nil {
		return nil, err
	}
	return &weftv1.RestartSandboxResponse{Id: string(sb.ID), Name: sb.Name}, nil
}

func stopping(sig int32, timeout *durationpb.Duration) Stopping {
	return Stopping{Signal: syscall.Signal(sig), Timeout: durationFrom(timeout)}
}

func durationFrom(d *durationpb.Duration) *time.Duration {
	if d == nil {
		return nil
	}
	v := d.AsDuration()
	return &v
}

func (s *sandboxes) RenameSandbox(ctx context.Context, r *weftv1.RenameSandboxRequest) (*weftv1.RenameSandboxResponse, error) {
	sb, err := s.b.RenameSandbox(ctx, r.Ref, r.Name)
	if err != nil {
		return nil, err
	}
	return &weftv1.RenameSandboxResponse{Id: string(sb.ID), Name: sb.Name}, nil
}

func (s *sandboxes) Logs(r *weftv1.LogsRequest, ss grpc.ServerStreamingServer[weftv1.LogsResponse]) error {
	q := LogsRequest{Ref: r.Ref, Follow: r.Follow, Tail: r.Tail}
	if r.Since != nil {
		q.Since = r.Since.AsTime()
	}
	if r.Until != nil {
		q.Until = r.Until.AsTime()
	}
	if err := ss.SendHeader(nil); err != nil { // tells a follower that it has an agent, also of a process that is silent
		return err
	}
	return s.b.Logs(ss.Context(), q, func(l LogLine) error {
		return ss.Send(&weftv1.LogsResponse{Data: l.Data, Stderr: l.Stderr, Time: timestamppb.New(l.Time)})
	})
}

func (s *sandboxes) SignalSandbox(ctx context.Context, r *weftv1.SignalSandboxRequest) (*weftv1.SignalSandboxResponse, error) {
	if err := s.b.SignalSandbox(ctx, r.Ref, syscall.Signal(r.Signal)); err != nil {
		return nil, err
	}
	return &weftv1.SignalSandboxResponse{}, nil
}

func (s *sandboxes) WaitSandbox(ctx context.Context, r *weftv1.WaitSandboxRequest) (*weftv1.WaitSandboxResponse, error) {
	e, err := s.b.WaitSandbox(ctx, r.Ref)
	if err != nil {
		return nil, err
	}
	return &weftv1.WaitSandboxResponse{Exit: exitProto(e)}, nil
}

func (s *sandboxes) RemoveSandbox(ctx context.Context, r *weftv1.RemoveSandboxRequest) (*weftv1.RemoveSandboxResponse, error) {
	sb, err := s.b.RemoveSandbox(ctx, r.Ref, r.Force)
	if err != nil {
		return nil, err
	}
	return &weftv1.RemoveSandboxResponse{Id: string(sb.ID), Name: sb.Name}, nil
}

func (s *sandboxes) ListSandboxes(ctx context.Context, r *weftv1.ListSandboxesRequest) (*weftv1.ListSandboxesResponse, error) {
	views, err := s.b.Sandboxes(ctx)
	if err != nil {
		return nil, err
	}
	match, err := sandboxFilter(r.Filters, views)
	if err != nil {
		return nil, err
	}
	all := r.All
	for _, f := range r.Filters {
		all = all || f.Key == "status" || f.Key == "exited" || f.Key == "before" || f.Key == "since" // as docker ps
	}
	out := &weftv1.ListSandboxesResponse{}
	for _, v := range views {
		up := v.Status == record.SandboxRunning || v.Status == record.SandboxRestarting
		if (all || up) && match(v) {
			out.Sandboxes = append(out.Sandboxes, sandboxProto(v))
		}
	}
	return out, nil
}

func (s *sandboxes) InspectSandbox(ctx context.Context, r *weftv1.InspectSandboxRequest) (*weftv1.InspectSandboxResponse, error) {
	v, err := s.b.Sandbox(ctx, r.Ref)
	if err != nil {
		return nil, err
	}
	return &weftv1.InspectSandboxResponse{Sandbox: sandboxProto(v)}, nil
}

func sandboxProto(v SandboxView) *weftv1.Sandbox {
	out := &weftv1.Sandbox{
		Id: string(v.ID), Name: v.Name, Created: timestamppb.New(v.Created), Started: timeProto(v.Started), Finished: timeProto(v.Finished),
		Status: string(v.Status), Pid: int32(v.PID), Exit: exitProto(Exit{Code: v.ExitCode, Error: v.Error}),
		Command: v.Command, Hostname: v.Hostname, Env: v.Env, User: v.User, Workdir: v.Workdir, Tty: v.TTY, AutoRemove: v.AutoRemove,
		NetworkMode: v.NetworkMode, Labels: v.Labels, NetnsPath: v.NetnsPath, LogPath: v.LogPath,
		DnsSearch: v.DNSSearch, DnsOptions: v.DNSOptions, ExtraHosts: v.ExtraHosts, External: v.External, Stdin: v.Stdin,
		RestartCount: int32(v.Restarts), StopSignal: int32(v.StopSignal),
	}
	if v.Restart.Name != "" {
		out.Restart = &weftv1.RestartPolicy{Name: v.Restart.Name, Max: int32(v.Restart.Max)}
	}
	if v.StopTimeout != nil {
		out.StopTimeout = durationpb.New(*v.StopTimeout)
	}
	if v.Host != nil {
		out.HostId, out.Host = string(v.Host.ID), v.Host.Name
	}
	showPorts(out, v.Sandbox)
	for _, a := range v.DNS {
		out.Dns = append(out.Dns, a.String())
	}
	for i, a := range v.Attachments {
		out.Endpoints = append(out.Endpoints, settingsProto(a, v.Networks[i], v.Endpoints[i]))
	}
	return out
}

func settingsProto(a record.Attachment, n *record.Network, e *EndpointView) *weftv1.EndpointSettings {
	out := &weftv1.EndpointSettings{Requested: &weftv1.Attachment{
		Network: string(a.Network), Aliases: a.Aliases, VipAliases: a.VIPAliases, MacAddress: string(a.MAC), GwPriority: int32(a.GwPriority), DriverOptions: a.DriverOpts,
	}, Isolated: a.Isolated}
	if a.IP.IsValid() {
		out.Requested.Ip = a.IP.String()
	}
	if a.IP6.IsValid() {
		out.Requested.Ip6 = a.IP6.String()
	}
	for _, l := range a.Links {
		out.Requested.Links = append(out.Requested.Links, &weftv1.Link{Target: l.Target, Alias: l.Alias})
	}
	if e != nil {
		out.Endpoint = endpointProto(*e)
		if len(e.Addrs) > 0 {
			out.PrefixLen, out.Gateway = int32(e.Bits(e.Addrs[0])), out.Endpoint.Gateway
		}
	} else if n != nil {
		out.Endpoint = &weftv1.Endpoint{NetworkId: string(n.ID), NetworkName: n.Name}
	}
	return out
}

func timeProto(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

func exitProto(e Exit) *weftv1.Exit { return &weftv1.Exit{Code: int32(e.Code), Error: e.Error} }
