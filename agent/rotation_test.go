package agent

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"weft/identity"
)

// warnings are what a rotation says, with when it did.
type warnings []time.Time

func (w *warnings) Warn(msg string, _ ...any) {
	if strings.Contains(msg, "certificate ends") {
		*w = append(*w, time.Now())
	}
}

// rotating is a host with a certificate of 90 days, whose authority's host is away between two moments after the beginning.
type rotating struct {
	rotation
	warned   warnings
	renewed  []time.Duration // when, since the beginning
	tries    int
	awayFrom time.Duration
	awayTill time.Duration
}

func newRotating(t *testing.T, lifetime time.Duration) *rotating {
	t.Helper()
	auth, err := identity.CreateAuthority(filepath.Join(t.TempDir(), "pki"), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	k, err := identity.Open(filepath.Join(t.TempDir(), "pki"), time.Now, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	sign := func() error {
		csr, err := k.Request("h1")
		if err != nil {
			return err
		}
		cert, err := auth.Issue(csr, "h1", lifetime)
		if err != nil {
			return err
		}
		return k.Store("h1", cert, auth.Certificate())
	}
	if err := sign(); err != nil {
		t.Fatal(err)
	}
	r, begin := &rotating{}, time.Now()
	r.rotation = rotation{log: &r.warned, now: time.Now, keeper: k, renew: func(context.Context) error {
		r.tries++
		since := time.Since(begin)
		if since >= r.awayFrom && since < r.awayTill {
			return errors.New("the authority's host is away")
		}
		r.renewed = append(r.renewed, since)
		return sign()
	}}
	return r
}

// run keeps the certificate for a while, as keepIdentity does.
func (r *rotating) run(t *testing.T, d time.Duration) {
	t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); {
		time.Sleep(r.step(t.Context()))
	}
}

const rotationDay = 24 * time.Hour

func TestACertificateIsRenewedAtTwoThirds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRotating(t, 90*rotationDay)
		r.run(t, 200*rotationDay)
		if len(r.renewed) != 3 {
			t.Fatalf("in 200 days it was renewed after %v, want after 60, 120 and 180 days", r.renewed)
		}
		for i, at := range r.renewed {
			if want := time.Duration(i+1) * 60 * rotationDay; at < want || at > want+rotationLook {
				t.Errorf("renewal %d was after %v, want %v", i+1, at, want)
			}
		}
		if len(r.warned) > 0 || r.tries != 3 {
			t.Errorf("it warned at %v, and tried %d times", r.warned, r.tries)
		}
	})
}

func TestARenewalIsTriedAgainWhileTheAuthoritysHostIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, begin := newRotating(t, 90*rotationDay), time.Now()
		r.awayFrom, r.awayTill = 0, 80*rotationDay
		r.run(t, 85*rotationDay)
		if len(r.renewed) != 1 || r.renewed[0] < r.awayTill || r.renewed[0] > r.awayTill+rotationLook {
			t.Errorf("it was renewed after %v, want right after 80 days", r.renewed)
		}
		if most := int(20*rotationDay/rotationLook) + 2; r.tries > most || r.tries < 100 {
			t.Errorf("it tried %d times in 20 days, want at most once an hour", r.tries)
		}
		if len(r.warned) < 4 || len(r.warned) > 6 || r.warned[0].Sub(begin) < 75*rotationDay || r.warned[0].Sub(begin) > 75*rotationDay+rotationLook {
			t.Errorf("it warned at %v, want daily from the 75th day to the 80th", r.warned)
		}
		if err := r.keeper.Valid(); err != nil {
			t.Error(err)
		}
	})
}

// The authority's host that stays away does not take the certificate before its end, and not the agent after it.
func TestACertificateThatEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRotating(t, 90*rotationDay)
		r.awayTill = 1000 * rotationDay
		r.run(t, 89*rotationDay)
		if err := r.keeper.Valid(); err != nil {
			t.Errorf("before its end: %v", err)
		}
		r.run(t, 3*rotationDay)
		if err := r.keeper.Valid(); !errors.Is(err, identity.ErrExpired) {
			t.Errorf("after its end: %v", err)
		}
		if r.tries > 33*24 {
			t.Errorf("it tried %d times in 32 days", r.tries)
		}
	})
}

// Lifetimes of seconds, as tests of whole hosts have them, work alike.
func TestACertificateOfSecondsIsRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRotating(t, 30*time.Second)
		r.run(t, 95*time.Second)
		if len(r.renewed) < 4 || len(r.renewed) > 5 || len(r.warned) > 0 {
			t.Errorf("it was renewed after %v, and warned at %v", r.renewed, r.warned)
		}
	})
}

func TestAHostWithoutACertificateRenewsNone(t *testing.T) {
	k, err := identity.Open(t.TempDir(), time.Now, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	r := rotation{now: time.Now, keeper: k}
	if wait := r.step(t.Context()); wait != rotationLook {
		t.Errorf("it looks again after %v", wait)
	}
}
