package server_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"weft/store/storetest/server"
)

// Whoever leads is killed: a single server comes back with what it had, three go on with another leader.
func TestServersOfEachKind(t *testing.T) {
	for _, kind := range server.Kinds {
		for _, size := range []int{1, 3} {
			t.Run(fmt.Sprintf("%d of %s", size, kind), func(t *testing.T) {
				t.Parallel()
				c, err := server.Start(t.Context(), server.Options{Kind: kind, Size: size, Dir: t.TempDir()})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() {
					if err := c.Stop(); err != nil {
						t.Error(err)
					}
				})
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute) // the first start on a machine may build the server
				defer cancel()
				old, err := c.Leader(ctx)
				if err != nil {
					t.Fatal(err)
				}
				if err := old.Kill(); err != nil {
					t.Fatal(err)
				}
				if size == 1 {
					if _, err := c.Leader(ctx); err == nil {
						t.Error("a dead server leads")
					}
					if err := old.Start(); err != nil {
						t.Fatal(err)
					}
				}
				for ctx.Err() == nil {
					now, err := c.Leader(ctx)
					if err == nil && (now != old || size == 1) {
						return
					}
					time.Sleep(50 * time.Millisecond)
				}
				t.Error("nobody leads")
			})
		}
	}
}
