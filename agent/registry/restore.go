package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"weft/store"
	"weft/store/backup"
	"weft/store/record"
)

// RestoreRequest says what to do with a backup.
type RestoreRequest struct {
	By     record.HostID
	Force  bool // also where the store holds another cluster
	DryRun bool
	// Adopt is called before the records become those of a cluster again: this host must be one of it by then. Nil: nothing is to be done.
	Adopt func(ctx context.Context, cluster string) error
	// Settle is how long agents that believe the store have to hear that they should not.
	Settle time.Duration
}

// RestoreResult is what a restore has done, or would do.
type RestoreResult struct {
	Backup   backup.Header
	Replaced string // ID of the cluster that the store held, "" if it held none
	Puts     int    // keys that were written
	Dels     int
	Same     int // keys that were as in the backup
}

// Restore makes the store hold what a backup holds. While it goes on no agent writes or believes the store; where it breaks off, that stays so,
// and the next Restore ends it. What the store holds already is left alone.
func (r *Registry) Restore(ctx context.Context, req RestoreRequest, file io.Reader) (RestoreResult, error) {
	in, err := backup.NewReader(file)
	if err != nil {
		return RestoreResult{}, err
	}
	out := RestoreResult{Backup: in.Header()}
	meta, old, err := r.whole(ctx)
	if err != nil {
		return out, fmt.Errorf("restore: %w", err)
	}
	view := record.Empty().Apply(store.Meta, store.Batch{Rev: meta.Rev, Puts: meta.Entries})
	if c := view.Cluster(); c != nil {
		out.Replaced = c.ID
	}
	if err := mayRestore(view, in.Header(), req); err != nil {
		return out, err
	}
	w := &restoring{registry: r, in: in, req: req, old: old}
	if !req.DryRun {
		if w.fill, err = r.begin(ctx, view, in.Header(), req); err != nil {
			return out, fmt.Errorf("restore: %w", err)
		}
	}
	err = w.run(ctx)
	out.Puts, out.Dels, out.Same = w.done.Puts, w.done.Dels, w.done.Same
	if err != nil && !req.DryRun {
		return out, fmt.Errorf("the restore has not ended, and no agent uses the store before it has; run it again: %w", err)
	}
	return out, err
}

// whole lists partition meta, and names all others.
func (r *Registry) whole(ctx context.Context) (meta store.Snapshot, others []string, err error) {
	if meta, err = r.cfg.Store.List(ctx, store.Meta); err != nil {
		return meta, nil, err
	}
	others, err = partitions(ctx, r.cfg.Store, meta)
	return meta, others, err
}

// mayRestore refuses what would take a living cluster away without being asked to.
func mayRestore(view *record.Snapshot, h backup.Header, req RestoreRequest) error {
	if m, _ := view.Move(); m != nil && m.State != record.MoveRestoring {
		return refuse(InUse, "the cluster's records are being moved, or were moved, to %s: a restore belongs there (weft store migrate --abort ends a move that has not ended)", m.To)
	}
	c := view.Cluster()
	if c == nil || c.ID == h.Cluster || req.Force {
		return nil
	}
	networks, hosts := 0, 0
	for range view.Networks() {
		networks++
	}
	for h := range view.Hosts() {
		if h.ID != req.By {
			hosts++
		}
	}
	if networks == 0 && hosts == 0 {
		return nil // the empty one that this agent made when it met an empty store
	}
	return refuse(Exists, "the store holds cluster %s, with %d networks and %d other hosts, and the backup is of cluster %s: use another store or prefix, or --force to replace what is there", c.ID, networks, hosts, h.Cluster)
}

// begin sets the mark, and gives the agents that believe the store time to hear of it.
func (r *Registry) begin(ctx context.Context, view *record.Snapshot, h backup.Header, req RestoreRequest) (*filling, error) {
	fill, err := beginFilling(ctx, r.cfg.Store, view, record.Move{
		ID: NewID()[:32], Cluster: h.Cluster, By: req.By, Started: r.cfg.Now().UTC(), Generation: r.generation(),
	})
	if err != nil || view.Cluster() == nil {
		return fill, err
	}
	select {
	case <-time.After(req.Settle):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return fill, nil
}

// restoring is a restore under way.
type restoring struct {
	registry *Registry
	in       *backup.Reader
	req      RestoreRequest
	fill     *filling // nil: a dry run
	old      []string // partitions of networks that the store had
	done     changes
	wrote    []string
	cluster  []byte // the value of its record
	networks map[string]bool
}

// run takes the backup in partition by partition, meta last.
func (w *restoring) run(ctx context.Context) error {
	current, want := "", map[string][]byte{}
	for {
		k, value, err := w.in.Next()
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if k.Partition != current || err != nil {
			if current != "" {
				if e := w.partition(ctx, current, want); e != nil {
					return e
				}
			}
			current, want = k.Partition, map[string][]byte{}
		}
		if err != nil {
			return w.end(ctx)
		}
		if w.networks != nil || slices.Contains(w.wrote, current) {
			return fmt.Errorf("the backup is not in order: %s comes where it cannot", k)
		}
		want[k.Name] = value
	}
}

func (w *restoring) partition(ctx context.Context, name string, want map[string][]byte) error {
	if name == store.Meta {
		w.networks, w.cluster = map[string]bool{}, want[record.ClusterKey().Name]
		for k := range want {
			if id, ok := strings.CutPrefix(k, record.NetworkKey("").Name); ok {
				w.networks[record.NetPartition(record.NetworkID(id))] = true
			}
		}
		if w.cluster == nil {
			return errors.New("the backup has no cluster's record")
		}
		w.done.Puts++ // the record, which comes last
	}
	w.wrote = append(w.wrote, name)
	return w.fillIn(ctx, name, want)
}

func (w *restoring) fillIn(ctx context.Context, name string, want map[string][]byte) error {
	var c changes
	var err error
	if w.fill == nil {
		_, c, err = difference(ctx, w.registry.cfg.Store, name, want)
	} else {
		c, err = w.fill.partition(ctx, name, want)
	}
	w.done.add(c)
	if err != nil {
		return fmt.Errorf("restore partition %s: %w", name, err)
	}
	return nil
}

// end empties what belongs to no network of the backup, and makes the records those of a cluster again.
func (w *restoring) end(ctx context.Context) error {
	if w.networks == nil {
		return errors.New("the backup has no cluster's record")
	}
	for _, p := range slices.Compact(slices.Sorted(slices.Values(append(w.old, w.wrote...)))) {
		if strings.HasPrefix(p, record.NetPartition("")) && !w.networks[p] {
			if err := w.fillIn(ctx, p, nil); err != nil {
				return err
			}
		}
	}
	c := record.Cluster{}
	if err := c.Decode(w.cluster); err != nil {
		return fmt.Errorf("the backup's record of the cluster: %w", err)
	}
	if c.ID != w.in.Header().Cluster {
		return fmt.Errorf("the backup's header says that it is of cluster %s, and its record says %s", w.in.Header().Cluster, c.ID)
	}
	if w.fill == nil {
		return nil
	}
	if w.req.Adopt != nil {
		if err := w.req.Adopt(ctx, c.ID); err != nil {
			return err
		}
	}
	return w.fill.end(ctx, c)
}
