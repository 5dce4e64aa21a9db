package main

import (
	"math"
	"slices"
	"time"
)

// sample is one quantity, measured several times, in the unit of its row.
type sample []float64

func (s sample) sorted() sample { return slices.Sorted(slices.Values(s)) }

// quantile is the nearest measured value; 0 for an empty sample.
func (s sample) quantile(q float64) float64 {
	if len(s) == 0 {
		return 0
	}
	o := s.sorted()
	return o[int(math.Round(q*float64(len(o)-1)))]
}

// median is the middle, or the mean of the two in the middle.
func (s sample) median() float64 {
	if len(s) == 0 {
		return 0
	}
	o := s.sorted()
	if n := len(o); n%2 == 0 {
		return (o[n/2-1] + o[n/2]) / 2
	}
	return o[len(o)/2]
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// timed returns how long f took, in milliseconds.
func timed(f func() error) (float64, error) {
	at := time.Now()
	err := f()
	return ms(time.Since(at)), err
}

// pairs are two quantities that were measured one right after the other, so that what the machine does meanwhile meets both.
type pairs struct{ weft, floor sample }

func (p *pairs) add(weft, floor float64) {
	p.weft, p.floor = append(p.weft, weft), append(p.floor, floor)
}

// Interval is the median of the pairs' ratios, with the bounds that hold the true median 95 times of 100.
type Interval struct {
	Median float64 `json:"median"`
	Low    float64 `json:"low"`
	High   float64 `json:"high"`
	Pairs  int     `json:"pairs"`
}

// ratio is weft over floor. Its interval is the one of order statistics: it assumes nothing of how the ratios are distributed.
func (p pairs) ratio() Interval {
	var rs sample
	for i, w := range p.weft {
		rs = append(rs, w/p.floor[i])
	}
	o := rs.sorted()
	out := Interval{Median: o.median(), Pairs: len(o)}
	if len(o) > 0 {
		k := medianRank(len(o))
		out.Low, out.High = o[k], o[len(o)-1-k]
	}
	return out
}

// medianRank is the k (from 0) for which the k-th smallest and the k-th largest of n enclose the median with at least 95 %. Below six
// values there is none, and the interval is all of them.
func medianRank(n int) int {
	k, below := 0, 0.0
	for p := math.Pow(0.5, float64(n)); below+p <= 0.025; k++ { // P(exactly k of n lie below the median)
		below += p
		p *= float64(n-k) / float64(k+1)
	}
	return max(0, k-1)
}

// Summary is what the JSON has of a sample.
type Summary struct {
	N      int     `json:"n"`
	Min    float64 `json:"min"`
	P10    float64 `json:"p10"`
	Median float64 `json:"median"`
	P90    float64 `json:"p90"`
	Max    float64 `json:"max"`
}

func (s sample) summary() *Summary {
	if len(s) == 0 {
		return nil
	}
	return &Summary{N: len(s), Min: s.quantile(0), P10: s.quantile(0.1), Median: s.median(), P90: s.quantile(0.9), Max: s.quantile(1)}
}
