package agent

import (
	"context"
	"time"

	"weft/agent/api"
)

// Endpoints returns the endpoints of all networks; those of networks that cannot be read now are named in unknown. With stale only those whose
// sandbox or host is gone.
func (a *Agent) Endpoints(ctx context.Context, stale bool) (views []api.EndpointView, unknown []string, err error) {
	a.awaitPicture(ctx)
	p := a.picture()
	for n := range p.Networks() {
		v := a.networkView(ctx, p, n, true)
		if !v.Known {
			unknown = append(unknown, n.Name)
		}
		views = append(views, v.Endpoints...)
	}
	if !stale {
		return views, unknown, nil
	}
	return a.staleAmong(ctx, views), unknown, nil
}

// staleAmong returns those endpoints whose sandbox or host is gone, with the reason.
func (a *Agent) staleAmong(_ context.Context, views []api.EndpointView) []api.EndpointView {
	var out []api.EndpointView
	for _, v := range views {
		if lost, unsure := a.lostFor(v.Host); lost > 0 && !unsure {
			v.Stale = "its host has been lost for " + lost.Round(time.Second).String()
			out = append(out, v)
		}
	}
	return out
}

// RemoveHost takes a host out of the cluster.
func (a *Agent) RemoveHost(_ context.Context, ref string, _ bool) (api.RemovedHost, error) {
	h, err := a.findHost(ref)
	if err != nil {
		return api.RemovedHost{}, err
	}
	return api.RemovedHost{}, api.Refuse(api.Unsupported, "host %s cannot be removed yet", h.Name)
}
