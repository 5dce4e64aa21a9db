// Command weft is what people type: it asks the agent of this host, over a unix socket, and shows the answer.
package main

import (
	"context"
	"os"

	"weft/cmd/weft/command"
)

func main() {
	os.Exit(command.Run(context.Background(), os.Args[1:], command.Environment{
		In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Lookup: os.LookupEnv,
	}))
}
