//go:build !failpoint

package agent

// withFailpoints gives a machine whose writes can be made to end the agent, in builds for tests alone (tag failpoint).
func withFailpoints(m machine, _ Config) machine { return m }
