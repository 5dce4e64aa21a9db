// Package about holds what a build knows of itself.
package about

import "runtime/debug"

// Version is set at link time, which only a variable without a value of its own allows; a plain `go build` leaves it to the module's or the
// commit's.
var Version string

func init() {
	if Version == "" {
		Version = fromBuildInfo()
	}
}

func fromBuildInfo() string {
	b, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, s := range b.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return s.Value[:12]
		}
	}
	if b.Main.Version != "" {
		return b.Main.Version
	}
	return "unknown"
}
