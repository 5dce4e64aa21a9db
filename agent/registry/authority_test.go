package registry_test

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"

	"weft/store"
	"weft/store/memory"
	"weft/store/record"
)

// enlisted is a host with its record in the store.
func enlisted(t *testing.T, w *memory.World, n int) *host {
	t.Helper()
	h := newHost(t, w, fmt.Sprintf("h%d", n))
	_, _, err := h.RegisterHost(t.Context(), record.Host{ID: h.as.Host, Name: string(h.as.Host), VTEP: netip.AddrFrom4([4]byte{192, 0, 2, byte(n)}), Incarnation: 1})
	if err != nil {
		t.Fatal(err)
	}
	h.look(t)
	return h
}

func authorityOf(h *host, certificate string) record.Authority {
	return record.Authority{Certificate: certificate, Host: h.as.Host}
}

func same(a, b *record.Authority) bool {
	return a != nil && b != nil && a.Certificate == b.Certificate && a.Host == b.Host
}

func TestOfHostsThatBeginAtOnceOneHasTheAuthority(t *testing.T) {
	for range 50 {
		w := memory.New()
		hosts := []*host{enlisted(t, w, 1), enlisted(t, w, 2), enlisted(t, w, 3)}
		got := make([]*record.Authority, len(hosts))
		var wg sync.WaitGroup
		for i, h := range hosts {
			wg.Go(func() {
				a, err := h.EnsureAuthority(t.Context(), h.as, authorityOf(h, "of "+string(h.as.Host)))
				if err != nil {
					t.Error(err)
					return
				}
				got[i] = a
			})
		}
		wg.Wait()
		is, vacant, err := hosts[0].Authority(t.Context())
		if err != nil || vacant || is == nil {
			t.Fatalf("the cluster has %v, vacant %v, %v", is, vacant, err)
		}
		for i, a := range got {
			if !same(a, is) {
				t.Errorf("h%d was told %v, and the cluster has %v", i+1, a, is)
			}
		}
		if is.Certificate != "of "+string(is.Host) {
			t.Errorf("one host's authority is said to be on another one: %v", is)
		}
	}
}

// Given an agent that ends while it publishes the authority that it has made, then its next life publishes the same, or finds that it had done so;
// and where another host was first meanwhile, it is told of that one.
func TestAnAuthorityWhoseMakerEndedIsPublishedByItsNextLife(t *testing.T) {
	for name, tc := range map[string]struct{ after, overtaken bool }{
		"before it was written":                  {false, false},
		"after it was written":                   {true, false},
		"before, and another host made one then": {false, true},
		"after, and another host wanted one":     {true, true},
	} {
		t.Run(name, func(t *testing.T) {
			w := memory.New()
			h1, h2 := enlisted(t, w, 1), enlisted(t, w, 2)
			want := authorityOf(h1, "one")
			h1.use(&mortal{Store: h1.st, left: 1, after: tc.after}, "h1")
			h1.look(t)
			if _, err := h1.EnsureAuthority(t.Context(), h1.as, want); !errors.Is(err, errKilled) {
				t.Fatalf("it did not end: %v", err)
			}
			winner := want
			if tc.overtaken {
				a, err := h2.EnsureAuthority(t.Context(), h2.as, authorityOf(h2, "two"))
				if err != nil {
					t.Fatal(err)
				}
				if winner = authorityOf(h2, "two"); tc.after {
					winner = want
				}
				if !same(a, &winner) {
					t.Errorf("h2 was told %v", a)
				}
			}
			h1.use(h1.st, "h1")
			h1.look(t)
			a, err := h1.EnsureAuthority(t.Context(), h1.as, want)
			if err != nil || !same(a, &winner) {
				t.Errorf("the next life was told %v, %v; want %v", a, err, winner)
			}
		})
	}
}

func TestWhoseAuthorityItIs(t *testing.T) {
	for name, tc := range map[string]struct {
		remove      bool   // h1, which has it
		certificate string // that h2 comes with
		want        string
		host        record.HostID
	}{
		"another one is not taken":                    {false, "two", "one", "h1"},
		"the same, moved to another host":             {false, "one", "one", "h2"},
		"another one, where its host was removed":     {true, "two", "two", "h2"},
		"the same, moved before its host was removed": {true, "one", "one", "h2"},
	} {
		t.Run(name, func(t *testing.T) {
			w := memory.New()
			h1, h2 := enlisted(t, w, 1), enlisted(t, w, 2)
			if _, vacant, err := h1.Authority(t.Context()); err != nil || !vacant {
				t.Errorf("before there is one: vacant %v, %v", vacant, err)
			}
			if _, err := h1.EnsureAuthority(t.Context(), h1.as, authorityOf(h1, "one")); err != nil {
				t.Fatal(err)
			}
			if tc.remove {
				if _, err := h1.st.Txn(t.Context(), store.Txn{Then: []store.Op{store.Del(record.HostKey("h1"))}}); err != nil {
					t.Fatal(err)
				}
				h2.look(t)
			}
			if _, vacant, err := h2.Authority(t.Context()); err != nil || vacant != tc.remove {
				t.Errorf("vacant %v, %v", vacant, err)
			}
			a, err := h2.EnsureAuthority(t.Context(), h2.as, authorityOf(h2, tc.certificate))
			if err != nil || a.Certificate != tc.want || a.Host != tc.host {
				t.Errorf("got %v, %v", a, err)
			}
		})
	}
}

// A host that was cleared from the cluster gives it no authority.
func TestAHostThatWasClearedHasNoAuthority(t *testing.T) {
	w := memory.New()
	h := enlisted(t, w, 1)
	put(t, h.st, record.FenceKey("h1"), &record.Fence{Host: "h1", Incarnation: 1, By: "h2"})
	if _, err := h.EnsureAuthority(t.Context(), h.as, authorityOf(h, "one")); err == nil {
		t.Error("it has")
	}
	if is, _, err := h.Authority(t.Context()); err != nil || is != nil {
		t.Errorf("the cluster has %v, %v", is, err)
	}
}
