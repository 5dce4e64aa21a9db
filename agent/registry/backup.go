package registry

import (
	"context"
	"fmt"
	"io"
	"strings"

	"weft/store"
	"weft/store/backup"
	"weft/store/record"
)

// movable tells a key that belongs to the cluster wherever its records are: not a sign of life, nor what is said about a move.
func movable(k store.Key) bool {
	return k.Partition != store.Alive && k != record.MovesKey() && !(k.Partition == store.Meta && strings.HasPrefix(k.Name, "moves/"))
}

// Backup writes all records of the cluster to w, one partition after the other: the networks' first, then meta as it is after those, with the
// cluster's record last. The cluster may change meanwhile: a network's endpoints are as they were at one moment, and so is meta, in which
// every host and network is that any of them needs.
func (r *Registry) Backup(ctx context.Context, w io.Writer) error {
	if err := r.backup(ctx, w); err != nil {
		return fmt.Errorf("back the store up: %w", err)
	}
	return nil
}

func (r *Registry) backup(ctx context.Context, w io.Writer) error {
	meta, err := r.cfg.Store.List(ctx, store.Meta)
	if err != nil {
		return err
	}
	view := record.Empty().Apply(store.Meta, store.Batch{Rev: meta.Rev, Puts: meta.Entries})
	switch m, _ := view.Move(); {
	case m != nil && m.State == record.MoveRestoring:
		return refuse(InUse, "the store is in the middle of a restore: finish that first (weft restore)")
	case view.Cluster() == nil:
		return refuse(NotFound, "the store has no cluster's record: there is nothing to back up")
	}
	out, err := backup.NewWriter(w, backup.Header{Cluster: view.Cluster().ID, Rev: meta.Rev, Time: r.cfg.Now().UTC(), Backend: r.backend(ctx)})
	if err != nil {
		return err
	}
	for done := map[string]bool{}; ; {
		names, err := partitions(ctx, r.cfg.Store, meta)
		if err != nil {
			return err
		}
		more, err := r.writePartitions(ctx, out, names, done)
		if err != nil {
			return err
		}
		if !more {
			break
		}
		if meta, err = r.cfg.Store.List(ctx, store.Meta); err != nil { // a network may have come since, whose partition was not written
			return err
		}
	}
	return writeMeta(out, meta)
}

func (r *Registry) backend(ctx context.Context) string {
	st, err := r.cfg.Store.Status(ctx)
	if err != nil {
		return "" // it answered a moment ago, and will be asked again at once: this is only for the header
	}
	return st.Backend
}

// writePartitions writes those that were not written yet and tells whether there were any.
func (r *Registry) writePartitions(ctx context.Context, out *backup.Writer, names []string, done map[string]bool) (more bool, err error) {
	for _, p := range names {
		if done[p] || !strings.HasPrefix(p, record.NetPartition("")) { // what is foreign is not the cluster's
			continue
		}
		done[p], more = true, true
		s, err := r.cfg.Store.List(ctx, p)
		if err != nil {
			return more, err
		}
		if err := put(out, s.Entries); err != nil {
			return more, err
		}
	}
	return more, nil
}

func put(out *backup.Writer, es []store.Entry) error {
	for _, e := range es {
		if !movable(e.Key) {
			continue
		}
		if err := out.Put(e.Key, e.Value); err != nil {
			return err
		}
	}
	return nil
}

func writeMeta(out *backup.Writer, meta store.Snapshot) error {
	var last []store.Entry
	var rest []store.Entry
	for _, e := range meta.Entries {
		if e.Key == record.ClusterKey() {
			last = append(last, e)
		} else {
			rest = append(rest, e)
		}
	}
	if err := put(out, append(rest, last...)); err != nil {
		return err
	}
	return out.Close(meta.Rev)
}
