package table

import (
	"slices"
	"testing"
)

func TestWrap(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][]string{
		"":                 {""},
		"one":              {"one"},
		"one two":          {"one two"},
		"one two  three":   {"one two", "three"},
		"a verylongword b": {"a", "verylongword", "b"},
		"ümläut éé x":      {"ümläut éé", "x"},
	} {
		if got := Wrap(text, 9); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}
