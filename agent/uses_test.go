package agent

import (
	"log/slog"
	"testing"

	"weft/agent/registry"
	"weft/store"
	"weft/store/follow"
	"weft/store/memory"
	"weft/store/record"
)

// An agent that is killed just after it let go of a network finds that in its last picture, and must not show it as it was then for ever.
func TestANewLifeForgetsNetworksThatItDoesNotUse(t *testing.T) {
	t.Parallel()
	used, left := record.NetworkID(registry.NewID()), record.NetworkID(registry.NewID())
	seed := record.Empty()
	for _, n := range []record.NetworkID{used, left} {
		k := record.EndpointNameKey(n, "a")
		seed = seed.Apply(k.Partition, store.Batch{Rev: 3, Resync: true, Puts: []store.Entry{{Key: k, Value: []byte("e"), Rev: 3}}})
	}
	b := newBoxes(nil)
	b.load([]*record.Sandbox{{ID: "s", Name: "s", Attachments: []record.Attachment{{Network: used}}}})
	client := memory.New().Client()
	t.Cleanup(func() { _ = client.Close() })
	f := follow.New(follow.Config{Store: client, Seed: seed, Log: slog.New(slog.DiscardHandler)})

	newUses(f, func(record.NetworkID) bool { return false }, b)

	if _, known := f.Picture().Net(used); !known {
		t.Error("the network that a sandbox is in is not known")
	}
	if net, known := f.Picture().Net(left); known {
		t.Errorf("the network that none is in is known with %v", net)
	}
	if got := f.Following(); len(got) != 1 || got[0] != used {
		t.Errorf("it follows %v", got)
	}
}
