package kernel

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

const ownTable = "weft"

// setConstant is a set, or a map, whose elements are part of its table: nobody can change them, and the table's mark says what they are.
const setConstant SetType = "constant"

// tableID is a table's place in a namespace.
type tableID struct {
	family uint8
	name   string
}

// attr returns a string attribute of a message.
func attr(m []byte, typ uint16) string {
	for t, v := range nfAttributes(m) {
		if t == typ {
			return text(v)
		}
	}
	return ""
}

func handle(m []byte, typ uint16) uint64 {
	for t, v := range nfAttributes(m) {
		if t == typ && len(v) == 8 {
			return binary.BigEndian.Uint64(v)
		}
	}
	return 0
}

// readTables adds weft's tables and what their sets hold.
func readTables(ctx context.Context, c *conn, ns string, out State) error {
	s, err := c.filters()
	if err != nil {
		return err
	}
	tables, err := ownTables(ctx, s)
	if err != nil {
		return err
	}
	for _, t := range tables {
		if err := readOwnTable(ctx, s, t, ns, out); err != nil {
			return err
		}
	}
	return nil
}

// ownTables lists those of weft's tables that are there.
func ownTables(ctx context.Context, s *socket) ([]tableID, error) {
	msgs, err := s.dump(ctx, nfType(unix.NFT_MSG_GETTABLE), nfBody(unix.AF_UNSPEC, 0))
	if err != nil {
		return nil, fmt.Errorf("list nftables tables: %w", err)
	}
	var out []tableID
	for _, m := range msgs {
		name := attr(m, unix.NFTA_TABLE_NAME)
		if isOwnTable(name) {
			out = append(out, tableID{m[0], name})
		}
	}
	return out, nil
}

func readOwnTable(ctx context.Context, s *socket, t tableID, ns string, out State) error {
	family := ""
	for name, f := range families {
		if uint8(f) == t.family {
			family = name
		}
	}
	if family == "" {
		return nil
	}
	sets, err := readSets(ctx, s, t)
	if err != nil {
		return err
	}
	mark, err := readMark(ctx, s, t, len(sets))
	if err != nil {
		return err
	}
	link := family + " " + t.name
	out.Add(Object{Key: Key{Kind: KindTable, NS: ns, Link: link}, Spec: readTable{mark: mark}})
	for _, set := range sets {
		if set.Type == setConstant {
			continue
		}
		es, err := readElements(ctx, s, t, set.Name)
		if err != nil {
			return err
		}
		for _, e := range textOf(set.Type, es) {
			out.Add(Object{Key: Key{Kind: KindElement, NS: ns, Link: link + " " + set.Name, Dst: e.dst}, Spec: Element{Type: set.Type, Value: e.value}})
		}
	}
	return nil
}

// readMark returns a table's digest, "" where anything but a set's elements was changed since it was put. A table's sets, chains and rules
// are numbered (their handles) as they are made, from 1, and a table is made in one go: what was added later has a number above their
// count, what was taken away is missing from the mark's own count, and a rule that was replaced keeps its number and loses its comment.
func readMark(ctx context.Context, s *socket, t tableID, sets int) (string, error) {
	chains, err := s.dump(ctx, nfType(unix.NFT_MSG_GETCHAIN), nfBody(t.family, 0))
	if err != nil {
		return "", fmt.Errorf("list nftables chains: %w", err)
	}
	rules, err := s.dump(ctx, nfType(unix.NFT_MSG_GETRULE), nfBody(t.family, 0, nfText(unix.NFTA_RULE_TABLE, t.name)))
	if err != nil {
		return "", fmt.Errorf("list nftables rules: %w", err)
	}
	mark, count, newest, replaced := "", sets, uint64(0), false
	for _, m := range chains {
		if attr(m, unix.NFTA_CHAIN_TABLE) != t.name {
			continue
		}
		count++
		newest = max(newest, handle(m, unix.NFTA_CHAIN_HANDLE))
		if name := attr(m, unix.NFTA_CHAIN_NAME); strings.HasPrefix(name, markPrefix) {
			mark = name
		}
	}
	for _, m := range rules {
		if attr(m, unix.NFTA_RULE_TABLE) == t.name {
			count++
			newest = max(newest, handle(m, unix.NFTA_RULE_HANDLE))
			replaced = replaced || attr(m, unix.NFTA_RULE_USERDATA) != text(ruleComment)
		}
	}
	if !strings.HasSuffix(mark, fmt.Sprintf("-%d", count)) || newest > uint64(count) || replaced {
		return "", nil
	}
	return mark, nil
}

func readSets(ctx context.Context, s *socket, t tableID) ([]Set, error) {
	msgs, err := s.dump(ctx, nfType(unix.NFT_MSG_GETSET), nfBody(t.family, 0, nfText(unix.NFTA_SET_TABLE, t.name)))
	if err != nil {
		return nil, fmt.Errorf("list nftables sets: %w", err)
	}
	var out []Set
	for _, m := range msgs {
		if attr(m, unix.NFTA_SET_TABLE) != t.name {
			continue
		}
		set := Set{Name: attr(m, unix.NFTA_SET_NAME), Type: typeOf(m)}
		out = append(out, set)
	}
	return out, nil
}

// typeOf finds the type of a set by what the kernel was told of it; one that weft never makes has none.
func typeOf(m []byte) SetType {
	var flags, key, data uint32
	for typ, v := range nfAttributes(m) {
		if len(v) != 4 {
			continue
		}
		switch n := binary.BigEndian.Uint32(v); typ {
		case unix.NFTA_SET_FLAGS:
			flags = n
		case unix.NFTA_SET_KEY_TYPE:
			key = n
		case unix.NFTA_SET_DATA_TYPE:
			data = n
		}
	}
	if flags&unix.NFT_SET_CONSTANT != 0 {
		return setConstant
	}
	for _, t := range setTypes {
		s, err := setOf(nil, Set{Type: t})
		if err == nil && s.KeyType.GetNFTMagic() == key && s.Interval == (flags&unix.NFT_SET_INTERVAL != 0) &&
			s.IsMap == (flags&unix.NFT_SET_MAP != 0) && (!s.IsMap || s.DataType.GetNFTMagic() == data) {
			return t
		}
	}
	return ""
}

func readElements(ctx context.Context, s *socket, t tableID, set string) ([]element, error) {
	msgs, err := s.dump(ctx, nfType(unix.NFT_MSG_GETSETELEM),
		nfBody(t.family, 0, nfText(unix.NFTA_SET_ELEM_LIST_TABLE, t.name), nfText(unix.NFTA_SET_ELEM_LIST_SET, set)))
	if err != nil {
		return nil, fmt.Errorf("list nftables set %s: %w", set, err)
	}
	var out []element
	for _, m := range msgs {
		out = append(out, parseElements(m)...)
	}
	return out, nil
}

// elementsIn returns what the sets of a table hold that are of a wanted name and type, if there is such a table. It is put back when the
// table is replaced: so it has to be all. Nil means that there is no such table.
func elementsIn(ctx context.Context, c *conn, t tableID, want []Set) (map[string][]element, error) {
	s, err := c.filters()
	if err != nil {
		return nil, err
	}
	var out map[string][]element
	tables, err := ownTables(ctx, s)
	if err != nil {
		return nil, err
	}
	for _, there := range tables {
		if there != t {
			continue
		}
		out = map[string][]element{}
		sets, err := readSets(ctx, s, t)
		if err != nil {
			return nil, err
		}
		for _, set := range sets {
			for _, w := range want {
				if set != w {
					continue
				}
				if out[set.Name], err = readElements(ctx, s, t, set.Name); err != nil {
					return nil, err
				}
			}
		}
	}
	return out, nil
}
