package record

import (
	"errors"
	"slices"
	"testing"

	"weft/store"
)

// of is a picture of networks, at a revision, with one endpoint in each.
func of(t *testing.T, rev store.Rev, nets ...*Network) *Snapshot {
	t.Helper()
	s := Empty()
	entry := func(k store.Key, r any) store.Entry {
		b, err := Encode(r)
		if err != nil {
			t.Fatal(err)
		}
		return store.Entry{Key: k, Value: b, Rev: rev}
	}
	b := store.Batch{Rev: rev, Resync: true}
	for _, n := range nets {
		n.State = Active
		b.Puts = append(b.Puts, entry(NetworkKey(n.ID), n), store.Entry{Key: NetworkNameKey(n.Name), Value: []byte(n.ID), Rev: rev})
	}
	s = s.Apply(store.Meta, b)
	for _, n := range nets {
		ep := &Endpoint{ID: EndpointID("e" + n.ID), Network: n.ID, Host: "h", Name: "x"}
		s = s.Apply(NetPartition(n.ID), store.Batch{Rev: rev, Resync: true, Puts: []store.Entry{entry(EndpointKey(n.ID, ep.ID), ep)}})
	}
	return s
}

func TestAUnionShowsBothScopes(t *testing.T) {
	far, home := &Network{ID: "aa11", Name: "far", Driver: "overlay"}, &Network{ID: "bb22", Name: "home", Driver: "bridge"}
	global, local := of(t, 7, far), of(t, 90, home)
	u := Union(global, local)
	var names []string
	for n := range u.Networks() {
		names = append(names, n.Name)
		if _, known := u.Net(n.ID); !known {
			t.Errorf("the endpoints of %s are not known", n.Name)
		}
	}
	if !slices.Equal(names, []string{"far", "home"}) {
		t.Errorf("the networks are %v", names)
	}
	for ref, want := range map[string]NetworkID{"far": "aa11", "HOME": "bb22", "bb22": "bb22", "aa": "aa11", "b": "bb22"} {
		if n, err := u.FindNetwork(ref); err != nil || n.ID != want {
			t.Errorf("%s: %v, %v", ref, n, err)
		}
	}
	if _, err := u.FindNetwork("c"); !errors.Is(err, ErrNotFound) {
		t.Errorf("what is in neither: %v", err)
	}
	// Revisions of partition meta are the cluster's; a network's partition is of one scope.
	if u.Rev(store.Meta) != 7 || u.Rev(NetPartition("aa11")) != 7 || u.Rev(NetPartition("bb22")) != 90 {
		t.Errorf("revisions %d, %d, %d", u.Rev(store.Meta), u.Rev(NetPartition("aa11")), u.Rev(NetPartition("bb22")))
	}
	if _, ok := global.Network("bb22"); ok {
		t.Error("the cluster's own picture has changed")
	}
	if n, ok := Union(nil, local).NetworkByName("home"); !ok || n.ID != "bb22" {
		t.Error("without a cluster the host's own networks are not there")
	}
}

// A name that both scopes have is none; each network has its ID.
func TestANameInBothScopesIsAmbiguous(t *testing.T) {
	u := Union(of(t, 1, &Network{ID: "aa11", Name: "web"}), of(t, 1, &Network{ID: "ab22", Name: "Web"}))
	for ref, want := range map[string]error{"web": ErrAmbiguous, "WEB": ErrAmbiguous, "a": ErrAmbiguous, "aa11": nil, "ab": nil} {
		if _, err := u.FindNetwork(ref); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", ref, err, want)
		}
	}
}

func TestABridgesName(t *testing.T) {
	n := &Network{ID: "0123456789abcdef", Driver: "bridge"}
	if got := n.Bridge(); got != "br-0123456789ab" {
		t.Error(got)
	}
	n.Options = map[string]string{OptBridgeName: "dmz"}
	if got := n.Bridge(); got != "dmz" {
		t.Error(got)
	}
}
