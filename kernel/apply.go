package kernel

import (
	"context"
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Apply runs the steps, neighbours together where the kernel takes them so (see groups).
func (k *Kernel) Apply(ctx context.Context, ops []Op) []error {
	s := k.begin()
	defer s.end()
	errs := make([]error, len(ops))
	ends := ending(ops)
	for _, g := range groups(ops) {
		part := make([]Op, 0, len(g))
		at := make([]int, 0, len(g))
		for _, i := range g {
			if !ends[ops[i].Obj.NS] || !goesWithNetns(ops[i]) {
				part, at = append(part, ops[i]), append(at, i)
			}
		}
		if len(part) == 0 {
			continue
		}
		var done []error
		if err := ctx.Err(); err != nil {
			done = each(part, err)
		} else {
			done = s.group(ctx, part)
		}
		for j, err := range done {
			errs[at[j]] = err
		}
	}
	return errs
}

// ending lists the namespaces that end with these steps.
func ending(ops []Op) map[string]bool {
	ends := map[string]bool{}
	for _, o := range ops {
		if o.Verb == Del && o.Obj.Kind == KindNetns {
			ends[o.Obj.NS] = true
		}
	}
	for _, o := range ops {
		if o.Verb == Put {
			delete(ends, o.Obj.NS)
		}
	}
	return ends
}

// goesWithNetns tells deletes that need no work where the namespace goes. A namespace's end is not waited for: a VXLAN device's VNI and a
// pair's far end have to be gone at once.
func goesWithNetns(o Op) bool {
	return o.Verb == Del && o.Obj.Kind != KindNetns && o.Obj.Kind != KindVXLAN && o.Obj.Kind != KindVeth
}

func batched(kind Kind) bool { return kind >= KindAddr && kind <= KindFDB }

// deleteChunk is how many links are deleted under one hold of RTNL. Deleting 50 takes 0.9 s one by one, 0.25 s in fours and 0.03 s at once;
// an attach beside that waits (nine of ten) at most 1.9, 3 and 17 ms.
const deleteChunk = 4

// groups divides steps into what goes to the kernel together, in order. Addresses, routes and entries that follow each other depend on
// nothing in other namespaces: each namespace's are one group, but for deletes that follow puts: a route is replaced before it would be deleted.
func groups(ops []Op) [][]int {
	var out [][]int
	for from := 0; from < len(ops); {
		to := from
		byNS := map[string]int{} // where in out
		for ; to < len(ops) && batched(ops[to].Obj.Kind); to++ {
			ns := ops[to].Obj.NS
			if at, ok := byNS[ns]; !ok || ops[out[at][0]].Verb != ops[to].Verb {
				byNS[ns] = len(out)
				out = append(out, nil)
			}
			out[byNS[ns]] = append(out[byNS[ns]], to)
		}
		if to > from {
			from = to
			continue
		}
		g := []int{from}
		for to = from + 1; to < len(ops) && together(ops[from], ops[to], len(g)); to++ {
			g = append(g, to)
		}
		out = append(out, g)
		from = to
	}
	return out
}

// together tells whether a step joins the group of n that a begins.
func together(a, b Op, n int) bool {
	if a.Obj.NS != b.Obj.NS || a.Obj.Kind != b.Obj.Kind || a.Verb != b.Verb {
		return false
	}
	switch a.Obj.Kind {
	case KindElement:
		return a.Obj.Link == b.Obj.Link
	case KindVeth:
		return a.Verb == Del && n < deleteChunk
	}
	return a.Obj.Kind == KindSysctl || a.Obj.Kind == KindConf
}

// each is one error for each of some steps.
func each(ops []Op, err error) []error {
	errs := make([]error, len(ops))
	for i := range errs {
		errs[i] = err
	}
	return errs
}

func (s *session) group(ctx context.Context, ops []Op) []error {
	o := ops[0]
	var errs []error
	var err error
	switch put := o.Verb == Put; {
	case o.Obj.Kind == KindNetns:
		err = s.k.netns(o)
	case o.Obj.Kind == KindVXLAN && put:
		err = s.putVXLAN(ctx, o.Obj.Key, o.Obj.Spec.(VXLAN))
	case o.Obj.Kind == KindVeth && put:
		err = s.putVeth(ctx, o.Obj.Key, o.Obj.Spec.(Veth))
	case o.Obj.Kind == KindBridge && put:
		put := putBridge
		if o.Obj.NS == HostNS {
			put = putHostBridge
		}
		err = s.with(o.Obj.NS, func(c *conn) error { return put(ctx, c, o.Obj.Link, o.Obj.Spec.(Bridge)) })
	case (o.Obj.Kind == KindSysctl || o.Obj.Kind == KindConf) && !put:
	case o.Obj.Kind == KindBridge, o.Obj.Kind == KindVXLAN, o.Obj.Kind == KindVeth:
		err = s.at(place{o.Obj.NS, true}, func(c *conn) (err error) {
			errs, err = s.deleteLinks(ctx, c, ops)
			return err
		})
	default:
		if o.Obj.Kind == KindConf {
			s.k.learnConf(ops)
		}
		err = s.with(o.Obj.NS, func(c *conn) error {
			errs = change(ctx, c, ops)
			return nil
		})
	}
	if err != nil && o.Verb == Del && errors.Is(err, os.ErrNotExist) {
		err = nil // its namespace is gone, and it with that
	}
	if errs == nil || err != nil {
		return each(ops, err)
	}
	return errs
}

// deleteLinks deletes links of one namespace; in the host's, those that are weft's own alone.
func (s *session) deleteLinks(ctx context.Context, c *conn, ops []Op) ([]error, error) {
	if ops[0].Obj.NS != HostNS {
		return deleteLinks(c, ops), nil
	}
	own, err := hostOwn(ctx, c, ops)
	if err != nil || len(own) == 0 {
		return each(ops, err), nil
	}
	err = errors.Join(deleteLinks(c, own)...)
	return each(ops, err), nil
}

// change does steps of one namespace that are no links.
func change(ctx context.Context, c *conn, ops []Op) []error {
	switch ops[0].Obj.Kind {
	case KindSysctl:
		return writeSysctls(c, ops)
	case KindConf:
		return writeConf(c, ops)
	case KindTable:
		return []error{applyTable(ctx, c, ops[0])}
	case KindElement:
		return applyElements(c, ops)
	case KindGuest:
		return []error{applyGuest(ctx, c, ops[0])}
	}
	return entries(ctx, c, ops)
}

func (k *Kernel) netns(o Op) error {
	if o.Verb == Put {
		return MakeNetns(o.Obj.NS)
	}
	k.forget(o.Obj.NS)
	return RemoveNetns(o.Obj.NS)
}

// gone tells errors of deletes that find nothing.
func gone(err error) bool {
	for _, e := range []syscall.Errno{unix.ENODEV, unix.ENOENT, unix.ESRCH, unix.EADDRNOTAVAIL, unix.ENXIO} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
