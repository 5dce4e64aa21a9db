// Command weftd is weft's agent: one per host. Flags become an agent.Config; the agent does the rest.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"weft/agent"
	"weft/agent/sandbox"
)

func main() {
	sandbox.Main() // takes over, and does not return, where this process is a sandbox's supervisor
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	cmd := command(func(ctx context.Context, cfg agent.Config) error { return agent.Run(ctx, cfg) })
	if err := cmd.ExecuteContext(ctx); err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintf(os.Stderr, "weftd: %v\n", err)
		os.Exit(1)
	}
}
