package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"weft/e2e/lab"
	"weft/store/storetest/server"
)

// lossy is a cluster of three hosts that are noticed soon when they are gone.
func lossy(t *testing.T, grace time.Duration) *cluster {
	t.Helper()
	var c *cluster
	if kind == server.Etcd {
		c = newCluster(t, 3, lab.Embedded{})
	} else {
		var b *backend
		c, b = newClusterWithStore(t, 3)
		b.start()
	}
	for _, h := range c.hosts {
		h.Args = append(h.Args, "--cluster-store-opt", "discovery.ttl=3", "--stale-grace", grace.String())
	}
	c.start()
	return c
}

// noticed is for the loss of a host to be noticed by all: Consul takes longest, twice its floor.
const noticed = 45 * time.Second

// awaitLoss waits until a host sees that another one is not alive.
func (h *host) awaitLoss(of *host) {
	h.c.t.Helper()
	eventually(h.c.t, noticed, func() error { return h.seesLost(of) })
}

func (h *host) seesLost(of *host) error {
	for line := range strings.Lines(h.weft("host", "ls", "--format", "{{.Name}} {{.State}}")) {
		if name, state, _ := strings.Cut(strings.TrimSpace(line), " "); name == of.Name && state != "alive" {
			return nil
		}
	}
	return fmt.Errorf("%s takes %s for alive", h.Name, of.Name)
}

// A name whose host is gone is cleared by force at once, or goes to whoever wants it after the grace time; the host takes nothing back.
func TestAStaleEndpoint(t *testing.T) {
	t.Parallel()
	c := lossy(t, 8*time.Second)
	h1, h2, h3 := c.hosts[0], c.hosts[1], c.hosts[2]
	h1.weft("network", "create", "-d", "overlay", "--subnet", "10.1.0.0/24", "web")
	client := h1.box("client", "web")
	h2.box("forced", "web", "--ip", "10.1.0.50")
	waited := h2.box("waited", "web")
	h2.box("other", "web")
	eventually(t, settle, func() error { return client.finds("waited", waited.addr("web")) })
	h1.refuses(1, "is alive", "network", "disconnect", "-f", "web", "forced")

	must(t, h2.PowerOff(within(t, patience)))
	h1.awaitLoss(h2)
	eventually(t, noticed, func() error {
		began := time.Now()
		r := h1.try("run", "-d", "--name", "forced", "--network", "web", "--", "sleep", forever)
		if took := time.Since(began); took > 3*time.Second || r.Code != 125 {
			t.Fatalf("after %s exit %d: %s; want a refusal within 3 s", took, r.Code, r.Stderr)
		}
		if !strings.Contains(r.Stderr, "container already connected to network web: endpoint forced is of host host2") {
			return errors.New(r.Stderr)
		}
		return nil
	})
	eventually(t, noticed, func() error { // by a host that takes no part in the network, and has not been there for long
		if r := h3.try("network", "disconnect", "-f", "web", "forced"); r.Code != 0 {
			return errors.New(r.Stderr)
		}
		return nil
	})
	forced := h1.box("forced", "web", "--ip", "10.1.0.50").echo()
	eventually(t, patience, func() error {
		if r := h3.try("run", "-d", "--name", "waited", "--network", "web", "--", "sleep", forever); r.Code != 0 {
			return errors.New(r.Stderr)
		}
		return nil
	})
	waited = &box{h: h3, name: "waited"}
	waited.netns = waited.view().NetworkSettings.SandboxKey
	waited.echo()

	h2.up()
	h2.awaitJoined()
	eventually(t, settle, func() error { // what was disconnected is, and what was lost waits for its owner to say what is to become of it
		if nets := (&box{h: h2, name: "forced"}).view().NetworkSettings.Networks; len(nets) > 0 {
			return fmt.Errorf("on host2 forced still is in %v", nets)
		}
		if why := (&box{h: h2, name: "waited"}).view().NetworkSettings.Networks["web"].Isolated; !strings.Contains(why, "the name waited belongs to a sandbox on host host3") {
			return fmt.Errorf("on host2 waited is isolated for %q", why)
		}
		return nil
	})
	h2.refuses(1, "endpoint with name waited already exists in network web (on host host3)", "start", "waited")
	h2.weft("start", "other") // which was not cleared
	eventually(t, settle, func() error { return client.finds("other", (&box{h: h2, name: "other"}).addr("web")) })
	for _, b := range []*box{forced, waited} {
		eventually(t, settle, func() error { return client.finds(b.name, b.addr("web")) })
		eventually(t, settle, func() error { return client.reaches(b.addr("web")) })
	}
	h1.weft("store", "check")
}

// With --live a sandbox that runs on another host is taken out of the network: that host hears of it.
func TestASandboxIsDisconnectedFromAnotherHost(t *testing.T) {
	t.Parallel()
	c := up(t)
	h1, h2 := c.hosts[0], c.hosts[1]
	h1.weft("network", "create", "-d", "overlay", "web")
	h1.weft("network", "create", "-d", "overlay", "back")
	client := h1.box("client", "web")
	b := h2.box("b", "web", "--network", "back").echo()
	addr := b.addr("web")
	eventually(t, settle, func() error { return errors.Join(client.finds("b", addr), client.reaches(addr)) })
	h1.refuses(1, "add --live", "network", "disconnect", "-f", "web", "b")
	h1.refuses(1, "container nobody is not connected to network web", "network", "disconnect", "-f", "web", "nobody")
	h1.weft("network", "disconnect", "-f", "--live", "web", "b")
	eventually(t, settle, func() error {
		if nets := b.view().NetworkSettings.Networks; len(nets) != 1 || nets["back"].IPAddress == "" {
			return fmt.Errorf("b is in %v, want back alone", nets)
		}
		return errors.Join(client.finds("b"), client.blind(addr))
	})
	h2.weft("network", "connect", "web", "b")
	eventually(t, settle, func() error { return client.reaches(b.addr("web")) })
	h1.weft("store", "check")
}
