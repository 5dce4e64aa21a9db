package agent

import (
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"weft/kernel"
	"weft/kernel/fake"
	"weft/store"
	"weft/store/follow"
	"weft/store/memory"
	"weft/store/record"
)

// shared is an attachment with an alias that has a virtual address.
func shared(at record.Attachment, alias string) record.Attachment {
	at.Aliases, at.VIPAliases = []string{alias}, []string{alias}
	return at
}

// tables is what balances in the sandboxes, by namespace.
func (s *site) tables(spaces ...string) map[string]string {
	s.t.Helper()
	have, err := s.kernel.Read(s.t.Context(), spaces)
	if err != nil {
		s.t.Fatal(err)
	}
	out := map[string]string{}
	for k, o := range have {
		if k.Kind == kernel.KindTable && strings.Contains(k.Link, "weft-vip-") {
			out[k.NS] = o.Spec.String()
		}
	}
	return out
}

// dueNow are the networks that the loop, which is at rest, would look at although nothing has changed.
func (s *site) dueNow() []record.NetworkID {
	_, picture := s.sight.TakeDirty()
	v := newView(s.settings(), picture, s.locals())
	v.answers = s.answers(picture)
	return s.due(v, follow.Dirty{})
}

// silence makes a host answer no longer, or again, without a word to the loop.
func (s *site) silence(id record.HostID, yes bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.silent = map[record.HostID]bool{id: yes}
}

// remove deletes keys from the store in one transaction.
func (s *site) remove(ks ...store.Key) {
	s.t.Helper()
	var ops []store.Op
	for _, k := range ks {
		ops = append(ops, store.Del(k))
	}
	if _, err := s.client.Txn(s.t.Context(), store.Txn{Then: ops}); err != nil {
		s.t.Fatal(err)
	}
}

func TestTheKernelBalancesOverTheMembersThatAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// Given a network with an alias that has a virtual address, a member here and one elsewhere, and a client
		w, k := memory.New(), fake.New(testDir)
		s := newSite(t, w, k)
		defer s.stop()
		s.write(hosts()...)
		s.write(network(front, "10.1.0.0/24"))
		a, client := box("a", shared(in(front, "e1", "10.1.0.2"), "api")), box("c", in(front, "e2", "10.1.0.3"))
		far := remote(front, "e8", "10.1.0.8")
		far.VIPAliases = []string{"API"}
		s.set(a, client)
		s.write(&record.VIP{Network: front, Alias: "api", Addrs: []netip.Addr{ip("10.1.0.254")}}, far)
		pass(time.Second)
		expect := func(what, want string, in ...string) {
			t.Helper()
			got := s.tables("/ns/5ba", "/ns/5bc")
			for _, ns := range in {
				if got[ns] != want {
					t.Errorf("%s: %s has %q, want %q", what, ns, got[ns], want)
				}
			}
			if len(got) != len(in) {
				t.Errorf("%s: tables %v", what, got)
			}
			s.holds(what)
		}
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		must(s.do(t.Context(), front, ""))
		expect("two members", "balance 10.1.0.254 to [10.1.0.2 10.1.0.8];", "/ns/5ba", "/ns/5bc")
		synctest.Wait()
		if due := s.dueNow(); len(due) > 0 {
			t.Errorf("nothing has changed, and networks %q are looked at", due)
		}

		// When a host falls silent, which is no change of any record of the network, its members are out with the next look
		s.silence(other, true)
		must(s.do(t.Context(), back, ""))
		pass(time.Millisecond)
		expect("a silent host", "balance 10.1.0.254 to [10.1.0.2];", "/ns/5ba", "/ns/5bc")
		s.silence(other, false)
		must(s.do(t.Context(), back, ""))
		pass(time.Millisecond)
		expect("it is back", "balance 10.1.0.254 to [10.1.0.2 10.1.0.8];", "/ns/5ba", "/ns/5bc")

		// When the member elsewhere stops
		far.Running = false
		s.write(far)
		pass(time.Millisecond)
		expect("one stopped", "balance 10.1.0.254 to [10.1.0.2];", "/ns/5ba", "/ns/5bc")

		// When the one here goes, at once, whatever the store knows
		s.set(client)
		must(s.do(t.Context(), front, ""))
		pass(time.Second)
		expect("the one here went", "balance 10.1.0.254 to [];", "/ns/5bc")

		// When the address goes, so does the table
		s.remove(record.VIPKey(front, "api"), record.EndpointKey(front, "e8"))
		pass(time.Second)
		expect("nothing is left", "")
	})
}
