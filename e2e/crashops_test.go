package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"weft/store"
	"weft/store/record"
)

// operation is what is cut short before and after each of its writes: commands, or what agents deal with by themselves. Given what before has made,
// it is begun again after the agent's return, and undo brings back what was before. Lines are of the weft command on the first host; those that
// begin with "host2: ", on the second.
type operation struct {
	before, do, undo []string
	again            string         // what the command says where it had been done already; "" if it succeeds
	count            int            // of hosts; 0: one
	victim           int            // whose agent is killed, counted from 0
	args             []string       // of the agents
	lose             func(*cutting) // what happens to the cluster before each time
	happen           func(*cutting) // what is cut short, where it is no command: it leaves all as it was
	heal             func(*cutting) // what ends that, once the agent is back
	midway           bool           // what was cut short is in order only when it has been asked for again
	slow             bool           // each time takes seconds: the agent is killed after each write only
}

// operations by what is cut short. All share networks web (overlay), two (overlay) and own (bridge), and begin without a sandbox.
var operations = map[string]operation{
	"network create, overlay": {do: lines("network create -d overlay new"), undo: lines("network rm new"), again: "already exists"},
	"network create, bridge":  {do: lines("network create new"), undo: lines("network rm new"), again: "already exists"},
	"network rm, overlay":     {before: lines("network create -d overlay --subnet 10.77.0.0/24 new"), do: lines("network rm new"), again: "not found"},
	"network rm, bridge":      {before: lines("network create --subnet 10.78.0.0/24 new"), do: lines("network rm new"), again: "not found"},
	"run":                     {do: lines("run -d --name a --network web sleep 1000"), undo: lines("rm -f a"), again: "already in use"},
	"run in two networks": {
		do:   lines("run -d --name a --network web --network two --network own -p 8088:80 --ip 10.1.0.40 --network-alias v,mode=vip sleep 1000"),
		undo: lines("rm -f a"), again: "already in use",
	},
	"connect":    {before: lines("run -d --name a --network own sleep 1000"), do: lines("network connect --alias v,mode=vip web a"), undo: lines("rm -f a"), again: "already exists"},
	"disconnect": {before: lines("run -d --name a --network web --network own sleep 1000"), do: lines("network disconnect web a"), undo: lines("rm -f a"), again: "not connected"},
	"stop":       {before: lines("run -d --name a --network web --network own -p 8088:80 sleep 1000"), do: lines("stop -t 0 a"), undo: lines("rm -f a")},
	"start":      {before: lines("run -d --name a --network web --ip 10.1.0.40 sleep 1000", "stop -t 0 a"), do: lines("start a"), undo: lines("rm -f a")},
	"restart":    {before: lines("run -d --name a --network web --network own sleep 1000"), do: lines("restart -t 0 a"), undo: lines("rm -f a")},
	"rm -f":      {before: lines("run -d --name a --network web --network own -p 8088:80 --network-alias v,mode=vip sleep 1000"), do: lines("rm -f a"), again: "No such"},
	"rename":     {before: lines("run -d --name old --network web --network own sleep 1000"), do: lines("rename old new"), undo: lines("rm -f new"), again: "No such"}, // no beginnings of an ID

	"disconnect -f, the other host is away": {
		before: onOther, lose: (*cutting).end2, do: lines("network disconnect -f --live web a"), heal: (*cutting).begin2, undo: lines("host2: rm -f a"), again: "not connected", count: 2,
	},
	"disconnect -f by another host": {
		before: onOther, do: lines("network disconnect -f --live web a"), undo: lines("host2: rm -f a"), again: "not connected", count: 2, victim: 1,
	},
	"a lost host is cleared":      {before: onOther, happen: (*cutting).clearOther, undo: lines("host2: rm -f a"), count: 2, args: soonCleared, slow: true},
	"a cleared host comes back":   {before: onOther, lose: (*cutting).lose2, happen: (*cutting).return2, undo: lines("host2: rm -f a"), count: 2, victim: 1, args: soonCleared, slow: true},
	"store reseed":                {before: onOther, lose: (*cutting).emptyStore, do: lines("store reseed"), undo: lines("host2: rm -f a"), again: "nothing to put back", count: 2, midway: true},
	"store reseed, another tells": {before: onOther, lose: (*cutting).emptyStore, do: lines("store reseed"), undo: lines("host2: rm -f a"), again: "nothing to put back", count: 2, victim: 1, midway: true, slow: true},
}

var (
	onOther     = lines("host2: run -d --name a --network web --network two --network-alias v,mode=vip sleep 1000")
	soonCleared = []string{"--stale-grace", "1s", "--cluster-store-opt", "discovery.ttl=3"}
)

func lines(ls ...string) []string { return ls }

// emptyStore takes all records away, under the agents, which know them: what they know is on their disks within two seconds.
func (x *cutting) emptyStore() {
	x.t.Helper()
	for _, h := range x.hosts {
		eventually(x.t, patience, func() error {
			_, err := os.Stat(filepath.Join(h.StateDir, "picture", "meta.json"))
			return err
		})
	}
	x.records.empty()
	for _, h := range x.hosts {
		h.doubts()
	}
}

// end2 ends the second host's agent.
func (x *cutting) end2() {
	x.t.Helper()
	x.hosts[1].kill()
}

// begin2 starts it again.
func (x *cutting) begin2() {
	x.t.Helper()
	x.hosts[1].up()
}

// clearOther cuts the second host off until the first has cleared it, or has died of that, and joins it again.
func (x *cutting) clearOther() {
	x.lose2()
	x.return2()
}

// lose2 cuts the second host off, ends its session, and waits until it was cleared.
func (x *cutting) lose2() {
	x.t.Helper()
	must(x.t, x.hosts[1].SetLink(false))
	id := x.other()
	_, err := x.records.store.Txn(within(x.t, patience), store.Txn{Then: []store.Op{store.Del(record.AliveKey(id))}})
	must(x.t, err)
	eventually(x.t, patience, func() error {
		if x.cut() {
			return nil
		}
		f := &record.Fence{}
		e, err := x.records.store.Get(within(x.t, patience), record.FenceKey(id))
		if err == nil {
			err = record.Decode(e.Value, f)
		}
		if err != nil || f.Clearing || x.endpoints() > 0 {
			return fmt.Errorf("host2 is not cleared: %+v, %v", f, err)
		}
		return nil
	})
}

// return2 lets the second host be there again.
func (x *cutting) return2() {
	x.t.Helper()
	must(x.t, x.hosts[1].SetLink(true))
	eventually(x.t, patience, func() error {
		if x.cut() || x.endpoints() == 2 {
			return nil
		}
		return errors.New("host2 has not put back what is its own")
	})
}

// endpoints is how many the store has.
func (x *cutting) endpoints() (n int) {
	for _, e := range x.records.ofNetworks() {
		if strings.HasPrefix(e.Key.Name, "ep/") {
			n++
		}
	}
	return n
}

// other is the ID of the second host.
func (x *cutting) other() (id record.HostID) {
	x.t.Helper()
	for _, e := range x.records.list(store.Meta) {
		h := &record.Host{}
		if strings.HasPrefix(e.Key.Name, "hosts/") && record.Decode(e.Value, h) == nil && h.Name == "host2" {
			id = h.ID
		}
	}
	if id == "" {
		x.t.Fatal("the store has no host2")
	}
	return id
}
