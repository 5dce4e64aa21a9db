package command

import (
	"encoding/json"
	"fmt"
	"testing"

	"google.golang.org/protobuf/proto"

	weftv1 "weft/proto/weft/v1"
)

// An answer may be larger than the 4 MiB that gRPC's clients take as they come.
func TestInspectOfManyEndpoints(t *testing.T) {
	f, s := newFake(), newShell(t)
	const n = 20_000
	f.endpoints = nil
	for i := range n {
		f.endpoints = append(f.endpoints, &weftv1.Endpoint{
			Id: fmt.Sprintf("%064x", i), NetworkId: webID, NetworkName: "web", HostId: hostID, Host: "h1", SandboxId: fmt.Sprintf("%063x1", i), Name: fmt.Sprint("c", i),
			Addresses: []string{fmt.Sprintf("10.5.%d.%d/16", i/250, i%250)}, MacAddress: "02:00:00:00:00:09", Running: true, State: "running",
		})
	}
	size := 0
	for _, e := range f.endpoints {
		size += proto.Size(e)
	}
	if size < 4<<20 {
		t.Fatalf("the endpoints take %d bytes: too few to tell", size)
	}
	f.serve(t, s.path)
	r := s.run("network", "inspect", "web")
	var got []struct {
		Containers map[string]struct{ Name string }
	}
	if err := json.Unmarshal([]byte(r.out), &got); r.code != 0 || err != nil || len(got) != 1 || len(got[0].Containers) != n {
		t.Errorf("exit %d, %v, %s", r.code, err, r.err)
	}
}
