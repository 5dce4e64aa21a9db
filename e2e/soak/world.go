package main

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
)

// world is what there is to be. Choosing from it and changing it has to do with no host: the same seed makes the same choices.
type world struct {
	hosts    int
	nets     map[string]bool // that come and go
	boxes    map[string]*box // that come and go
	made     int             // names given
	away     map[int]bool    // hosts whose agents do not answer
	cut      map[int]bool    // hosts that do not reach the store
	storeOut bool
}

// box is a sandbox.
type box struct {
	name    string
	host    int
	running bool
	nets    map[string]bool
	port    int // published on its host; 0: none
}

// steadyNet is the network of those sandboxes that stay. Others come into it and go.
const steadyNet = "steady"

// most is how many sandboxes there are at a time, and how many networks that come and go.
const (
	mostBoxes = 12
	mostNets  = 6
	firstPort = 20000
	ports     = 2000
)

func newWorld(hosts int) *world {
	return &world{hosts: hosts, nets: map[string]bool{}, boxes: map[string]*box{}, away: map[int]bool{}, cut: map[int]bool{}}
}

// verb is what can be done.
type verb string

const (
	doRun        verb = "run"
	doStop       verb = "stop"
	doStart      verb = "start"
	doRestart    verb = "restart"
	doRemove     verb = "rm"
	doConnect    verb = "connect"
	doDisconnect verb = "disconnect"
	doCreate     verb = "network create"
	doDrop       verb = "network rm"
)

// action is one thing to do, on a host.
type action struct {
	verb verb
	host int
	box  string
	nets []string
	port int
}

func (a action) String() string {
	s := fmt.Sprintf("host%d: %s", a.host+1, a.verb)
	if a.box != "" {
		s += " " + a.box
	}
	for _, n := range a.nets {
		s += " " + n
	}
	if a.port != 0 {
		s += fmt.Sprintf(" -p %d", a.port)
	}
	return s
}

// claims tells whether it takes something that other hosts must agree to.
func (a action) claims() bool {
	return a.verb != doStop && a.verb != doRemove && a.verb != doDisconnect
}

// choose returns what to do next; ok is false where nothing can be done now.
func (w *world) choose(r *rand.Rand) (_ action, ok bool) {
	can := w.possible(r)
	if len(can) == 0 {
		return action{}, false
	}
	verbs := slices.Sorted(maps.Keys(can))
	v := verbs[r.IntN(len(verbs))]
	if len(w.boxes) < mostBoxes/2 && len(can[doRun]) > 0 && r.IntN(2) == 0 {
		v = doRun
	}
	return can[v][r.IntN(len(can[v]))], true
}

// possible are the actions that can be done now, by verb, in an order that does not depend on chance.
func (w *world) possible(r *rand.Rand) map[verb][]action {
	out := map[verb][]action{}
	add := func(a action) {
		if !w.away[a.host] && (!a.claims() || !w.storeOut && !w.cut[a.host]) {
			out[a.verb] = append(out[a.verb], a)
		}
	}
	h := r.IntN(w.hosts)
	if len(w.boxes) < mostBoxes {
		a := action{verb: doRun, host: h, box: fmt.Sprintf("c%d", w.made), nets: w.someNets(r)}
		if r.IntN(3) == 0 {
			a.port = firstPort + w.made%ports
		}
		add(a)
	}
	if len(w.nets) < mostNets {
		add(action{verb: doCreate, host: h, nets: []string{fmt.Sprintf("n%d", w.made)}})
	}
	for _, n := range slices.Sorted(maps.Keys(w.nets)) {
		if !w.used(n) {
			add(action{verb: doDrop, host: h, nets: []string{n}})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(w.boxes)) {
		w.doTo(w.boxes[name], add)
	}
	return out
}

// doTo adds what can be done to a sandbox.
func (w *world) doTo(b *box, add func(action)) {
	add(action{verb: doRemove, host: b.host, box: b.name})
	if !b.running {
		add(action{verb: doStart, host: b.host, box: b.name})
		return
	}
	add(action{verb: doStop, host: b.host, box: b.name})
	add(action{verb: doRestart, host: b.host, box: b.name})
	for _, n := range append(slices.Sorted(maps.Keys(w.nets)), steadyNet) {
		switch {
		case !b.nets[n] && len(b.nets) < 2:
			add(action{verb: doConnect, host: b.host, box: b.name, nets: []string{n}})
		case b.nets[n] && len(b.nets) > 1:
			add(action{verb: doDisconnect, host: b.host, box: b.name, nets: []string{n}})
		}
	}
}

// someNets are one or two networks for a new sandbox.
func (w *world) someNets(r *rand.Rand) []string {
	all := append(slices.Sorted(maps.Keys(w.nets)), steadyNet)
	r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all[:min(len(all), 1+r.IntN(2))]
}

func (w *world) used(net string) bool {
	for _, b := range w.boxes {
		if b.nets[net] {
			return true
		}
	}
	return false
}

// done makes the world what it is after an action that has succeeded.
func (w *world) done(a action) {
	b := w.boxes[a.box]
	switch a.verb {
	case doRun:
		w.made++
		b = &box{name: a.box, host: a.host, running: true, nets: map[string]bool{}, port: a.port}
		for _, n := range a.nets {
			b.nets[n] = true
		}
		w.boxes[a.box] = b
	case doCreate:
		w.made++
		w.nets[a.nets[0]] = true
	case doDrop:
		delete(w.nets, a.nets[0])
	case doStop:
		b.running = false
	case doStart, doRestart:
		b.running = true
	case doRemove:
		delete(w.boxes, a.box)
	case doConnect:
		b.nets[a.nets[0]] = true
	case doDisconnect:
		delete(b.nets, a.nets[0])
	}
}

// powerLost is what the loss of power does to a host: what has no restart policy is down.
func (w *world) powerLost(host int) {
	for _, b := range w.boxes {
		if b.host == host {
			b.running = false
		}
	}
}

// clearing is how all that comes and goes is taken away.
func (w *world) clearing() []action {
	var out []action
	for _, name := range slices.Sorted(maps.Keys(w.boxes)) {
		out = append(out, action{verb: doRemove, host: w.boxes[name].host, box: name})
	}
	for _, n := range slices.Sorted(maps.Keys(w.nets)) {
		out = append(out, action{verb: doDrop, nets: []string{n}})
	}
	return out
}

// faultKind is what happens to a cluster.
type faultKind string

const (
	agentKilled faultKind = "agent killed"
	powerLost   faultKind = "power lost"
	storeGone   faultKind = "store gone"
	cableCut    faultKind = "cable cut"
	rulesGone   faultKind = "firewall flushed"
)

var faultKinds = []faultKind{agentKilled, powerLost, storeGone, cableCut, rulesGone}

// fault is one of those, for a while, on a host if it is of one, and with some actions meanwhile.
type fault struct {
	kind  faultKind
	host  int
	tenth int // seconds/10 that it lasts, at least
	acts  int
}

func (f fault) String() string {
	s := fmt.Sprintf("%s for %d.%d s, %d actions meanwhile", f.kind, f.tenth/10, f.tenth%10, f.acts)
	if f.kind != storeGone {
		s = fmt.Sprintf("host%d: %s", f.host+1, s)
	}
	return s
}

// chooseFault returns what happens next. Only the last host loses its power: on the others are the sandboxes whose packets are counted without an end.
func (w *world) chooseFault(r *rand.Rand) fault {
	f := fault{kind: faultKinds[r.IntN(len(faultKinds))], host: r.IntN(w.hosts), tenth: r.IntN(40), acts: r.IntN(5)}
	if f.kind == powerLost {
		f.host = w.hosts - 1
	}
	return f
}

// begin and end say what cannot be done during a fault.
func (w *world) begin(f fault) {
	switch f.kind {
	case agentKilled:
		w.away[f.host] = true
	case powerLost:
		w.away[f.host] = true
		w.powerLost(f.host)
	case storeGone:
		w.storeOut = true
	case cableCut:
		w.cut[f.host] = true
	}
}

func (w *world) end(fault) { w.away, w.cut, w.storeOut = map[int]bool{}, map[int]bool{}, false }
