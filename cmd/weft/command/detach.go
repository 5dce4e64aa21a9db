package command

import (
	"errors"
	"fmt"

	"github.com/moby/term"
	"github.com/spf13/cobra"
)

// errDetached says that the user has typed the keys that leave a process alone; its words are docker's.
var errDetached error = term.EscapeError{}

// defaultDetachKeys are docker's: ctrl-p ctrl-q.
var defaultDetachKeys = []byte{16, 17}

// detaching is the flag for the keys that leave a process in the foreground alone.
type detaching struct{ keys string }

func (d *detaching) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&d.keys, "detach-keys", "", "Keys that leave the process alone: characters and ctrl-<key>, with commas between (default \"ctrl-p,ctrl-q\")")
}

func (d *detaching) parse() ([]byte, error) {
	if d.keys == "" {
		return defaultDetachKeys, nil
	}
	keys, err := term.ToBytes(d.keys)
	if err != nil {
		return nil, fmt.Errorf("invalid detach keys (%s) provided: it takes characters and ctrl-<key>, where a key is a letter or one of @ [ \\ ] ^ _, with commas between", d.keys)
	}
	return keys, nil
}

func isDetached(err error) bool {
	var e term.EscapeError
	return errors.As(err, &e)
}
