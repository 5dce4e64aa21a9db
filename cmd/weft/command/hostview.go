package command

import (
	"time"

	weftv1 "weft/proto/weft/v1"
)

// inspectedHost is what `host inspect` shows. What is not known now is empty.
type inspectedHost struct {
	ID          string `json:"Id"`
	Name        string
	Self        bool
	State       string
	Advertise   string
	VTEP        string
	MTU         int32
	Version     string
	Incarnation uint64
	StartedAt   time.Time
	Certificate string
	Notes       []string
	Routes      []string
	Paths       []pathView
	Endpoints   []hostEndpointView
	// UnknownNetworks are those of which it is not known now whether the host has endpoints in them.
	UnknownNetworks []string `json:",omitempty"`
}

type pathView struct {
	Host   string
	HostID string `json:"HostId"`
	State  string
	RTT    string `json:",omitempty"`
	MTU    int32  `json:",omitempty"`
	Why    string `json:",omitempty"`
	Age    string `json:",omitempty"`
}

type hostEndpointView struct {
	endpointView
	Network string
}

func hostView(r *weftv1.InspectHostResponse) inspectedHost {
	h := r.Host
	v := inspectedHost{
		ID: h.Id, Name: h.Name, Self: h.Self, State: h.State, Advertise: h.Advertise, VTEP: h.Vtep, MTU: h.Mtu, Version: h.Version, Incarnation: h.Incarnation,
		StartedAt: moment(h.Started), Certificate: r.Certificate, Notes: listed(h.Notes), Routes: listed(r.Routes),
		Paths: []pathView{}, Endpoints: []hostEndpointView{}, UnknownNetworks: r.UnknownNetworks,
	}
	for _, p := range r.Paths {
		view := pathView{Host: p.Host, HostID: p.HostId, State: p.State, MTU: p.Mtu, Why: p.Why}
		if p.Rtt != nil {
			view.RTT = p.Rtt.AsDuration().String()
		}
		if p.Age != nil {
			view.Age = p.Age.AsDuration().Round(time.Second).String()
		}
		v.Paths = append(v.Paths, view)
	}
	for _, e := range r.Endpoints {
		v.Endpoints = append(v.Endpoints, hostEndpointView{Network: e.NetworkName, endpointView: endpointOf(e)})
	}
	return v
}
