// Package firewalld keeps the host's firewalld from rejecting what weft's own rules let pass: it puts the links of weft's networks into the zone
// trusted, at run time only. firewalld's tables cannot be added to (it makes them anew with every reload), and an accept in another table does not
// undo its reject. Bindings of interfaces are what it offers to others, by D-Bus; NetworkManager and Docker use the same.
//
// It stands beside the loop: the loop tells it the links, and never waits for it.
package firewalld

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"
)

// Zone is where weft's links are put: firewalld accepts what comes by them, and what weft's own tables drop stays dropped.
const Zone = "trusted"

const (
	service   = "org.fedoraproject.FirewallD1"
	object    = dbus.ObjectPath("/org/fedoraproject/FirewallD1")
	zones     = service + ".zone"
	callWait  = 5 * time.Second
	lookAgain = time.Minute      // where there is no bus
	retry     = 10 * time.Second // after a failure
)

// Config of a Keeper.
type Config struct {
	Log *slog.Logger
	Bus string // address of the D-Bus that firewalld is on; "" is the system's
	// Here tells whether the firewalld of that bus has its rules in this host's namespace; nil: it has.
	Here func(context.Context) bool
}

// Keeper keeps links in the zone, through firewalld's restarts and reloads.
type Keeper struct {
	cfg  Config
	wake chan struct{} // size 1

	mu    sync.Mutex // guards what follows
	links []string
	note  string

	added map[string]bool // put there by this Keeper; used by Run alone
}

// New makes a Keeper that has nothing to keep yet.
func New(cfg Config) *Keeper {
	return &Keeper{cfg: cfg, wake: make(chan struct{}, 1), added: map[string]bool{}}
}

// Keep says which links are to be in the zone; those that were named before and are no longer leave it.
func (k *Keeper) Keep(links []string) {
	k.mu.Lock()
	same := slices.Equal(k.links, links)
	k.links = slices.Clone(links)
	k.mu.Unlock()
	if !same {
		k.Look()
	}
}

// Look makes Run look at once: firewalld may have come or changed.
func (k *Keeper) Look() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// Note is what is in the way, "" if nothing is.
func (k *Keeper) Note() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.note
}

// Run keeps the links in the zone until ctx ends. They stay there: networks outlive their agent.
func (k *Keeper) Run(ctx context.Context) {
	for ctx.Err() == nil {
		wait := lookAgain
		if conn, err := k.connect(ctx); err == nil {
			wait = k.serve(ctx, conn)
			_ = conn.Close()
		}
		select {
		case <-ctx.Done():
		case <-k.wake:
		case <-time.After(wait):
		}
	}
}

func (k *Keeper) connect(ctx context.Context) (*dbus.Conn, error) {
	if k.cfg.Bus == "" {
		return dbus.ConnectSystemBus(dbus.WithContext(ctx))
	}
	return dbus.Connect(k.cfg.Bus, dbus.WithContext(ctx))
}

// serve keeps the links as long as the bus is there, and returns how long to wait before it is looked for again.
func (k *Keeper) serve(ctx context.Context, conn *dbus.Conn) time.Duration {
	signals := make(chan *dbus.Signal, 64)
	conn.Signal(signals)
	err := errors.Join(
		conn.AddMatchSignal(dbus.WithMatchInterface("org.freedesktop.DBus"), dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, service)),
		conn.AddMatchSignal(dbus.WithMatchInterface(service), dbus.WithMatchMember("Reloaded")),
		conn.AddMatchSignal(dbus.WithMatchInterface(zones), dbus.WithMatchMember("InterfaceRemoved")),
	)
	if err != nil {
		return retry
	}
	for {
		var again <-chan time.Time
		if err := k.keep(ctx, conn); err != nil && ctx.Err() == nil {
			k.cfg.Log.Warn("cannot tell firewalld of weft's interfaces; trying again", "wait", retry, "error", err)
			again = time.After(retry)
		}
		select {
		case <-ctx.Done():
			return 0
		case <-conn.Context().Done():
			return retry
		case <-again:
		case <-k.wake:
		case s := <-signals:
			if s == nil {
				return retry
			}
			forget(k.added, s)
		}
	}
}

// forget notes what has left the zone by another's hand: a firewalld that was started anew knows of none.
func forget(added map[string]bool, s *dbus.Signal) {
	if s.Name == "org.freedesktop.DBus.NameOwnerChanged" || s.Name == service+".Reloaded" {
		clear(added)
	}
	if s.Name == zones+".InterfaceRemoved" && len(s.Body) == 2 {
		if link, ok := s.Body[1].(string); ok {
			delete(added, link)
		}
	}
}

// keep brings the zone in line, where there is a firewalld.
func (k *Keeper) keep(ctx context.Context, conn *dbus.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, callWait)
	defer cancel()
	var running bool
	if err := conn.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.NameHasOwner", 0, service).Store(&running); err != nil {
		return fmt.Errorf("look for firewalld: %w", err)
	}
	if !running || k.cfg.Here != nil && !k.cfg.Here(ctx) {
		k.say("")
		return nil
	}
	k.mu.Lock()
	links := k.links
	k.mu.Unlock()
	fw := conn.Object(service, object)
	note := ""
	for _, link := range links {
		var zone string
		if err := fw.CallWithContext(ctx, zones+".getZoneOfInterface", 0, link).Store(&zone); err != nil {
			return fmt.Errorf("ask for the zone of %s: %w", link, err)
		}
		switch zone {
		case Zone:
			k.added[link] = true // in the last life
		case "":
			if err := fw.CallWithContext(ctx, zones+".addInterface", 0, Zone, link).Err; err != nil && !has(err, "ZONE_ALREADY_SET", "ALREADY_ENABLED") {
				return fmt.Errorf("add %s to the zone %s: %w", link, Zone, err)
			}
			k.added[link] = true
		default:
			note = fmt.Sprintf("firewalld has weft's interface %s in its zone %s, whose rules may reject what weft lets pass: "+
				"take it out there (firewall-cmd --zone=%s --remove-interface=%s)", link, zone, zone, link)
		}
	}
	k.say(note)
	for _, link := range slices.Sorted(maps.Keys(k.added)) {
		if slices.Contains(links, link) {
			continue
		}
		if err := fw.CallWithContext(ctx, zones+".removeInterface", 0, Zone, link).Err; err != nil && !has(err, "UNKNOWN_INTERFACE", "NOT_ENABLED", "ZONE_CONFLICT") {
			return fmt.Errorf("take %s out of the zone %s: %w", link, Zone, err)
		}
		delete(k.added, link)
	}
	return nil
}

func (k *Keeper) say(note string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.note = note
}

// has tells firewalld's errors: "CODE: text", in the error's body.
func has(err error, codes ...string) bool {
	var e dbus.Error
	if !errors.As(err, &e) {
		return false
	}
	for _, v := range e.Body {
		text, _ := v.(string)
		if code, _, _ := strings.Cut(text, ":"); slices.Contains(codes, code) {
			return true
		}
	}
	return false
}
