package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	weftv1 "weft/proto/weft/v1"
)

func (h *host) networksClient() weftv1.NetworksClient {
	h.c.t.Helper()
	conn, err := h.Client()
	must(h.c.t, err)
	return weftv1.NewNetworksClient(conn)
}

// An agent is killed at whatever moment of what it does to networks of its own. When it is back, what it lists, what its kernel has and what
// its sandboxes reach is the same.
func TestAnAgentIsKilledWhileItChangesItsNetworks(t *testing.T) {
	t.Parallel()
	_, h := alone(t)
	rounds, seed := 10, rand.Uint64()
	if raceEnabled {
		rounds = 3
	}
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for round := range rounds {
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for w := range 3 {
			own := rand.New(rand.NewPCG(seed, uint64(round*10+w+1)))
			wg.Go(func() { h.churnLocal(ctx, own, w) })
		}
		pause := time.NewTimer(time.Duration(r.IntN(400)) * time.Millisecond)
		<-pause.C
		h.kill()
		cancel()
		wg.Wait()
		h.up()
		eventually(t, patience, h.agreesLocally)
	}
	l, err := h.sandboxes().ListSandboxes(ctx2(t), &weftv1.ListSandboxesRequest{All: true})
	must(t, err)
	for _, s := range l.Sandboxes {
		h.weft("rm", "-f", s.Name)
	}
	h.weft("network", "prune", "-f")
	eventually(t, patience, h.isEmpty)
}

// churnLocal makes and removes a network, with sandboxes in it and in the default one.
func (h *host) churnLocal(ctx context.Context, r *rand.Rand, worker int) {
	s, n := h.sandboxes(), h.networksClient()
	network := fmt.Sprintf("n%d", worker)
	for ctx.Err() == nil {
		name := fmt.Sprintf("w%d-%d", worker, r.IntN(2))
		var err error
		switch r.IntN(7) {
		case 0, 1:
			_, err = n.CreateNetwork(ctx, &weftv1.CreateNetworkRequest{Name: network})
		case 2:
			_, err = n.RemoveNetwork(ctx, &weftv1.RemoveNetworkRequest{Ref: network})
		case 3:
			err = run(ctx, s, name, network)
		case 4:
			err = run(ctx, s, name, "bridge")
		case 5:
			_, err = s.StopSandbox(ctx, &weftv1.StopSandboxRequest{Ref: name, Signal: 9})
		case 6:
			_, err = s.RemoveSandbox(ctx, &weftv1.RemoveSandboxRequest{Ref: name, Force: true})
		}
		if status.Code(err) == codes.Internal {
			h.c.t.Errorf("%s: %v", name, err)
		}
	}
}

// agreesLocally compares what a host says of its networks and sandboxes with its kernel.
func (h *host) agreesLocally() error {
	ctx := ctx2(h.c.t)
	nets, err := h.networksClient().ListNetworks(ctx, &weftv1.ListNetworksRequest{})
	if err != nil {
		return err
	}
	var want []string
	for _, n := range nets.Networks {
		switch {
		case n.Driver != "bridge":
		case n.Builtin:
			want = append(want, "weft0")
		case n.State != "active":
			return fmt.Errorf("network %s is %s", n.Name, n.State)
		default:
			want = append(want, "br-"+n.Id[:12])
		}
	}
	slices.Sort(want)
	bridges, ports, err := h.bridges()
	if err != nil {
		return err
	}
	if !slices.Equal(bridges, want) {
		return fmt.Errorf("the host has the bridges %v, and should have %v", bridges, want)
	}
	boxes, err := h.sandboxes().ListSandboxes(ctx, &weftv1.ListSandboxesRequest{All: true})
	if err != nil {
		return err
	}
	running := 0
	for _, s := range boxes.Sandboxes {
		if s.Status != "running" {
			continue
		}
		running++
		gateway := s.Endpoints[0].Endpoint.GetGateway()
		if err := (&box{h: h, name: s.Name, netns: s.NetnsPath}).pings(gateway, 8, soon); err != nil {
			return fmt.Errorf("%s does not reach its gateway: %w", s.Name, err)
		}
	}
	if ports != running {
		return fmt.Errorf("%d endpoints are plugged in, and %d sandboxes run", ports, running)
	}
	return nil
}

// bridges lists the host's bridges, sorted, and counts what is plugged into them.
func (h *host) bridges() (names []string, ports int, err error) {
	err = h.Do(func() error {
		ls, err := netlink.LinkList()
		for _, l := range ls {
			if l.Type() == "bridge" {
				names = append(names, l.Attrs().Name)
			} else if strings.HasPrefix(l.Attrs().Name, "ep") {
				ports++
			}
		}
		return err
	})
	slices.Sort(names)
	return names, ports, err
}
