package agent

import (
	"context"

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
