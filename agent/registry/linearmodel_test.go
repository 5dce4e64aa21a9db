package registry_test

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/anishathalye/porcupine"

	"weft/store/record"
)

// The specification that histories are checked against: what a cluster of one program, one thing at a time, would have answered.

// verb is what an operation asks for.
type verb string

const (
	toCreate  verb = "create"
	toRemove  verb = "remove"
	toAttach  verb = "attach"
	toDetach  verb = "detach"
	toReadNet verb = "read network"
	toReadAll verb = "read networks"
)

// ask is an operation's input.
type ask struct {
	verb verb
	net  record.NetworkID // of create: chosen before
	name string           // of the network, or of the endpoint
	what string           // its subnet, or its address
	ep   record.EndpointID
}

// answer is its output.
type answer struct {
	how     how
	vni     uint32            // of create
	holders map[string]string // of a read: who has what
}

// how is what came of an operation.
type how string

const (
	done        how = "done"
	nameTaken   how = "the name is taken"
	addrTaken   how = "the address is taken"
	notFound    how = "there is no such network"
	inUse       how = "it is in use"
	refused     how = "refused"
	outcomeless how = "unknown" // it may take effect at any later moment, or never
)

// state is what there is: "names/a" → endpoint. It is never changed.
type state map[string]string

func (s state) with(kv ...string) state {
	out := maps.Clone(s)
	if out == nil {
		out = state{}
	}
	for i := 0; i < len(kv); i += 2 {
		out[kv[i]] = kv[i+1]
	}
	return out
}

func (s state) without(owner string) state {
	out := maps.Clone(s)
	maps.DeleteFunc(out, func(_, v string) bool { return v == owner })
	return out
}

// taken tells whether a key has another owner.
func (s state) taken(key, owner string) bool {
	o, ok := s[key]
	return ok && o != owner
}

const there = "there" // the key of a network that exists, in the history of its endpoints

// effect returns the state after an operation that takes effect; false where it cannot.
func effect(s state, q ask, a answer) (state, bool) {
	switch q.verb {
	case toCreate:
		return created(s, q, a)
	case toRemove:
		if q.what == "" { // in the history of all networks
			return s.without(string(q.net)), true
		}
		return state{}, len(s) <= 1 // nothing but the network itself; or another has finished the same removal, which is as good
	case toAttach:
		_, exists := s[there]
		if !exists || s.taken("name "+q.name, string(q.ep)) || s.taken("addr "+q.what, string(q.ep)) {
			return nil, false
		}
		return s.with("name "+q.name, string(q.ep), "addr "+q.what, string(q.ep)), true
	case toDetach:
		return s.without(string(q.ep)), true
	}
	return nil, false
}

func created(s state, q ask, a answer) (state, bool) {
	if q.what == "" { // in the history of its endpoints
		return s.with(there, ""), true
	}
	kv := []string{"name " + q.name, string(q.net), "pool " + q.what, string(q.net)}
	if a.vni != 0 {
		kv = append(kv, fmt.Sprint("vni ", a.vni), string(q.net))
	}
	for i := 0; i < len(kv); i += 2 {
		if s.taken(kv[i], kv[i+1]) {
			return nil, false
		}
	}
	return s.with(kv...), true
}

// step returns the states that an operation may lead to.
func step(s state, q ask, a answer) []state {
	next, possible := effect(s, q, a)
	unchanged := func(ok bool) []state {
		if !ok {
			return nil
		}
		return []state{s}
	}
	if a.how == refused || q.verb == toRemove && q.what == "" && (a.how == notFound || a.how == inUse) {
		return []state{s}
	}
	switch a.how {
	case outcomeless:
		if possible {
			return []state{s, next}
		}
		return []state{s}
	case nameTaken:
		return unchanged(s.taken("name "+q.name, string(q.ep)))
	case addrTaken:
		return unchanged(s.taken("addr "+q.what, string(q.ep)))
	case notFound:
		_, exists := s[there]
		return unchanged(!exists)
	case inUse:
		return unchanged(len(s) > 1)
	}
	if q.verb == toReadNet || q.verb == toReadAll {
		return unchanged(shows(s, a.holders, q.verb == toReadAll))
	}
	if !possible {
		return nil
	}
	return []state{next}
}

// shows tells whether a read has shown just what there is. Of a network whose creator never heard its VNI, any is right.
func shows(s state, holders map[string]string, all bool) bool {
	for k, v := range s {
		if k != there && holders[k] != v {
			return false
		}
	}
	for k, v := range holders {
		if have, ok := s[k]; ok && have != v || !ok && !(all && strings.HasPrefix(k, "vni ")) {
			return false
		}
	}
	return true
}

var model = porcupine.NondeterministicModel{
	Init: func() []any { return []any{state{}} },
	Step: func(s, q, a any) []any {
		var out []any
		for _, n := range step(s.(state), q.(ask), a.(answer)) {
			out = append(out, n)
		}
		return out
	},
	Equal: func(a, b any) bool { return maps.Equal(a.(state), b.(state)) },
}

// linearizable checks one history: that of all networks, and that of each one's endpoints, for itself.
func linearizable(ops []porcupine.Operation) (of string, res porcupine.CheckResult) {
	parts := map[string][]porcupine.Operation{}
	for _, o := range ops {
		q := o.Input.(ask)
		if q.verb == toCreate || q.verb == toRemove || q.verb == toReadAll {
			parts[everyNetwork] = append(parts[everyNetwork], part(o, q.verb != toRemove))
		}
		if q.verb != toReadAll {
			parts["network "+string(q.net)] = append(parts["network "+string(q.net)], part(o, q.verb != toCreate))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(parts)) {
		if res = porcupine.CheckOperationsTimeout(model.ToModel(), parts[name], checkPatience); res != porcupine.Ok {
			return name, res
		}
	}
	return "", porcupine.Ok
}

// part is an operation as one of the two histories that it belongs to has it: what is without meaning there is left out.
func part(o porcupine.Operation, whole bool) porcupine.Operation {
	q := o.Input.(ask)
	switch {
	case q.verb == toCreate && !whole, q.verb == toRemove && whole:
		q.what = map[verb]string{toRemove: "endpoints"}[q.verb]
	}
	o.Input = q
	return o
}

// everyNetwork names the history of the networks themselves.
const everyNetwork = "all networks"

// never is the end of an operation whose outcome nobody knows.
const never = math.MaxInt64
