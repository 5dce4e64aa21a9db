package storetest

import (
	"net/netip"
	"os"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"weft/kernel/netnstest"
)

// How a link is cut: silently, as by a dead switch, or with an answer, as by a firewall.
type manner int

const (
	drop manner = iota
	reject
)

// cut cuts a host off from peers, or from everybody if there are none, and returns how to heal that. It is done in the host's namespace.
func cut(t *testing.T, h netnstest.Host, how manner, peers ...netip.Addr) (heal func()) {
	t.Helper()
	table := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: "cut"}
	inNFT(t, h, func(n *nftables.Conn) {
		n.AddTable(table)
		for hook, offset := range map[*nftables.ChainHook]uint32{nftables.ChainHookInput: 12, nftables.ChainHookOutput: 16} { // of the peer's address in the IP header
			c := n.AddChain(&nftables.Chain{Name: "hook" + hookName(hook), Table: table, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: nftables.ChainPriorityFilter})
			if len(peers) == 0 {
				n.AddRule(&nftables.Rule{Table: table, Chain: c, Exprs: verdict(how)})
			}
			for _, p := range peers {
				match := []expr.Any{
					&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4},
					&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: p.AsSlice()},
				}
				n.AddRule(&nftables.Rule{Table: table, Chain: c, Exprs: append(match, verdict(how)...)})
			}
		}
	})
	healed := false
	heal = func() {
		if !healed {
			healed = true
			inNFT(t, h, func(n *nftables.Conn) { n.DelTable(table) })
		}
	}
	t.Cleanup(heal)
	return heal
}

const tcpRST = 4 // in the flags

func hookName(h *nftables.ChainHook) string {
	if h == nftables.ChainHookInput {
		return "in"
	}
	return "out"
}

func verdict(how manner) []expr.Any {
	if how == drop {
		return []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}
	}
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		// The answers pass this very rule on their way out.
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 13, Len: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{tcpRST}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{0}},
		&expr.Reject{Type: unix.NFT_REJECT_TCP_RST},
	}
}

// inNFT applies what f queues, in a host's namespace.
func inNFT(t *testing.T, h netnstest.Host, f func(*nftables.Conn)) {
	t.Helper()
	ns, err := os.Open(h.NS)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ns.Close() }()
	n, err := nftables.New(nftables.WithNetNSFd(int(ns.Fd())))
	if err != nil {
		t.Fatal(err)
	}
	f(n)
	if err := n.Flush(); err != nil {
		t.Fatalf("cut %s: %v", h.Addr, err)
	}
}
