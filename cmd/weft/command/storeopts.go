package command

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// storeOpts is the flag for a store's options, which takes them as weftd's --cluster-store-opt: KEY=VALUE, repeated or with commas between.
type storeOpts struct {
	flag string // what errors call it
	vals map[string]string
}

func (o *storeOpts) Type() string { return "KEY=VALUE" }
func (o *storeOpts) String() string {
	return strings.Join(slices.Sorted(maps.Keys(o.vals)), ",") // no values: they may be secrets
}

// Set splits s at the commas that a KEY= follows; any other belongs to a value. What has no "=" is not shown: it may be a secret.
func (o *storeOpts) Set(s string) error {
	if key, _, ok := strings.Cut(s, "="); !ok || !isOptionKey(key) {
		return &refused{fmt.Sprintf("--%s: it must be KEY=VALUE[,KEY=VALUE…]", o.flag)}
	}
	last := ""
	for part := range strings.SplitSeq(s, ",") {
		key, value, ok := strings.Cut(part, "=")
		if !ok || !isOptionKey(key) {
			o.vals[last] += "," + part
			continue
		}
		if _, twice := o.vals[key]; twice {
			return &refused{fmt.Sprintf("--%s %s is given twice", o.flag, key)}
		}
		if o.vals == nil {
			o.vals = map[string]string{}
		}
		o.vals[key], last = value, key
	}
	return nil
}

// isOptionKey tells what may be an option's name, known or not.
func isOptionKey(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '.' && r != '-' && r != '_'
	})
}
