package dnssvc

import (
	"slices"
	"testing"

	"weft/store/record"
)

// What is told without a socket is what a socket would answer.
func TestAddressesAreThoseOfTheAnswers(t *testing.T) {
	w := newWorld(t)
	front := w.network("front")
	w.ep(front, "web 10.1.0.2 www")
	down := w.ep(front, "db 10.1.0.3 www")
	sb := Sandbox{ID: "s", Networks: []Network{{ID: front}}}
	cfg := Config{Picture: w.picture, Usable: func(ep *record.Endpoint) bool { return ep.ID != down.ID }}
	for _, name := range []string{"web", "WEB.front", "www", "db", "nobody"} {
		var got []string
		for _, a := range Addresses(cfg, sb, name) {
			got = append(got, a.String())
		}
		want := map[string][]string{"web": {"10.1.0.2"}, "WEB.front": {"10.1.0.2"}, "www": {"10.1.0.2"}}[name]
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
		if answer, _ := local(t, w, sb, cfg.Usable, name, typeA); len(want) > 0 && answer != want[0] {
			t.Errorf("%s: asked through a packet: %s", name, answer)
		}
	}
}
