package agent

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"

	"weft/agent/doctor"
	"weft/bridge"
	"weft/kernel"
	"weft/store/record"
)

// examineRecords compares this host's records with its sandboxes and, where there is time, all records of the store with its rules.
func (a *Agent) examineRecords(ctx context.Context, quick bool) []doctor.Check {
	out := doctor.Records{Quick: quick}
	var inspecting sync.WaitGroup
	if !quick {
		inspecting.Go(func() {
			survey, err := a.CheckStore(ctx)
			out.Findings, out.Keys, out.Err = survey.Findings, survey.Keys, err
		})
	}
	differ, err := staying(ctx, a.clock, a.recordsThatDiffer, func(s string) string { return s })
	inspecting.Wait()
	if err != nil {
		return []doctor.Check{{Name: "records", Status: doctor.Skipped, Finding: "this host's journal cannot be read: " + err.Error(), Remedy: "see that its disk works"}}
	}
	out.Differ = differ
	return out.Check()
}

// recordsThatDiffer names the endpoints of this host whose records are not what its sandboxes want, and the releases that are not written.
// Nothing is known of the cluster's while the store is away.
func (a *Agent) recordsThatDiffer(ctx context.Context) ([]string, error) {
	id := a.member.identity()
	as := a.localActor()
	var out []string
	for _, sc := range []*scope{a.local, a.global} {
		if !sc.joined() || sc.follower.Doubt() != nil {
			continue
		}
		for _, f := range corrections(as, a.boxes.snapshot(), sc.follower.Picture(), sc.follower.Synced) {
			switch {
			case f.want == nil:
				out = append(out, f.have.Name+" ("+record.ShortID(f.id)+"), which no sandbox has")
			case f.have == nil:
				out = append(out, f.want.Name+" ("+record.ShortID(f.id)+"), which is missing")
			default:
				out = append(out, f.want.Name+" ("+record.ShortID(f.id)+"), which says something else")
			}
		}
	}
	releases, err := a.journal.Releases(ctx)
	for _, r := range releases {
		if sc := a.scopeOf(r.Network); id.Cluster != "" && sc.joined() {
			out = append(out, "a release ("+record.ShortID(r.Endpoint)+"), which is not written")
		}
	}
	return out, err
}

// examineKernel compares what the kernel has with what it should have, by network.
func (a *Agent) examineKernel(ctx context.Context) []doctor.Check {
	if !a.mayWrite() {
		return []doctor.Check{{Name: "kernel", Status: doctor.Skipped, Finding: "this agent has just started, and the store has not told of its networks yet", Remedy: "ask again in a moment"}}
	}
	type difference struct {
		part string
		op   kernel.Op
	}
	objects := map[string]int{}
	ops, err := staying(ctx, a.clock, func(ctx context.Context) ([]difference, error) {
		parts, err := a.kernelDiffers(ctx)
		var out []difference
		clear(objects)
		for part, d := range parts {
			objects[part] = d.wanted
			for _, o := range d.ops {
				out = append(out, difference{part, o})
			}
		}
		return out, err
	}, func(d difference) string { return d.op.String() })
	if err != nil {
		return []doctor.Check{doctor.Kernel{Err: err}.Check()}
	}
	troubles := a.troublesByName()
	var out []doctor.Check
	for _, part := range slices.Sorted(maps.Keys(objects)) {
		k := doctor.Kernel{Part: part, Objects: objects[part], Trouble: troubles[part]}
		for _, d := range ops {
			if d.part == part {
				k.Ops = append(k.Ops, d.op)
			}
		}
		out = append(out, k.Check())
	}
	return out
}

// troublesByName is what the kernel refused, by network.
func (a *Agent) troublesByName() map[string]string {
	a.troubleMu.Lock()
	defer a.troubleMu.Unlock()
	out := map[string]string{}
	for id, err := range a.troubles {
		out[a.partName(record.NetworkID(id))] = err.Error()
	}
	return out
}

// partName is a part of the kernel's state to the user.
func (a *Agent) partName(id record.NetworkID) string {
	if id == hostPart || id == portsPart {
		return ""
	}
	if n, ok := a.picture().Network(id); ok {
		return n.Name
	}
	return record.ShortID(id)
}

// differs is what one part of the kernel lacks or has too much of.
type differs struct {
	ops    []kernel.Op
	wanted int // objects
}

// kernelDiffers reads all of weft's own in the kernel beside the loop, and compares it with what the picture and the sandboxes want now.
func (a *Agent) kernelDiffers(ctx context.Context) (map[string]differs, error) {
	picture := a.picture()
	v := newView(a.settings(), picture, a.locals())
	v.answers, v.published = a.answering(picture), sync.OnceValue(func() []bridge.Published { return a.published(picture) })
	own, err := a.kernel.Namespaces(ctx)
	if err != nil {
		return nil, err
	}
	found, err := a.kernel.Read(ctx, v.spaces(own))
	if err != nil {
		return nil, err
	}
	out := map[string]differs{}
	add := func(id record.NetworkID, want, have kernel.State) {
		ops := kernel.Diff(want, have)
		if !v.known(id) {
			ops = kernel.Missing(want, have)
		}
		d := out[a.partName(id)]
		out[a.partName(id)] = differs{append(d.ops, ops...), d.wanted + len(want)}
	}
	shares := v.share(found)
	maps.Copy(shares[hostPart], found) // nobody wants these
	for id, have := range shares {
		add(id, v.want(id), have)
	}
	return out, nil
}

// awayReason is why a store does not answer, in a few words.
func awayReason(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return errors.New("no answer within " + statusTimeout.String())
	}
	return err
}
