package peer

import (
	"fmt"

	weftv1 "weft/proto/weft/v1"
	"weft/store/record"
)

// Versions of the contract between agents. New calls and fields need no new one: who does not know a call says so (ErrOld), and a field that
// is not known is passed over. One that others would misread raises newest, and leaves oldest as long as this program can do both.
const (
	oldest = 1
	newest = 1
)

// ForeignVersion is the error of every call to an agent with which this one has no version of the contract in common. It is an ErrOld.
type ForeignVersion struct {
	Host    record.HostID
	Version string // of the other program
	Min     int    // … and the versions of the contract that it speaks
	Max     int
}

func (f *ForeignVersion) Error() string {
	side := "upgrade that host"
	if f.Min > newest {
		side = "upgrade this host"
	}
	return fmt.Sprintf("weftd %s speaks versions %s of the contract between agents, and this one %s: they cannot ask each other; %s",
		f.Version, span(f.Min, f.Max), span(oldest, newest), side)
}

func (f *ForeignVersion) Is(target error) bool { return target == ErrOld }

func span(low, high int) string {
	if low == high {
		return fmt.Sprint(low)
	}
	return fmt.Sprintf("%d to %d", low, high)
}

// common returns the newest version that both speak. An agent that says nothing of versions speaks the first.
func common(host record.HostID, version string, low, high uint32) (int, error) {
	theirs := &ForeignVersion{Host: host, Version: version, Min: int(max(low, 1)), Max: int(max(high, low, 1))}
	if v := min(theirs.Max, newest); v >= max(theirs.Min, oldest) {
		return v, nil
	}
	return 0, theirs
}

func helloOf(g Greeting) *weftv1.HelloRequest {
	return &weftv1.HelloRequest{
		HostId: string(g.Host), ClusterId: g.Cluster, Incarnation: g.Incarnation, Instance: g.Instance, Version: g.Version,
		Min: oldest, Max: newest, Features: g.Features,
	}
}

func helloReply(g Greeting) *weftv1.HelloResponse {
	return &weftv1.HelloResponse{
		HostId: string(g.Host), ClusterId: g.Cluster, Incarnation: g.Incarnation, Instance: g.Instance, Version: g.Version,
		Min: oldest, Max: newest, Features: g.Features, StoreReachable: g.StoreUp,
	}
}
