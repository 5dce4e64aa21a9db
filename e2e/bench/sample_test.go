package main

import (
	"math"
	"slices"
	"testing"
)

func TestMedianAndQuantiles(t *testing.T) {
	for _, c := range []struct {
		s                sample
		median, p10, p90 float64
	}{
		{nil, 0, 0, 0},
		{sample{3}, 3, 3, 3},
		{sample{4, 1}, 2.5, 1, 4},
		{sample{9, 1, 5}, 5, 1, 9},
		{sample{10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0}, 5, 1, 9},
	} {
		before := slices.Clone(c.s)
		if m, lo, hi := c.s.median(), c.s.quantile(0.1), c.s.quantile(0.9); m != c.median || lo != c.p10 || hi != c.p90 {
			t.Errorf("%v: median %v, 10 %% %v, 90 %% %v; want %v, %v, %v", c.s, m, lo, hi, c.median, c.p10, c.p90)
		}
		if !slices.Equal(before, c.s) {
			t.Errorf("%v was sorted in place: pairs would be torn", before)
		}
	}
}

// The ranks are those of any table of the sign test: for 9 values the second and the last but one, for 20 the sixth, for 100 the 40th.
func TestTheRankThatBoundsAMedian(t *testing.T) {
	for n, want := range map[int]int{1: 0, 5: 0, 6: 0, 8: 0, 9: 1, 11: 1, 12: 2, 20: 5, 25: 7, 100: 39} {
		if got := medianRank(n); got != want {
			t.Errorf("of %d values: rank %d, want %d", n, got, want)
		}
	}
}

// At least 95 % of the time the bounds hold the median: the chance that they do not is that of too few, or too many, values below it.
func TestTheRankHoldsWhatItPromises(t *testing.T) {
	for n := 6; n < 300; n++ {
		k := medianRank(n)
		miss, next := 0.0, 0.0
		for i := range k + 2 {
			p := math.Exp(logChoose(n, i) - float64(n)*math.Ln2)
			if i <= k {
				miss += p
			}
			next += p
		}
		if 2*miss > 0.05+1e-9 {
			t.Errorf("of %d values rank %d misses %.3f of the time", n, k, 2*miss)
		}
		if 2*next <= 0.05 {
			t.Errorf("of %d values rank %d is wider than it must be", n, k)
		}
	}
}

func logChoose(n, k int) float64 {
	a, _ := math.Lgamma(float64(n + 1))
	b, _ := math.Lgamma(float64(k + 1))
	c, _ := math.Lgamma(float64(n - k + 1))
	return a - b - c
}

func TestARatioIsOfPairs(t *testing.T) {
	var p pairs
	for i := range 9 {
		speed := float64(1 + i) // the machine gets slower and slower: the pairs do not care
		p.add(2*speed, speed)
	}
	p.weft[8] = 90 // one that was disturbed
	want := Interval{Median: 2, Low: 2, High: 2, Pairs: 9}
	if got := p.ratio(); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestTurnsAlternate(t *testing.T) {
	for i, want := range []string{"weft floor ", "floor weft "} {
		var got string
		_, _, err := inTurns(i, func() error { got += "weft "; return nil }, func() error { got += "floor "; return nil })
		if err != nil || got != want {
			t.Errorf("turn %d: %q, %v; want %q", i, got, err, want)
		}
	}
}
