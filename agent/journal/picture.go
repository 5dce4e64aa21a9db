package journal

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"

	"weft/store"
	"weft/store/record"
)

// dump is a partition's file.
type dump struct {
	Partition string         `json:"partition"`
	Cluster   string         `json:"cluster"`
	History   string         `json:"history,omitempty"` // of the cluster's records, when they were read
	Snapshot  store.Snapshot `json:"snapshot"`
}

// SavePicture replaces the file of one partition, which is of a cluster in one of its histories. A crash leaves the old file or the new one.
func (j *Journal) SavePicture(cluster, history, partition string, s store.Snapshot) error {
	b, err := json.Marshal(dump{Partition: partition, Cluster: cluster, History: history, Snapshot: s})
	if err != nil {
		return fmt.Errorf("save the picture of %s: %w", partition, err)
	}
	if err := j.pictures.Replace(pictureFile(partition), b); err != nil {
		return fmt.Errorf("save the picture of %s: %w", partition, err)
	}
	return nil
}

// DropPicture forgets a partition that is no longer followed.
func (j *Journal) DropPicture(partition string) error {
	if err := j.pictures.Remove(pictureFile(partition)); err != nil {
		return fmt.Errorf("forget the picture of %s: %w", partition, err)
	}
	return nil
}

// Picture returns what was saved for a cluster. A file that cannot be read is named in errs and left out: the store will tell it again. So is
// a partition of another history than partition meta's, since a crash may come between two files: its revisions are another store's. It is for
// an agent that starts: what a crash left of files being written goes.
func (j *Journal) Picture(cluster string) (s *record.Snapshot, errs []error) {
	files, errs := j.pictures.All()
	dumps := map[string]dump{}
	var mu sync.Mutex // guards dumps and errs
	var wg sync.WaitGroup
	for f, b := range files {
		wg.Go(func() {
			d, err := parseDump(b)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, fmt.Errorf("saved picture %s: %w", f, err))
			} else if d.Cluster == cluster && cluster != "" {
				dumps[d.Partition] = d
			}
		})
	}
	wg.Wait()
	return seedOf(dumps), errs
}

func parseDump(b []byte) (d dump, err error) {
	if err := json.Unmarshal(b, &d); err != nil {
		return d, err
	}
	if d.Partition == "" {
		return d, errors.New("it does not say what of")
	}
	return d, nil
}

// seedOf puts partition meta together with those of its history.
func seedOf(dumps map[string]dump) *record.Snapshot {
	of := map[string]store.Snapshot{}
	if meta, ok := dumps[store.Meta]; ok {
		of[store.Meta] = meta.Snapshot
	}
	history := ""
	if c := record.SeedFrom(of).Cluster(); c != nil {
		history = c.History
	}
	for p, d := range dumps {
		if d.History == history {
			of[p] = d.Snapshot
		}
	}
	return record.SeedFrom(of)
}

func pictureFile(partition string) string { return strings.ReplaceAll(partition, "/", "_") + ".json" }
