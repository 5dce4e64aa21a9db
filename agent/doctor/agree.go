package doctor

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"weft/kernel"
	"weft/store/record"
)

// Records is what an inspection of the whole store has found.
type Records struct {
	Err      error // it could not be read
	Findings []record.Finding
	Keys     int
	// Differ names endpoints of this host whose records are not what its sandboxes want, and releases that the store has not heard of.
	Differ []string
	Quick  bool // the store was not inspected
}

// Check tells whether the store's records are sound, and are what this host wants them to be.
func (r Records) Check() []Check {
	own := Check{Name: "records", Status: OK, Finding: "the records of this host's endpoints are what its sandboxes want"}
	if len(r.Differ) > 0 {
		own.Status = Error
		own.Finding = fmt.Sprintf("%s not what this host's sandboxes want: %s", are(len(r.Differ), "record"), some(r.Differ))
		own.Remedy = "the agent corrects them each half minute: where this stays, its log says why it cannot"
	}
	if r.Quick {
		return []Check{own}
	}
	all := Check{Name: "records", Subject: "store", Status: OK, Finding: counted(r.Keys, "key") + " in the store, all sound"}
	switch {
	case r.Err != nil:
		all.Status, all.Finding, all.Remedy = Skipped, fmt.Sprintf("the store's records could not be read: %v", r.Err), "see check store"
	case len(r.Findings) > 0:
		f := r.Findings[0]
		all.Status = Error
		all.Finding = fmt.Sprintf("%s wrong in the store: %s: %s", are(len(r.Findings), "thing"), f.Key, f.Wrong)
		all.Remedy = f.Do
		if len(r.Findings) > 1 {
			all.Remedy += "; `weft store check` shows the others"
		}
	}
	return []Check{own, all}
}

// Kernel is what the kernel has and should not, or has not and should, at each of several looks.
type Kernel struct {
	Err     error
	Part    string // a network's name; "" for what is of the host itself
	Ops     []kernel.Op
	Objects int    // that should be there
	Trouble string // what the kernel has refused the agent last
}

// Check tells whether one part of the kernel's state follows from the records.
func (k Kernel) Check() Check {
	c := Check{Name: "kernel", Subject: k.Part, Status: OK, Finding: counted(k.Objects, "object") + " as they should be"}
	var missing, surplus []string
	for _, o := range k.Ops {
		if o.Verb == kernel.Put {
			missing = append(missing, o.Obj.String())
		} else {
			surplus = append(surplus, o.Obj.String())
		}
	}
	switch {
	case k.Err != nil:
		c.Status, c.Finding = Error, fmt.Sprintf("the kernel's state cannot be read: %v", k.Err)
		c.Remedy = "see the agent's log; a restart of weftd interrupts no traffic"
	case len(k.Ops) > 0:
		var what []string
		if len(missing) > 0 {
			what = append(what, fmt.Sprintf("%s missing or changed: %s", are(len(missing), "object"), some(missing)))
		}
		if len(surplus) > 0 {
			what = append(what, fmt.Sprintf("%s there that nobody wants: %s", are(len(surplus), "object"), some(surplus)))
		}
		c.Status, c.Finding = Error, strings.Join(what, "; ")
		if k.Trouble != "" {
			c.Finding += "; the kernel says: " + k.Trouble
		}
		c.Remedy = "find out what takes it away again and again: another firewall or network manager, a script; `nft monitor` and `ip monitor` show it"
	}
	return c
}

// Names is what the resolvers of this host's sandboxes answer.
type Names struct {
	Network string
	Err     error    // no resolver of this network's could be asked
	Wrong   []string // answers that differ from the records, in words
	Asked   int      // names
	Silent  []string // sandboxes whose resolver does not answer
}

// Check tells whether names follow from the records.
func (n Names) Check() Check {
	c := Check{Name: "names", Subject: n.Network, Status: OK, Finding: counted(n.Asked, "name") + " answered as recorded"}
	switch {
	case len(n.Silent) > 0:
		c.Status = Error
		c.Finding = fmt.Sprintf("no answer from the resolver of %s", some(n.Silent))
		c.Remedy = "see that nothing in the sandbox takes port 53 of 127.0.0.11, or drops packets to it; a restart of weftd opens the resolvers anew"
	case len(n.Wrong) > 0:
		c.Status = Error
		c.Finding = fmt.Sprintf("%s answered otherwise than recorded: %s", counted(len(n.Wrong), "name"), some(n.Wrong))
		c.Remedy = "a restart of weftd interrupts no traffic and reads all records again; please report it with the agent's log"
	case n.Err != nil:
		c.Status, c.Finding = Skipped, n.Err.Error()
	}
	return c
}

// are says that some things are something.
func are(n int, what string) string {
	if n == 1 {
		return "1 " + what + " is"
	}
	return fmt.Sprintf("%d %ss are", n, what)
}

// Staying returns what is in both lists, by what names each thing: what was seen twice was not just on its way.
func Staying[T any](before, now []T, name func(T) string) []T {
	return slices.DeleteFunc(slices.Clone(now), func(x T) bool {
		return !slices.ContainsFunc(before, func(o T) bool { return name(o) == name(x) })
	})
}

// WrongAnswer tells what is wrong with a resolver's answer for an endpoint's name: addrs are those of its record, answered whether it is to be answered with; "" if
// nothing is. More addresses than those may belong to others of that name.
func WrongAnswer(name string, addrs []netip.Addr, answered bool, got []netip.Addr) string {
	for _, a := range addrs {
		switch has := slices.Contains(got, a); {
		case answered && !has:
			return fmt.Sprintf("%s is %s, and is not answered so", name, a)
		case !answered && has:
			return fmt.Sprintf("%s is answered with %s, which is not to be reached", name, a)
		}
	}
	return ""
}
