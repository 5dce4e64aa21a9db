package command

import (
	"maps"
	"strings"
	"testing"
)

func TestOptionsOfAStore(t *testing.T) {
	for name, tc := range map[string]struct {
		given []string
		want  map[string]string
		err   string
	}{
		"one":               {[]string{"kv.user=u"}, map[string]string{"kv.user": "u"}, ""},
		"repeated":          {[]string{"kv.user=u", "kv.path=/p"}, map[string]string{"kv.user": "u", "kv.path": "/p"}, ""},
		"in one word":       {[]string{"kv.user=u,kv.path=/p"}, map[string]string{"kv.user": "u", "kv.path": "/p"}, ""},
		"comma in a value":  {[]string{"kv.user=u,v,kv.path=/p,"}, map[string]string{"kv.user": "u,v", "kv.path": "/p,"}, ""},
		"equals in a value": {[]string{"kv.path=/a=b"}, map[string]string{"kv.path": "/a=b"}, ""},
		"empty value":       {[]string{"kv.path="}, map[string]string{"kv.path": ""}, ""},
		"no value":          {[]string{"secret"}, nil, "--to-opt: it must be KEY=VALUE[,KEY=VALUE…]"},
		"no key":            {[]string{"=secret"}, nil, "--to-opt: it must be KEY=VALUE[,KEY=VALUE…]"},
		"a comma first":     {[]string{",kv.user=secret"}, nil, "--to-opt: it must be KEY=VALUE[,KEY=VALUE…]"},
		"twice":             {[]string{"kv.user=u", "kv.user=secret"}, nil, "--to-opt kv.user is given twice"},
		"twice in one word": {[]string{"kv.user=u,kv.user=secret"}, nil, "--to-opt kv.user is given twice"},
	} {
		t.Run(name, func(t *testing.T) {
			o := storeOpts{flag: "to-opt"}
			var err error
			for _, s := range tc.given {
				if err = o.Set(s); err != nil {
					break
				}
			}
			switch {
			case tc.err == "" && (err != nil || !maps.Equal(o.vals, tc.want)):
				t.Errorf("got %v, %v; want %v", o.vals, err, tc.want)
			case tc.err != "" && (err == nil || err.Error() != tc.err):
				t.Errorf("got %v, want %q", err, tc.err)
			}
		})
	}
}

// What is wrong names the option, and shows no value: it may be a secret.
func TestAWrongOptionOfAStoreOnTheCommandLine(t *testing.T) {
	s := newShell(t)
	for option, args := range map[string][]string{"--to-opt": {"store", "migrate", "--to", "zk://h"}, "--from-opt": {"import", "docker", "--from", "zk://h"}} {
		r := s.run(append(args, option, "s3cret")...)
		if r.code == 0 || !strings.HasPrefix(r.err, "weft: "+option+": it must be KEY=VALUE") || strings.Contains(r.err, "s3cret") {
			t.Errorf("%s: %+v", option, r)
		}
	}
}

func TestTheHelpOfImportFitsATerminal(t *testing.T) {
	r := newShell(t).run("import", "docker", "--help")
	for _, words := range []string{"--from-opt KEY=VALUE", "kv.passwordfile"} {
		if !strings.Contains(r.out, words) {
			t.Errorf("no %q in:\n%s", words, r.out)
		}
	}
	for line := range strings.Lines(r.out) {
		if n := len([]rune(strings.TrimSuffix(line, "\n"))); n > 120 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
}
