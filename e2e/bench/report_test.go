package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"
)

func sampleReport() *Report {
	r := &Report{Machine: Machine{CPUs: 2, Kernel: "6.18", FileSystem: "ext4", FsyncMS: 0.2}, Failed: map[string]string{"names": "no dnsperf"}}
	r.pair("attach, whole (first of its network)", "ms", "raw netlink", pairs{sample{12.345, 12.345}, sample{6, 6}}, atMost(5, "ms"))
	r.pair("DNS in a sandbox", "/s", "a responder", pairs{sample{123456}, sample{200000}}, atLeast(100_000, "/s"))
	r.pair("TCP, one stream", "Gbit/s", "a VXLAN", pairs{sample{9}, sample{10}}, ratioAtLeast(0.95))
	r.pair("attach, kernel part", "ms", "raw", pairs{sample{3}, sample{2}}, ratioAtMost(2))
	r.single("a sandbox's supervisor", "MiB", sample{25})
	r.single("nothing was measured", "ms", nil, atMost(1, "ms"))
	return r
}

func TestBars(t *testing.T) {
	var got []string
	for _, row := range sampleReport().Rows {
		got = append(got, row.Met)
	}
	if want := "no,yes,no,yes,"; strings.Join(got, ",") != want {
		t.Errorf("met: %q, want %q", strings.Join(got, ","), want)
	}
}

func TestTheTable(t *testing.T) {
	var b bytes.Buffer
	if err := sampleReport().print(&b); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(b.String()) {
		if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n > 100 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	for _, want := range []string{
		"attach, whole (first of its network)     12.3 ms       6 ms  2.06 [2.06, 2.06]  ≤ 5 ms       no\n  beside: raw netlink\n",
		"123,456/s", "ratio ≥ 0.95 no\n", "names could not be measured: no dnsperf",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("there is no %q in\n%s", want, b.String())
		}
	}
}

func TestTheJSON(t *testing.T) {
	path := filepath.Join(t.TempDir(), "report.json")
	if err := sampleReport().save(path); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got Report
	if err := json.Unmarshal(raw, &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Rows) != 5 || got.Rows[0].Weft.Median != 12.345 || got.Rows[0].Ratio.Pairs != 2 || got.Rows[4].Floor != nil || got.Failed["names"] == "" {
		t.Errorf("read back as %+v", got)
	}
}

func TestNumbers(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 0.5163: "0.52", 5: "5", 9.876: "9.88", 33.55: "33.5", 123.4: "123", 1e6: "1000000"} {
		if got := number(v); got != want {
			t.Errorf("%v is shown as %s, want %s", v, got, want)
		}
	}
	for v, want := range map[float64]string{999: "999", 1000: "1,000", 1234567: "1,234,567"} {
		if got := thousands(v); got != want {
			t.Errorf("%v is shown as %s, want %s", v, got, want)
		}
	}
}
