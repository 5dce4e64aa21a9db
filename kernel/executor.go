package kernel

import "context"

// Verb is what an Op does.
type Verb uint8

// Put creates an object or makes an existing one equal to it; Del removes it. Both succeed where nothing is left to do.
const (
	Put Verb = iota
	Del
)

// Op is one step. Ops are values: they can be printed, compared and run.
type Op struct {
	Verb Verb
	Obj  Object
}

func (o Op) String() string {
	return [...]string{"put ", "del "}[o.Verb] + o.Obj.String()
}

// Executor reads and changes the kernel. The real one is Open's; kernel/fake has one in memory that fails on demand.
type Executor interface {
	// Read returns all that is weft's own in the given namespaces (a namespace that is gone has nothing). An interrupted dump or an
	// overflow is repeated and at last an error; it never returns a part.
	Read(ctx context.Context, namespaces []string) (State, error)
	// Namespaces returns the network namespaces that are weft's own, as the paths that Key.NS has.
	Namespaces(ctx context.Context) ([]string, error)
	// Apply runs the steps in their order and returns one error (or nil) for each. A step that fails does not stop those that do not
	// depend on it. Neighbouring steps go to the kernel in one message or batch where it takes them so: hand over many at once, also
	// many deletes, which are done so that others' steps go on beside them. A sandbox's namespace is held during a call only.
	Apply(ctx context.Context, ops []Op) []error
	// Close lets go of the sockets; what is in the kernel stays.
	Close() error
}
