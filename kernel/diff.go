package kernel

import "slices"

// Diff returns the steps that turn have into want: first the deletes that let go of something that a put takes, then puts, from what others
// stand on upwards, then the other deletes, downwards. have holds only what is weft's own, so what nobody wants goes; sysctls stay.
func Diff(want, have State) []Op {
	taken := map[string]bool{}
	for k, o := range want {
		if o.Holds != "" && have[k].Holds != o.Holds {
			taken[o.Holds] = true
		}
	}
	var first, last []Op
	puts := Missing(want, have)
	for k, h := range have {
		w, wanted := want[k]
		switch {
		case wanted && h.Holds != "" && h.Holds != w.Holds:
			first = append(first, Op{Del, h}) // two links may swap what they hold
		case wanted || k.Kind == KindSysctl:
		case h.Holds != "" && taken[h.Holds]:
			first = append(first, Op{Del, h})
		default:
			last = append(last, Op{Del, h})
		}
	}
	down := func(a, b Op) int { return b.Obj.Compare(a.Obj.Key) }
	slices.SortFunc(first, down)
	slices.SortFunc(last, down)
	return slices.Concat(first, puts, last)
}

// Missing returns the puts alone: what want has and have has not, or not so.
func Missing(want, have State) []Op {
	var puts []Op
	for k, o := range want {
		if h, ok := have[k]; !ok || h.Holds != o.Holds || !h.Spec.Equal(o.Spec) {
			puts = append(puts, Op{Put, o})
		}
	}
	slices.SortFunc(puts, func(a, b Op) int { return a.Obj.Compare(b.Obj.Key) })
	return puts
}
