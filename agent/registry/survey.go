package registry

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"weft/store"
	"weft/store/record"
)

// How often, and how long after, everything is read again that looked wrong: what is only one of the moments between two reads is over then.
const (
	surveyRounds = 3
	surveyPause  = 300 * time.Millisecond
)

// Survey is what an inspection of the whole store found.
type Survey struct {
	Findings   []record.Finding
	Keys       int
	Partitions int
	Rev        store.Rev // of the last look at partition meta
}

// Inspect checks every rule over the whole store. The cluster may change meanwhile: what looks wrong is read again, and only what stays wrong,
// in the same key at the same revision, is a finding.
func (r *Registry) Inspect(ctx context.Context) (Survey, error) {
	var out Survey
	for round := range surveyRounds {
		h, err := readAll(ctx, r.cfg.Store)
		if err != nil {
			return Survey{}, fmt.Errorf("read the whole store: %w", err)
		}
		found := record.Check(h)
		if round > 0 {
			found = slices.DeleteFunc(found, func(f record.Finding) bool { return !slices.ContainsFunc(out.Findings, same(f)) })
		}
		out = surveyOf(h, found)
		if len(found) == 0 || round == surveyRounds-1 {
			break
		}
		select {
		case <-time.After(surveyPause):
		case <-ctx.Done():
			return Survey{}, ctx.Err()
		}
	}
	return out, nil
}

func same(f record.Finding) func(record.Finding) bool {
	return func(o record.Finding) bool { return o.Key == f.Key && o.Rev == f.Rev && o.Rule == f.Rule }
}

func surveyOf(h record.Holdings, found []record.Finding) Survey {
	out := Survey{Findings: found, Keys: len(h.Meta.Entries) + len(h.Alive.Entries), Partitions: 2 + len(h.Others), Rev: h.Meta.Rev}
	for _, s := range h.Others {
		out.Keys += len(s.Entries)
	}
	return out
}

// listTime is how long one partition may take.
const listTime = 20 * time.Second

// listIn lists a partition of a store that may stop to answer at any moment.
func listIn(ctx context.Context, s store.Store, partition string) (store.Snapshot, error) {
	ctx, cancel := context.WithTimeout(ctx, listTime)
	defer cancel()
	return s.List(ctx, partition)
}

// readAll reads all partitions of a store, each as it was at one moment: first meta, then what it leads to, so that what is found in a network
// later than the hosts and networks were read can only be newer than they are.
func readAll(ctx context.Context, s store.Store) (record.Holdings, error) {
	h := record.Holdings{Others: map[string]store.Snapshot{}}
	var err error
	if h.Meta, err = listIn(ctx, s, store.Meta); err != nil {
		return h, err
	}
	names, err := partitions(ctx, s, h.Meta)
	if err != nil {
		return h, err
	}
	for _, p := range names {
		if h.Others[p], err = listIn(ctx, s, p); err != nil {
			return h, err
		}
	}
	h.Alive, err = listIn(ctx, s, store.Alive)
	return h, err
}

// partitions returns all partitions but meta and alive: those of the networks in meta, and what else the store has, where it can tell.
func partitions(ctx context.Context, s store.Store, meta store.Snapshot) ([]string, error) {
	var out []string
	for n := range record.Empty().Apply(store.Meta, store.Batch{Rev: meta.Rev, Puts: meta.Entries}).Networks() {
		out = append(out, record.NetPartition(n.ID))
	}
	if p, ok := s.(store.Partitioner); ok {
		limited, cancel := context.WithTimeout(ctx, listTime)
		all, err := p.Partitions(limited)
		cancel()
		if err != nil && !errors.Is(err, errors.ErrUnsupported) {
			return nil, err
		}
		out = append(out, all...)
	}
	out = slices.DeleteFunc(out, func(p string) bool { return p == store.Meta || p == store.Alive })
	slices.Sort(out)
	return slices.Compact(out), nil
}
