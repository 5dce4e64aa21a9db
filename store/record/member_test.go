package record

import (
	"bytes"
	"encoding/json"
	"fmt"
	"testing"

	"pgregory.net/rapid"
)

// anyJSON draws a value that encoding/json can write.
func anyJSON(depth int) *rapid.Generator[any] {
	text := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"", `"`, `\`, `\"`, "{", "}]", ",:", "\u2028", "é"}))
	leaves := []*rapid.Generator[any]{
		rapid.Just[any](nil), rapid.Map(rapid.Bool(), func(v bool) any { return v }), rapid.Map(rapid.Int(), func(v int) any { return v }),
		rapid.Map(text, func(v string) any { return v }),
	}
	if depth == 0 {
		return rapid.OneOf(leaves...)
	}
	inner := anyJSON(depth - 1)
	return rapid.OneOf(append(leaves,
		rapid.Map(rapid.SliceOfN(inner, 0, 3), func(v []any) any { return v }),
		rapid.Map(rapid.MapOfN(text, inner, 0, 3), func(v map[string]any) any { return v }))...)
}

// The members of an object are those that encoding/json finds, with or without space between.
func TestMembersAreThoseOfEncodingJSON(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b, err := json.Marshal(anyJSON(3).Draw(t, "value"))
		if err != nil {
			t.Fatal(err)
		}
		if rapid.Bool().Draw(t, "spaced") {
			var out bytes.Buffer
			if err := json.Indent(&out, b, " ", "\t"); err != nil {
				t.Fatal(err)
			}
			b = append(append([]byte(" \n"), out.Bytes()...), '\r')
		}
		var want map[string]json.RawMessage
		_ = json.Unmarshal(b, &want) // what is no object has none
		got := map[string]json.RawMessage{}
		for quoted, value := range members(b) {
			name, err := unquote(quoted)
			if err != nil {
				t.Fatal(err)
			}
			got[name] = value
		}
		if len(got) != len(want) || len(want) > 0 && fmt.Sprintf("%q", got) != fmt.Sprintf("%q", want) {
			t.Fatalf("of %s:\n%q\nwant\n%q", b, got, want)
		}
	})
}

// Whatever it is given, it ends.
func FuzzMembers(f *testing.F) {
	for _, s := range []string{`{"a":{"b":[1,2]},"c":"d"}`, `{"a"`, `{"a":"\`, `{"a":[}`, `{,,`, ``} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(_ *testing.T, b []byte) {
		for name, value := range members(b) {
			_, _ = unquote(name)
			_ = value
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	text := []byte(`{"v":1,"id":"5f0c8e4e0a1b2c3d5f0c8e4e0a1b2c3d5f0c8e4e0a1b2c3d5f0c8e4e0a1b2c3d","network":"5f0c8e4e0a1b","host":"0123456789abcdef","incarnation":1,` +
		`"sandbox":"aa0c8e4e0a1b","name":"web","addrs":["10.100.128.1"],"mac":"02:42:0a:64:80:01","running":true}`)
	b.ReportAllocs()
	for b.Loop() {
		var ep Endpoint
		if err := Decode(text, &ep); err != nil {
			b.Fatal(err)
		}
	}
}
