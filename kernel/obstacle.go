package kernel

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Obstacles names the chains of others in the host's namespace that drop what weft's own rules let pass, and where weft has no place to be a guest:
// each in one line that says what to do. mark is the bit that those rules set; six tells whether IPv6 matters. What is looked at is each chain's
// policy: rules are the user's choice.
func (k *Kernel) Obstacles(ctx context.Context, mark uint32, six bool) (out []string, err error) {
	err = k.with(HostNS, func(c *conn) error {
		s, err := c.filters()
		if err != nil {
			return err
		}
		if out, err = droppingChains(ctx, s, mark, six); err != nil {
			return err
		}
		drops, err := legacyDrops(c, mark)
		if drops {
			out = append(out, fmt.Sprintf("chain FORWARD of iptables-legacy drops what none of its rules lets pass, and weft's packets with it: "+
				"iptables-legacy -I FORWARD -m mark --mark %#x/%#x -j ACCEPT", mark, mark))
		}
		return err
	})
	return out, err
}

// HasTable tells whether there is a table of nftables in the host's namespace, by its "family name".
func (k *Kernel) HasTable(ctx context.Context, link string) (has bool, err error) {
	family, name := cutTable(link)
	err = k.with(HostNS, func(c *conn) error {
		s, err := c.filters()
		if err != nil {
			return err
		}
		msgs, err := s.dump(ctx, nfType(unix.NFT_MSG_GETTABLE), nfBody(uint8(families[family]), 0))
		for _, m := range msgs {
			has = has || attr(m, unix.NFTA_TABLE_NAME) == name
		}
		return err
	})
	return has, err
}

// droppingChains are those of nftables, iptables-nft's among them.
func droppingChains(ctx context.Context, s *socket, mark uint32, six bool) ([]string, error) {
	chains, err := s.dump(ctx, nfType(unix.NFT_MSG_GETCHAIN), nfBody(unix.AF_UNSPEC, 0))
	if err != nil {
		return nil, fmt.Errorf("list nftables chains: %w", err)
	}
	var out []string
	for _, m := range chains {
		family, table, name := "", attr(m, unix.NFTA_CHAIN_TABLE), attr(m, unix.NFTA_CHAIN_NAME)
		switch m[0] {
		case unix.NFPROTO_IPV4:
			family = "ip"
		case unix.NFPROTO_INET:
			family = "inet"
		case unix.NFPROTO_IPV6:
			if family = "ip6"; !six {
				continue
			}
		}
		if family == "" || isOwnTable(table) || !dropsForward(m) {
			continue
		}
		known, err := knowsMark(ctx, s, m[0], table, name, mark)
		if err != nil {
			return nil, err
		}
		if known {
			continue
		}
		out = append(out, fmt.Sprintf("chain %s of nftables table %s %s drops what none of its rules lets pass, and weft's packets with it: "+
			"nft insert rule %s %s %s meta mark and %#x == %#x accept", name, family, table, family, table, name, mark, mark))
	}
	slices.Sort(out)
	return out, nil
}

// dropsForward tells a base chain of the forward hook whose policy is to drop.
func dropsForward(m []byte) bool {
	forward, drop := false, false
	for typ, v := range nfAttributes(m) {
		switch typ {
		case unix.NFTA_CHAIN_HOOK:
			for typ, v := range attributes(v) {
				forward = forward || typ == unix.NFTA_HOOK_HOOKNUM && len(v) == 4 && binary.BigEndian.Uint32(v) == unix.NF_INET_FORWARD
			}
		case unix.NFTA_CHAIN_POLICY:
			drop = len(v) == 4 && binary.BigEndian.Uint32(v) == nfDrop
		}
	}
	return forward && drop
}

// knowsMark tells whether a chain, or the one of its table where weft is a guest, has a rule that looks at weft's mark.
func knowsMark(ctx context.Context, s *socket, family uint8, table, chain string, mark uint32) (bool, error) {
	msgs, err := s.dump(ctx, nfType(unix.NFT_MSG_GETRULE), nfBody(family, 0, nfText(unix.NFTA_RULE_TABLE, table)))
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return false, fmt.Errorf("list the rules of %s: %w", table, err)
	}
	bits := string(binary.NativeEndian.AppendUint32(nil, mark))
	for _, m := range msgs {
		at := attr(m, unix.NFTA_RULE_CHAIN)
		if attr(m, unix.NFTA_RULE_TABLE) != table || at != chain && at != "DOCKER-USER" {
			continue
		}
		for typ, v := range nfAttributes(m) {
			if typ == unix.NFTA_RULE_EXPRESSIONS && strings.Contains(string(v), bits) {
				return true, nil
			}
		}
	}
	return false, nil
}

// Of linux/netfilter_ipv4/ip_tables.h and x_tables.h.
const (
	iptGetInfo    = 64 // IPT_SO_GET_INFO
	iptGetEntries = 65 // IPT_SO_GET_ENTRIES
	iptNameSize   = 32
	iptInfoSize   = 84  // struct ipt_getinfo
	iptHeadSize   = 40  // struct ipt_get_entries without its entries
	iptEntrySize  = 112 // struct ipt_entry
	iptVerdictAt  = iptEntrySize + 32
	iptDrop       = -nfDrop - 1
	iptMaxSize    = 16 << 20
)

const nfDrop = 0 // NF_DROP of linux/netfilter.h

// legacyDrops tells whether the forward chain of the old iptables drops by its policy, and no rule looks at weft's mark. It looks only where that table is there: to ask for it would
// make it.
func legacyDrops(c *conn, mark uint32) (bool, error) {
	drops := false
	err := inside(c.ns, func() error {
		names, err := os.ReadFile("/proc/thread-self/net/ip_tables_names")
		if err != nil || !slices.Contains(strings.Fields(string(names)), "filter") {
			return nil
		}
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(fd) }()
		info := make([]byte, iptInfoSize)
		copy(info, "filter")
		if err := getsockopt(fd, iptGetInfo, info); err != nil {
			return err
		}
		// name, valid_hooks, hook_entry[5], underflow[5], num_entries, size
		underflow, size := u32(info[iptNameSize+4+20+4*unix.NF_INET_FORWARD:]), u32(info[iptInfoSize-4:])
		if size > iptMaxSize {
			return nil
		}
		entries := make([]byte, iptHeadSize+size)
		copy(entries, "filter")
		binary.NativeEndian.PutUint32(entries[iptNameSize:], size)
		if err := getsockopt(fd, iptGetEntries, entries); err != nil {
			return err
		}
		known := binary.NativeEndian.AppendUint32(binary.NativeEndian.AppendUint32(nil, mark), mark) // struct xt_mark_mtinfo1
		drops = legacyPolicy(entries[iptHeadSize:], underflow) == iptDrop && !bytes.Contains(entries, known)
		return nil
	})
	if err != nil {
		return false, fmt.Errorf("read iptables-legacy's policy: %w", err)
	}
	return drops, nil
}

// legacyPolicy is the verdict of the entry at an offset, which is a chain's policy; 0 if there is none.
func legacyPolicy(entries []byte, at uint32) int32 {
	if uint64(at)+iptVerdictAt+4 > uint64(len(entries)) {
		return 0
	}
	return int32(u32(entries[at+iptVerdictAt:]))
}

func getsockopt(fd, name int, b []byte) error {
	n := uint32(len(b))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.IPPROTO_IP, uintptr(name), uintptr(unsafe.Pointer(&b[0])), uintptr(unsafe.Pointer(&n)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}
