package doctor

import (
	"fmt"
	"time"
)

// Store is how this host stands with the cluster's store.
type Store struct {
	Name    string // without secrets
	Away    error  // it does not answer; nil: it does
	Joined  bool   // this host is a member of its cluster
	Why     error  // why it is not; nil: not known yet
	Doubt   error  // why what the store says is not believed
	Latency time.Duration
	Bound   time.Duration // within which a host that died is noticed
	Moved   string        // what the options call the store, where the records are elsewhere now
}

// slowStore is the latency from which on attaching is felt to be slow: each attach waits for some answers.
const slowStore = 100 * time.Millisecond

// Check tells whether the store can be worked with.
func (s Store) Check() Check {
	c := Check{Name: "store", Status: Error}
	switch {
	case s.Away != nil:
		c.Finding = fmt.Sprintf("%s does not answer: %v; what exists goes on, nothing new can be claimed", s.Name, s.Away)
		c.Remedy = "see that its servers run and that this host reaches them; `weft store status` shows more"
	case !s.Joined && s.Why != nil:
		c.Finding = fmt.Sprintf("%s answers, and this host cannot join its cluster: %v", s.Name, s.Why)
		c.Remedy = "do what the reason says; the agent tries again by itself"
	case !s.Joined:
		c.Finding = s.Name + " answers, and this host has not joined its cluster yet"
		c.Remedy = "ask again in a moment; if it stays so, see the agent's log"
	case s.Doubt != nil:
		c.Finding = fmt.Sprintf("%s is not believed: %v", s.Name, s.Doubt)
		c.Remedy = "put a backup back with `weft restore`, or what the hosts know with `weft store reseed`"
	case s.Moved != "":
		c.Status = Warning
		c.Finding = fmt.Sprintf("the records have moved from %s to %s", s.Moved, s.Name)
		c.Remedy = "change --cluster-store of this host's agent to " + s.Name
	case s.Latency > slowStore:
		c.Status = Warning
		c.Finding = fmt.Sprintf("%s takes %s to answer: attaching is slow", s.Name, s.Latency.Round(time.Millisecond))
		c.Remedy = "see how busy its servers and their disks are, and how far away they are"
	default:
		c.Status = OK
		c.Finding = fmt.Sprintf("%s answers in %s; a host that dies is noticed within %s", s.Name, s.Latency.Round(10*time.Microsecond), s.Bound)
	}
	return c
}
