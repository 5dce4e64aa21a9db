package server

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strconv"
	"testing"

	"go.uber.org/goleak"
)

// Main runs the tests of a package with servers that are started once for it: a cluster of one, and one of three. Tests that wait for
// servers more than they compute may be more at once than there are processors: parallel. after, which may be nil, ends what the tests
// themselves keep for all of them. The result is for os.Exit; a goroutine that is left over is a failure.
func Main(m *testing.M, kind Kind, parallel int, single, three **Cluster, after func() error) int {
	flag.Parse()
	code, err := withServers(kind, parallel, map[int]**Cluster{1: single, 3: three}, func() int { return m.Run() }, after)
	err = errors.Join(err, goleak.Find())
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return max(code, 1)
	}
	return code
}

func withServers(kind Kind, parallel int, clusters map[int]**Cluster, run func() int, after func() error) (code int, err error) {
	if err := flag.Set("test.parallel", strconv.Itoa(parallel)); err != nil {
		return 1, err
	}
	dir, err := os.MkdirTemp("", "weft-"+string(kind)+"-")
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	for size, c := range clusters {
		var d string
		if d, err = os.MkdirTemp(dir, "c"); err != nil {
			return 1, err
		}
		if *c, err = Start(context.Background(), Options{Kind: kind, Size: size, Dir: d}); err != nil {
			return 1, err
		}
		defer func() { err = errors.Join(err, (*c).Stop()) }()
	}
	if after != nil {
		defer func() { err = errors.Join(err, after()) }()
	}
	return run(), nil
}
