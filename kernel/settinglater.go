package kernel

import (
	"context"
	"time"
)

// To watch a setting is to find its file, which takes the longer, the more namespaces have one of that name: a tenth of a millisecond and more for each
// where there are a thousand. An agent that starts does not wait for it.
const (
	watchDelay = 2 * time.Second      // after the first reading of several
	watchPause = 2 * time.Millisecond // between two namespaces
)

// watchLater watches what was read of namespaces, until ctx ends. What has changed between the reading and that is told.
func (k *Kernel) watchLater(ctx context.Context, tell func(Change) bool) {
	if k.settings.file == nil {
		return
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-k.settings.wake:
		}
		if !pause(ctx, watchDelay) {
			return
		}
		for ns, was := range k.settings.takeDue() {
			for _, c := range k.watchRead(ns, was) {
				tell(c)
			}
			if !pause(ctx, watchPause) {
				return
			}
		}
	}
}

// pause tells whether ctx goes on after it.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// watchRead watches settings of one namespace, and returns those that are not as they were. A namespace or link that has gone has none.
func (k *Kernel) watchRead(ns string, was map[Key]Spec) (changed []Change) {
	_ = k.with(ns, func(c *conn) error {
		err := inside(c.ns, func() error {
			var files []settingFile
			for key := range was {
				if file, err := ConfPath(key.Link, key.Dst); err == nil {
					files = append(files, settingFile{key, file})
				}
			}
			c.settings.add(files...)
			return nil
		})
		if err != nil {
			return err
		}
		links, err := readLinks(context.Background(), c)
		for _, l := range links.byName {
			for _, o := range l.conf(ns) {
				if before, asked := was[o.Key]; asked && !o.Spec.Equal(before) {
					changed = append(changed, Change{Key: o.Key, Now: o.Spec})
				}
			}
		}
		return err
	})
	return changed
}
