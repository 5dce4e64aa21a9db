package event

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"testing"
	"time"
)

var errEnough = errors.New("enough")

func clockAt(t time.Time) func() time.Time {
	return func() time.Time { t = t.Add(time.Second); return t }
}

func TestWhoAsksLaterHearsWhatWasSinceATime(t *testing.T) {
	t.Parallel()
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	l := New(slog.New(slog.DiscardHandler), clockAt(begin))
	for i := range 5 {
		l.Emit(Event{Type: Host, Action: Lost, ID: strconv.Itoa(i)})
	}
	var got []string
	err := l.Follow(t.Context(), begin.Add(3*time.Second), nil, func(e Event, missed uint64) error {
		got = append(got, e.ID)
		if len(got) == 3 || missed != 0 {
			return errEnough
		}
		return nil
	})
	if !errors.Is(err, errEnough) || len(got) != 3 || got[0] != "2" || got[2] != "4" {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestWhoListensHearsWhatComesAndWhatWasMissed(t *testing.T) {
	t.Parallel()
	l := New(slog.New(slog.DiscardHandler), time.Now)
	ctx, cancel := context.WithCancel(t.Context())
	began, slow := make(chan struct{}), make(chan struct{})
	var total, gap uint64
	done := make(chan error, 1)
	go func() {
		done <- l.Follow(ctx, time.Unix(1, 0), nil, func(e Event, missed uint64) error {
			if total++; total == 1 {
				close(began)
				<-slow
			}
			if gap += missed; e.ID == "last" {
				return errEnough
			}
			return nil
		})
	}()
	l.Emit(Event{Type: Endpoint, Action: Clear, ID: "first"})
	<-began
	for range 2 * kept {
		l.Emit(Event{Type: Endpoint, Action: Clear})
	}
	l.Emit(Event{Type: Endpoint, Action: Clear, ID: "last"})
	close(slow)
	if err := <-done; !errors.Is(err, errEnough) {
		t.Fatal(err)
	}
	if total+gap != 2*kept+2 || gap == 0 {
		t.Errorf("heard %d and missed %d of %d", total, gap, 2*kept+2)
	}
	cancel()
	if err := l.Follow(ctx, time.Time{}, nil, func(Event, uint64) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
