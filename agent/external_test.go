package agent

import (
	"strings"
	"testing"

	"weft/agent/dockerd"
	"weft/store/record"
)

func TestRefersTo(t *testing.T) {
	t.Parallel()
	docker := &record.Sandbox{Name: "web", External: "docker:abcdef012345"}
	netns := &record.Sandbox{Name: "x", External: "netns:/run/netns/x"}
	pid := &record.Sandbox{Name: "pid-12", External: "pid:12"}
	own := &record.Sandbox{Name: "web"}
	for _, tc := range []struct {
		ref  string
		s    *record.Sandbox
		want bool
	}{
		{"docker:web", docker, true}, {"docker:abcdef", docker, true}, {"docker:", docker, false}, {"docker:other", docker, false},
		{"docker:web", own, false}, {"docker:x", netns, false}, {"web", docker, false}, // by its name, as any
		{"netns:/run/netns/x", netns, true}, {"netns:/run/netns/../netns/x", netns, true}, {"netns:x", netns, false}, {"netns:", netns, false},
		{"pid:12", pid, true}, {"pid:1", pid, false}, {"pid:12", docker, false},
	} {
		if got := refersTo(tc.ref, tc.s); got != tc.want {
			t.Errorf("%s is %s: %v", tc.ref, tc.s.External, got)
		}
	}
}

func TestFindStranger(t *testing.T) {
	t.Parallel()
	a := &Agent{docker: dockerd.New("unix:///does/not/exist")}
	for _, tc := range []struct {
		ref  string
		want stranger
		err  string
	}{
		{ref: "netns:/run//netns/x", want: stranger{external: "netns:/run/netns/x", name: "x", hostname: "x", netns: "/run/netns/x"}},
		{ref: "pid:12", want: stranger{external: "pid:12", name: "pid-12", hostname: "pid-12", netns: "/proc/12/ns/net"}},
		{ref: "netns:x", err: "absolute path"}, {ref: "netns:", err: "absolute path"},
		{ref: "pid:", err: "number of a process"}, {ref: "pid:-1", err: "number of a process"}, {ref: "pid:012", err: "number of a process"},
		{ref: "pid:1/../2", err: "number of a process"}, {ref: "pid:99999999999999999999", err: "number of a process"},
		{ref: "docker:web", err: "ask the Docker daemon at unix:///does/not/exist for container web"},
	} {
		kind, what, ok := external(tc.ref)
		if !ok {
			t.Fatalf("%s is none", tc.ref)
		}
		got, err := a.findStranger(t.Context(), kind, what)
		if tc.err == "" && (err != nil || got != tc.want) {
			t.Errorf("%s: %+v, %v, want %+v", tc.ref, got, err, tc.want)
		}
		if tc.err != "" && (err == nil || !strings.Contains(err.Error(), tc.err)) {
			t.Errorf("%s: %v, want %q", tc.ref, err, tc.err)
		}
	}
	if _, _, ok := external("web"); ok {
		t.Error("a plain name is taken for a namespace of others")
	}
}

func FuzzExternal(f *testing.F) {
	for _, s := range []string{"docker:web", "netns:/run/netns/x", "pid:12", "pid:", "x", "netns:../.."} {
		f.Add(s)
	}
	a := &Agent{docker: dockerd.New("tcp://nowhere")}
	f.Fuzz(func(t *testing.T, ref string) {
		kind, what, ok := external(ref)
		if !ok {
			return
		}
		st, err := a.findStranger(t.Context(), kind, what)
		if err != nil {
			return
		}
		if !strings.HasPrefix(st.netns, "/") || !strings.HasPrefix(st.external, kind) || !refersTo(st.external, &record.Sandbox{Name: st.name, External: st.external}) {
			t.Errorf("%q is %+v", ref, st)
		}
	})
}
