package libnetwork

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// reader is one kind of store. It never writes.
type reader interface {
	// tree returns all keys below a directory, by their paths within it; errNothing where there is no such directory.
	tree(ctx context.Context, dir string) (Tree, error)
	// names returns what is right below a directory, "" for the top; errNothing where there is no such directory.
	names(ctx context.Context, dir string) ([]string, error)
	close()
}

var errNothing = errors.New("there is no such directory")

// Read reads Docker's networks from a store.
func Read(ctx context.Context, s Source) (Model, error) {
	r := s.open()
	defer r.close()
	for _, prefix := range s.prefixes() {
		t, err := r.tree(ctx, join(prefix, root))
		if errors.Is(err, errNothing) {
			continue
		}
		if err != nil {
			return Model{}, fmt.Errorf("read Docker's networks from %s: %w", s, err)
		}
		return Parse(t), nil
	}
	return Model{}, s.explain(ctx, r)
}

func (s Source) open() reader {
	switch s.Scheme {
	case "consul":
		return &consul{web: newWeb(s)}
	case "zk":
		return newZooKeeper(s)
	}
	return &etcd2{web: newWeb(s)}
}

// prefixes is where to look, best first.
func (s Source) prefixes() []string {
	if s.Path == "" || s.Path == s.Prefix {
		return []string{s.Prefix}
	}
	return []string{s.Prefix, s.Path}
}

func join(parts ...string) string { return clean(strings.Join(parts, "/")) }

// shown is how many names an error lists, and in how many directories a tree is looked for.
const shown = 8

// explain says what is there instead of Docker's tree, and where one is that the user may have meant.
func (s Source) explain(ctx context.Context, r reader) error {
	top, err := r.names(ctx, "")
	if errors.Is(err, errNothing) || err == nil && len(top) == 0 {
		return fmt.Errorf("no Docker networks in %s: this store is empty, or these credentials see nothing of it", s)
	}
	if err != nil {
		return fmt.Errorf("look for Docker's networks in %s: %w", s, err)
	}
	missing := fmt.Sprintf("no Docker networks in %s: it has no %s", s, join(s.Prefix, root))
	for _, name := range append([]string{""}, top[:min(len(top), 4*shown)]...) {
		if name == s.Prefix {
			continue
		}
		if _, err := r.names(ctx, join(name, root)); err == nil {
			there := s
			there.Prefix = name
			return fmt.Errorf("%s; Docker's networks are at %s", missing, there)
		}
	}
	more := ""
	if len(top) > shown {
		more = fmt.Sprintf(" and %d more", len(top)-shown)
		top = top[:shown]
	}
	return fmt.Errorf("%s; what is there: %s%s. Add the path that dockerd's --cluster-store had", missing, strings.Join(top, ", "), more)
}
