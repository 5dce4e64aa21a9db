package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"weft/store"
)

const (
	eventPartition = "events"
	eventName      = "event"
)

// measureEvents measures how long after a put has begun another process is told of it, in a partition of few keys and in one of many.
func (b *bench) measureEvents(ctx context.Context) (err error) {
	ours, err := openStore(b.kind, b.endpoint(), b.store.Dial)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ours.Close()) }()
	plain, err := newRaw(b.kind, b.endpoint(), b.store.Dial)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, plain.close()) }()
	node, err := b.lab.AddNode("watcher")
	if err != nil {
		return err
	}
	have := 0
	for _, keys := range []int{10, b.n(10_000, 100)} {
		if err := fill(ctx, ours, have, keys); err != nil {
			return err
		}
		have = keys
		c, err := b.startChild(ctx, node, childSpec{Work: "watch"})
		if err != nil {
			return err
		}
		p, err := eventTimes(ctx, c, ours, plain, b.n(101, 5))
		if err := errors.Join(err, c.end()); err != nil {
			return err
		}
		b.report.pair("put → event, "+thousands(float64(keys))+" keys", "ms", "its own client, which watches one key", p, ratioAtMost(1.3))
	}
	return nil
}

// fill makes the partition have as many keys as it is to have.
func fill(ctx context.Context, s store.Store, have, want int) error {
	for have < want {
		var t store.Txn
		for ; have < want && len(t.Then) < store.MaxOps; have++ {
			t.Then = append(t.Then, store.Put(store.Key{Partition: eventPartition, Name: fmt.Sprintf("fill/%d", have)}, make([]byte, 300)))
		}
		if _, err := s.Txn(ctx, t); err != nil {
			return fmt.Errorf("write %d keys: %w", want, err)
		}
	}
	return nil
}

// eventTimes puts, through one and the other, and reads from the child when it was told.
func eventTimes(ctx context.Context, c *child, ours store.Store, plain raw, times int) (pairs, error) {
	event := func(value string, put func() error) (float64, error) {
		began := monotonic()
		if err := put(); err != nil {
			return 0, err
		}
		line, err := c.next()
		what, at, _ := strings.Cut(strings.TrimSpace(line), " ")
		if err == nil && what != value {
			err = fmt.Errorf("the watcher saw %q after %q was put", what, value)
		}
		if err != nil {
			return 0, err
		}
		told, err := strconv.ParseInt(at, 10, 64)
		return ms(time.Duration(told - began)), err
	}
	var p pairs
	for i := range times {
		value := fmt.Sprint("v", i)
		w, f, err := inTurnsOf(i, func() (float64, error) {
			return event("weft-"+value, func() error {
				_, err := ours.Txn(ctx, store.Txn{Then: []store.Op{store.Put(store.Key{Partition: eventPartition, Name: eventName}, []byte("weft-"+value))}})
				return err
			})
		}, func() (float64, error) {
			return event("raw-"+value, func() error { return plain.put(ctx, eventName, "raw-"+value) })
		})
		if err != nil {
			return p, err
		}
		if i > 0 {
			p.add(w, f)
		}
	}
	return p, nil
}

// childWatch prints each value that it is told of, with the time, until its input ends.
func childWatch(ctx context.Context, spec childSpec, in io.Reader, out io.Writer) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	ours, err := openStore(spec.Kind, spec.Endpoint, nil)
	if err != nil {
		cancel()
		return err
	}
	defer func() { err = errors.Join(err, ours.Close()) }()
	plain, err := newRaw(spec.Kind, spec.Endpoint, (&net.Dialer{}).DialContext)
	if err != nil {
		cancel()
		return err
	}
	defer func() { err = errors.Join(err, plain.close()) }()
	defer cancel() // before the stores close: they wait for their watches
	batches := ours.Watch(ctx, eventPartition)
	<-batches // what is there
	values, err := plain.watch(ctx, eventName)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(out, "ready"); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = io.Copy(io.Discard, in) // its end is what is waited for
	}()
	for {
		var told []string
		select {
		case <-ended:
			return nil
		case b := <-batches:
			for _, e := range b.Puts {
				told = append(told, string(e.Value))
			}
		case v := <-values:
			told = append(told, v)
		}
		at := monotonic()
		for _, v := range told {
			if _, err := fmt.Fprintln(out, v, at); err != nil {
				return err
			}
		}
	}
}

// monotonic is a time in nanoseconds that all processes of the machine share (clock_gettime(2)).
func monotonic() int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		panic(err) // the clock is always there
	}
	return t.Nano()
}
