package kernel

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// entries puts and deletes addresses, routes, neighbours and forwarding entries of one namespace.
func entries(ctx context.Context, c *conn, ops []Op) []error {
	errs := make([]error, len(ops))
	all := make([]int, len(ops))
	for i := range all {
		all[i] = i
	}
	again := sendEntries(c, ops, all, errs, false)
	again = sendEntries(c, ops, again, errs, false) // links that had been made anew
	for _, i := range again {
		errs[i] = fmt.Errorf("interface %s: %w", ops[i].Obj.Link, unix.ENODEV)
	}
	var taken []int
	for i, err := range errs {
		if errors.Is(err, unix.EEXIST) && ops[i].Verb == Put {
			errs[i] = nil // an address is what its key says
			if ops[i].Obj.Kind == KindRoute {
				taken = append(taken, i)
			}
		}
	}
	if len(taken) > 0 {
		replaceRoutes(ctx, c, ops, taken, errs)
	}
	return errs
}

// sendEntries sends the steps at some indexes and returns those of them whose link is another by now.
func sendEntries(c *conn, ops []Op, which []int, errs []error, replace bool) (again []int) {
	var reqs []*nl.NetlinkRequest
	var at []int
	for _, i := range which {
		q, err := entryMsg(c, ops[i], replace)
		if err == nil {
			reqs, at = append(reqs, q), append(at, i)
		} else if ops[i].Verb == Put || !gone(err) {
			errs[i] = err
		}
	}
	for j, err := range c.batch(reqs, nil) {
		o := ops[at[j]]
		switch {
		case err == nil:
		case errors.Is(err, unix.ENODEV):
			delete(c.index, o.Obj.Link)
			again = append(again, at[j])
		case o.Verb == Del && gone(err):
		default:
			errs[at[j]] = err
		}
	}
	return again
}

func entryMsg(c *conn, o Op, replace bool) (*nl.NetlinkRequest, error) {
	if o.Obj.Kind == KindRule {
		return ruleMsg(o.Verb, o.Obj.Key)
	}
	index, err := c.link(o.Obj.Link)
	if err != nil {
		return nil, err
	}
	switch s := o.Obj.Spec; o.Obj.Kind {
	case KindAddr:
		return addrMsg(o.Verb, index, o.Obj.Key)
	case KindRoute:
		r, _ := s.(Route)
		return routeMsg(o.Verb, index, o.Obj.Key, r, replace)
	case KindNeigh:
		n, _ := s.(Neigh)
		return neighMsg(o.Verb, index, o.Obj.Key, n)
	case KindFDB:
		f, _ := s.(FDB)
		return fdbMsg(o.Verb, index, o.Obj.Key, f)
	}
	return nil, fmt.Errorf("no entry: %v", o)
}

// replaceRoutes brings routes in line whose prefix and metric have one already, if that is weft's own: replacing it in the first place
// would take a user's route away.
func replaceRoutes(ctx context.Context, c *conn, ops []Op, taken []int, errs []error) {
	there, err := ownRoutes(ctx, c)
	var change []int
	var old []Op
	for _, i := range taken {
		o := ops[i].Obj
		want := o.Spec.(Route)
		dst, table, _ := parseRouteDst(o.Dst)
		mine := false
		for _, r := range there {
			if r.dst != dst || r.table != table {
				continue
			}
			switch same := r.oif == c.index[o.Link]; {
			case r.Metric == want.Metric:
				if mine = true; !same || r.Route != want {
					change = append(change, i)
				}
			case same: // of an earlier metric
				old = append(old, Op{Del, Object{Key: o.Key, Spec: r.Route}})
			}
		}
		if !mine {
			errs[i] = errors.Join(err, fmt.Errorf("a route to %s is there already, and it is not weft's: remove it, or choose another subnet for the network: %w", o.Dst, unix.EEXIST))
		}
	}
	sendEntries(c, ops, change, errs, true)
	gone := make([]int, len(old))
	for i := range gone {
		gone[i] = i
	}
	sendEntries(c, old, gone, make([]error, len(old)), false)
}

// ownRoutes are those of protocol Proto in the main table and in weft's own.
func ownRoutes(ctx context.Context, c *conn) ([]routeInfo, error) {
	all, err := routes(ctx, c)
	return slices.DeleteFunc(all, func(r routeInfo) bool { return r.protocol != Proto }), err
}

// routes are those of the main table and of weft's own, of both families.
func routes(ctx context.Context, c *conn) ([]routeInfo, error) {
	var out []routeInfo
	for _, f := range families6 {
		q := nl.NewRtMsg()
		q.Family = f
		msgs, err := c.dumpFamily(ctx, unix.RTM_GETROUTE, f, q)
		if err != nil {
			return nil, err
		}
		for _, m := range msgs {
			if r, ok := parseRoute(m); ok {
				out = append(out, r)
			}
		}
	}
	return out, nil
}
