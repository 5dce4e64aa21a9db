package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"weft/bridge"
	"weft/kernel"
	"weft/overlay"
	"weft/port"
	"weft/store/follow"
	"weft/store/record"
)

// loop makes the kernel follow the picture and the host's sandboxes. One goroutine decides and applies what is quick; slow deletes go to the
// lane. Requests (an attach that waits) and dirty marks wake it.
//
// Its rule: what the kernel holds follows from the picture and the boxes, and from nothing else. It remembers what it has put there, and
// reads everything again each resyncEvery and after any error.
type loop struct {
	loopConfig
	requests chan request
	nudged   chan struct{} // size 1: what others answer has changed
	open     atomic.Bool   // begun, for others
	lane     *lane

	have    map[record.NetworkID]kernel.State // by the network that wants it; hostPart for what is for all
	shown   map[record.NetworkID]*record.Net  // the endpoints that have was rendered from
	balance map[record.NetworkID]string       // what balances in it
	here    map[record.NetworkID]bool         // the networks that the host's part was rendered for, with ports in the kernel or without
	leaving map[string]bool                   // what the objects in the lane hold, and no other can have yet
	waiting []request                         // until the lane is done
	early   []request                         // until all may be written
	begun   bool                              // ready has said yes once; before, only this host's own networks are looked at
	failed  map[record.NetworkID]failure
	fresh   bool // have is what the kernel has
	suspect suspicion
}

type loopConfig struct {
	log      *slog.Logger
	clock    Clock
	exec     kernel.Executor
	sight    sight
	settings func() overlay.Settings
	locals   func() map[record.NetworkID]presence
	answers  func(*record.Snapshot) func(record.HostID) bool
	ready    func() bool                              // false: nothing of the cluster's networks may be written yet; asked until it says yes once
	held     func(*record.Snapshot) bool              // the cluster's networks are to be left as they are, but for requests; nil: never
	applied  func(*record.Snapshot, map[string]error) // the picture that was brought to the kernel, and what failed, by network

	published func(*record.Snapshot) []bridge.Published
	watch     func(context.Context, chan<- []kernel.Change) error // nil: nobody else is there
	firewall  firewall                                            // nil: nobody else is there
}

// hostPart owns the objects that all networks share.
const hostPart record.NetworkID = ""

// Times of the loop.
const (
	resyncEvery = time.Minute
	firstRetry  = 50 * time.Millisecond
	lastRetry   = 10 * time.Second
)

type failure struct {
	err   error
	again time.Time
	wait  time.Duration
}

// request asks that a network be as its picture and boxes say now, and waits for it.
type request struct {
	network  record.NetworkID
	endpoint record.EndpointID // the port that is waited for; "" for all of the network
	turned   bool              // the port is there, and has become something else to its sandbox
	done     chan error        // size 1
	ports    *portChange       // of portsPart
}

func newLoop(cfg loopConfig) *loop {
	return &loop{
		loopConfig: cfg, requests: make(chan request), nudged: make(chan struct{}, 1), lane: newLane(cfg.exec, cfg.log, cfg.clock),
		have: map[record.NetworkID]kernel.State{}, shown: map[record.NetworkID]*record.Net{}, balance: map[record.NetworkID]string{}, leaving: map[string]bool{},
		failed: map[record.NetworkID]failure{},
	}
}

// do waits until the kernel has what the boxes and the picture want of a network now. With an endpoint it waits for that port alone.
func (l *loop) do(ctx context.Context, n record.NetworkID, ep record.EndpointID) error {
	return l.ask(ctx, request{network: n, endpoint: ep, done: make(chan error, 1)})
}

func (l *loop) ask(ctx context.Context, r request) error {
	select {
	case l.requests <- r:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// run is the one goroutine that decides. It ends with ctx, after the lane has.
func (l *loop) run(ctx context.Context) {
	var others sync.WaitGroup
	changes := make(chan []kernel.Change)
	others.Go(func() { l.lane.run(ctx) })
	if l.watch != nil {
		others.Go(func() { l.listen(ctx, changes) })
	}
	resync, retry := l.clock.After(resyncEvery), l.clock.After(0)
	for {
		var rs []request
		select {
		case <-ctx.Done():
			others.Wait()
			return
		case <-resync:
			l.fresh, resync = false, l.clock.After(resyncEvery)
		case cs := <-changes:
			l.neighbours(cs)
			if l.lost(cs) {
				l.suspect.raise(l.clock.Now())
			}
		case <-retry:
		case <-l.sight.global.Wake():
		case <-l.sight.local.Wake():
		case <-l.nudged:
		case <-l.lane.done:
			rs = l.afterLane()
		case r := <-l.requests:
			rs = l.gather(r)
		}
		l.fresh = !l.suspect.takeDue(l.clock.Now()) && l.fresh
		l.pass(ctx, rs)
		retry = l.clock.After(l.nextRetry())
	}
}

// gather takes the requests that wait already: one pass serves them all.
func (l *loop) gather(first request) []request {
	out := []request{first}
	for {
		select {
		case r := <-l.requests:
			out = append(out, r)
		default:
			return out
		}
	}
}

// afterLane lets those go on who had to wait for a delete.
func (l *loop) afterLane() []request {
	for _, o := range l.lane.takeFreed() {
		for _, r := range resources(o) {
			delete(l.leaving, r)
		}
	}
	for id, f := range l.failed {
		if errors.Is(f.err, errLeaving) {
			f.again = time.Time{}
			l.failed[id] = f
		}
	}
	rs := l.waiting
	l.waiting = nil
	return rs
}

// pass brings everything that is dirty in line, and answers the requests.
func (l *loop) pass(ctx context.Context, rs []request) {
	if !l.begun && l.ready() { // what was left alone until now is read
		l.begun, l.fresh = true, false
		l.open.Store(true)
	}
	rs, l.early = append(l.early, rs...), nil
	settings := l.settings()
	dirty, picture := l.sight.TakeDirty()
	v := newView(settings, picture, l.locals())
	if !l.begun {
		rs = l.ownAlone(v, rs)
	}
	v.answers, v.published = l.answers(picture), sync.OnceValue(func() []bridge.Published { return l.published(picture) })
	if !l.fresh {
		if l.readAll(ctx, v); l.fresh {
			dirty = follow.Dirty{} // nothing is left to do of it
		}
	}
	for _, r := range rs {
		err := l.serve(ctx, v, r)
		if errors.Is(err, errLeaving) {
			l.waiting = append(l.waiting, r)
			continue
		}
		r.done <- err
	}
	for _, id := range l.due(v, dirty) {
		_ = l.bringInLine(ctx, v, id, dirty.Nets[id]) // a failure is kept and tried again
	}
	failed := map[string]error{}
	for id, f := range l.failed {
		failed[string(id)] = f.err
	}
	l.applied(picture, failed)
}

// built tells whether a network has been brought to the kernel here.
func (l *loop) built(id record.NetworkID) bool { return len(l.have[id]) > 0 }

// due lists the networks to look at: those that changed, those that failed and may be tried again, those that began or ended here.
func (l *loop) due(v view, d follow.Dirty) []record.NetworkID {
	due := map[record.NetworkID]bool{hostPart: d.Meta || !l.built(hostPart) || !maps.Equal(v.here(), l.here)}
	for id := range v.locals {
		due[id] = d.Meta || !l.built(id) || l.balance[id] != v.balanceOf(id)
		due[hostPart] = due[hostPart] || !l.built(id) // its rules name what comes and goes
	}
	for id := range l.have {
		_, here := v.locals[id]
		gone := id != hostPart && id != portsPart && !here
		due[id], due[hostPart] = due[id] || gone, due[hostPart] || gone
	}
	for id := range d.Nets {
		_, here := v.locals[id]
		due[id] = due[id] || here
	}
	now := l.clock.Now()
	for id, f := range l.failed {
		due[id] = !now.Before(f.again)
	}
	held := l.held != nil && l.held(v.picture)
	maps.DeleteFunc(due, func(id record.NetworkID, yes bool) bool { return !yes || held && v.ofCluster(id) })
	return slices.Sorted(maps.Keys(due))
}

// servePort makes one port of a network that is there, or turns it.
func (l *loop) servePort(ctx context.Context, v view, r request, n overlay.Network, p port.Port) error {
	want, have := v.renderPort(n, p), l.have[r.network]
	if r.turned {
		return l.apply(ctx, r.network, kernel.Diff(want, routesOf(p, want, have)))
	}
	return l.apply(ctx, r.network, kernel.Missing(want, have))
}

// serve does what one request waits for. What cannot be done is tried once more on what the kernel has: somebody may have taken away, a moment ago, what
// it builds on.
func (l *loop) serve(ctx context.Context, v view, r request) error {
	if r.ports != nil {
		return l.servePorts(ctx, v, *r.ports)
	}
	err := l.serveQuick(ctx, v, r)
	if err == nil || errors.Is(err, errLeaving) || ctx.Err() != nil {
		return err
	}
	l.log.Debug("what was asked for could not be done; reading again what is there", "network", record.ShortID(r.network), "error", err)
	l.readAll(ctx, v)
	return l.serveWhole(ctx, v, r.network)
}

// serveQuick makes the one port where that is enough, else all of the network.
func (l *loop) serveQuick(ctx context.Context, v view, r request) error {
	n, ok := v.network(r.network)
	if r.endpoint != "" && ok && l.built(r.network) && n.Record.Open() {
		for _, p := range n.Ports {
			if p.Endpoint.ID == r.endpoint {
				return l.servePort(ctx, v, r, n, p)
			}
		}
	}
	return l.serveWhole(ctx, v, r.network)
}

// serveWhole makes all of a network, the rules that it relies on first.
func (l *loop) serveWhole(ctx context.Context, v view, id record.NetworkID) error {
	if _, ok := v.network(id); ok {
		if err := l.bringInLine(ctx, v, hostPart, follow.NetDirty{All: true}); err != nil {
			return err
		}
	}
	return l.bringInLine(ctx, v, id, follow.NetDirty{All: true})
}

// errLeaving says that something of the same key is still in the lane.
var errLeaving = errors.New("still being deleted")

// bringInLine makes one network, or the host's part, what it should be. A failure is kept with a back-off.
func (l *loop) bringInLine(ctx context.Context, v view, id record.NetworkID, d follow.NetDirty) error {
	want, have := kernel.State(nil), l.have[id]
	part := len(d.Endpoints) > 0 && !d.All && l.built(id) && l.failed[id].err == nil
	if part {
		want, have = v.changed(id, d.Endpoints, l.shown[id], have)
	} else {
		want = v.want(id)
	}
	if !l.begun && id == hostPart && len(want) == 0 { // the cluster's networks may need what is there
		return nil
	}
	ops := kernel.Diff(want, have)
	if !v.known(id) {
		ops = kernel.Missing(want, have)
	}
	err := l.apply(ctx, id, ops)
	if err != nil {
		return l.fail(id, err)
	}
	delete(l.failed, id)
	if id == hostPart {
		l.here = v.here()
	}
	if id == hostPart && l.firewall != nil {
		l.firewall.Keep(bridge.Links(want))
	}
	if !part && len(want) == 0 { // what no difference deletes (sysctls) has gone with its namespace
		delete(l.have, id)
		delete(l.shown, id)
		delete(l.balance, id)
	} else if net, ok := v.picture.Net(id); ok {
		l.shown[id], l.balance[id] = net, v.balanceOf(id)
	}
	return nil
}

func (l *loop) fail(id record.NetworkID, err error) error {
	f := l.failed[id]
	f.wait = min(max(2*f.wait, firstRetry), lastRetry)
	f.err, f.again = err, l.clock.Now().Add(f.wait)
	l.failed[id] = f
	if !errors.Is(err, errLeaving) {
		l.fresh = false
		l.log.Warn("the kernel is not as it should be; trying again", "network", record.ShortID(id), "wait", f.wait, "error", err)
	}
	return err
}

func (l *loop) nextRetry() time.Duration {
	next := resyncEvery
	for _, f := range l.failed {
		next = min(next, max(time.Millisecond, f.again.Sub(l.clock.Now())))
	}
	if !l.begun {
		next = firstRetry
	}
	return l.suspect.within(next, l.clock.Now())
}

// apply runs the quick steps, hands the slow ones to the lane, and notes what the kernel has now.
func (l *loop) apply(ctx context.Context, id record.NetworkID, ops []kernel.Op) error {
	have := l.have[id]
	if have == nil {
		have = kernel.State{}
		l.have[id] = have
	}
	var quick, slow []kernel.Op
	var blocked error
	for _, o := range ops {
		switch {
		case o.Verb == kernel.Del && slowToDelete(o.Obj):
			slow = append(slow, o)
			for _, r := range resources(o.Obj) {
				l.leaving[r] = true
			}
			continue
		case o.Verb == kernel.Put && slices.ContainsFunc(resources(o.Obj), func(r string) bool { return l.leaving[r] }):
			blocked = fmt.Errorf("%s: %w", o.Obj.Key, errLeaving)
		}
		quick = append(quick, o)
	}
	if len(slow) > 0 {
		for _, o := range slow {
			delete(have, o.Obj.Key)
		}
		defer l.lane.hand(slow) // after the entries of what goes
	}
	if blocked != nil {
		l.lane.hurry()
		return blocked
	}
	var errs []error
	var entries []kernel.Key
	for i, err := range l.exec.Apply(ctx, quick) {
		switch o := quick[i]; {
		case err != nil:
			errs = append(errs, fmt.Errorf("%s: %w", o, err))
		case o.Verb == kernel.Put:
			if have[o.Obj.Key] = o.Obj; o.Obj.Kind == kernel.KindFDB {
				entries = append(entries, o.Obj.Key)
			}
		default:
			delete(have, o.Obj.Key)
		}
	}
	if len(entries) > 0 {
		replaced(have, entries)
	}
	if len(errs) > 3 {
		errs = append(errs[:3], fmt.Errorf("and %d more", len(errs)-3))
	}
	return errors.Join(errs...)
}

// replaced takes out of have what the kernel has given up for the entries of local ports: a bridge has one entry for a hardware address,
// whatever its port. A sandbox here that took the address of one elsewhere, and lost the race for it, would leave that one without.
func replaced(have kernel.State, by []kernel.Key) {
	tunnels := map[string]string{} // the VXLAN device by its namespace
	for k := range have {
		if k.Kind == kernel.KindVXLAN {
			tunnels[k.NS] = k.Link
		}
	}
	for _, k := range by {
		if tunnel := tunnels[k.NS]; tunnel != k.Link {
			delete(have, kernel.Key{Kind: kernel.KindFDB, NS: k.NS, Link: tunnel, Dst: k.Dst})
		}
	}
}

// slowToDelete: links, namespaces and tables, each of which waits for the kernel's readers; and what guards a port, which must not go before it.
func slowToDelete(o kernel.Object) bool {
	switch o.Kind {
	case kernel.KindNetns, kernel.KindBridge, kernel.KindVXLAN, kernel.KindVeth, kernel.KindTable:
		return true
	}
	return bridge.Guards(o.Key)
}

// resources are what an object that is slow to delete has for itself until it is gone: its name, its VNI, the name of its far end. Other objects go
// at once.
func resources(o kernel.Object) []string {
	if !slowToDelete(o) {
		return nil
	}
	out := []string{o.Key.String()}
	if o.Holds != "" {
		out = append(out, o.Holds)
	}
	if v, ok := o.Spec.(kernel.Veth); ok {
		out = append(out, "far "+v.Peer.NS+" "+v.Peer.Name)
	}
	return out
}

// readAll reads the kernel and makes it what it should be, all networks at once: what is weft's own and nobody wants goes.
func (l *loop) readAll(ctx context.Context, v view) {
	var own []string
	var err error
	if l.begun { // else it is known only what the host's should have
		if own, err = l.exec.Namespaces(ctx); err != nil {
			_ = l.fail(hostPart, fmt.Errorf("list weft's network namespaces: %w", err))
			return
		}
	}
	found, err := l.exec.Read(ctx, v.spaces(own))
	if err != nil {
		_ = l.fail(hostPart, fmt.Errorf("read the kernel's state: %w", err))
		return
	}
	l.fresh = true
	for k := range found {
		if slowToDelete(found[k]) && l.leaving[k.String()] {
			delete(found, k)
		}
	}
	v.wants = map[record.NetworkID]kernel.State{}
	l.have = v.share(found)
	if l.begun {
		maps.Copy(l.have[hostPart], found) // nobody wants these: the host part's difference deletes them
	}
	_ = l.bringInLine(ctx, v, hostPart, follow.NetDirty{All: true})
	_ = l.bringInLine(ctx, v, portsPart, follow.NetDirty{All: true})
	for id := range v.locals {
		_ = l.bringInLine(ctx, v, id, follow.NetDirty{All: true})
	}
}
