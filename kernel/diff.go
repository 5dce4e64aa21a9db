package kernel

import "slices"

// Diff returns the steps that turn have into want: first the deletes that let go of something that a put takes, then puts, from what others
// stand on upwards, then the other deletes, downwards. have holds only what is weft's own, so what nobody wants goes; sysctls stay.
func Diff(want, have State) []Op {
	taken := map[string]bool{}
	names := map[Key]Kind{} // of links: a bridge and a pair cannot have one name
	for k, o := range want {
		if o.Holds != "" && have[k].Holds != o.Holds {
			taken[o.Holds] = true
		}
		if isLink(k.Kind) {
			names[Key{NS: k.NS, Link: k.Link}] = k.Kind
		}
	}
	var first, last []Op
	for k, h := range have {
		w, wanted := want[k]
		_, named := names[Key{NS: k.NS, Link: k.Link}]
		switch {
		case wanted && h.Holds != "" && h.Holds != w.Holds:
			first = append(first, Op{Del, h}) // two links may swap what they hold
		case wanted || k.Kind == KindSysctl || k.Kind == KindConf || h.Spec == Spec(vacant{}):
		case h.Holds != "" && taken[h.Holds], isLink(k.Kind) && named, h.Spec == Spec(Element{Type: SetPrefix}), h.Spec == Spec(Element{Type: SetPrefix6}):
			first = append(first, Op{Del, h}) // a prefix may overlap those that come
		default:
			last = append(last, Op{Del, h})
		}
	}
	down := func(a, b Op) int { return b.Obj.Compare(a.Obj.Key) }
	slices.SortFunc(first, down)
	slices.SortFunc(last, down)
	return slices.Concat(first, Missing(want, have), last)
}

// Missing returns the puts alone: what want has and have has not, or not so. What stands on an object that is put is put too: a link that is
// made anew, or given another hardware address, loses what was on it.
func Missing(want, have State) []Op {
	var puts []Op
	fresh := map[Key]bool{} // bases that are put
	for level := range levels {
		for k, o := range want {
			if levelOf(k.Kind) != level {
				continue
			}
			h, ok := have[k]
			same := ok && h.Holds == o.Holds && h.Spec.Equal(o.Spec)
			if same && !slices.ContainsFunc(below(k), func(b Key) bool { return fresh[b] }) {
				continue
			}
			puts = append(puts, Op{Put, o})
			fresh[base(k)] = true
			if v, ok := o.Spec.(Veth); ok {
				fresh[Key{Kind: KindVeth, NS: v.Peer.NS, Link: v.Peer.Name}] = true
			}
		}
	}
	slices.SortFunc(puts, func(a, b Op) int { return a.Obj.Compare(b.Obj.Key) })
	return puts
}

// levels: namespaces, links and tables, and what stands on those.
const levels = 3

func levelOf(kind Kind) int {
	switch {
	case kind == KindNetns:
		return 0
	case isLink(kind), kind == KindTable:
		return 1
	}
	return 2
}

func isLink(kind Kind) bool { return kind == KindBridge || kind == KindVXLAN || kind == KindVeth }

// base is what an object is to those that stand on it: any link is one by its name, as a pair's far end is.
func base(k Key) Key {
	if isLink(k.Kind) {
		return Key{Kind: KindVeth, NS: k.NS, Link: k.Link}
	}
	return k
}

// below lists what an object may stand on: its namespace, its link, its table.
func below(k Key) []Key {
	out := []Key{{Kind: KindNetns, NS: k.NS}}
	switch {
	case batched(k.Kind), k.Kind == KindConf:
		out = append(out, Key{Kind: KindVeth, NS: k.NS, Link: k.Link})
	case k.Kind == KindElement:
		out = append(out, Key{Kind: KindTable, NS: k.NS, Link: tablePart(k.Link)})
	}
	return out
}
