package agent

import (
	"fmt"
	"strings"

	"weft/agent/event"
	"weft/store/record"
)

// twinsOf returns the other hosts that have a host's name, as users know them. Names resolve and packets pass where two hosts have one; those who
// speak of them must take their IDs.
func twinsOf(p *record.Snapshot, h *record.Host) []*record.Host {
	var out []*record.Host
	for o := range p.Hosts() {
		if o.ID != h.ID && record.Fold(o.Name) == record.Fold(h.Name) {
			out = append(out, o)
		}
	}
	return out
}

// twinNote says which other hosts have a host's name; "" where none has.
func twinNote(p *record.Snapshot, h *record.Host) string {
	var others []string
	for _, o := range twinsOf(p, h) {
		others = append(others, fmt.Sprintf("%s at %s", record.ShortID(o.ID), o.VTEP))
	}
	if len(others) == 0 {
		return ""
	}
	return fmt.Sprintf("host %s has the name %s too: name one of them by its ID, or give it another name (weftd --name)", strings.Join(others, " and "), h.Name)
}

// tellTwins tells once of each host that has another one's name. It is called by one goroutine only.
func (a *Agent) tellTwins(p *record.Snapshot) {
	now := map[record.HostID]string{}
	for h := range p.Hosts() {
		note := twinNote(p, h)
		if note == "" {
			continue
		}
		now[h.ID] = h.Name
		if a.twins[h.ID] != h.Name {
			a.events.Emit(event.Event{Type: event.Host, Action: event.Ambiguous, ID: string(h.ID), Attributes: map[string]string{
				"name": h.Name, "host": string(h.ID), "host_name": h.Name, "reason": note,
			}})
		}
	}
	a.twins = now
}
