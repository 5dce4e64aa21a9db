package command

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	weftv1 "weft/proto/weft/v1"
)

// lifeFlags are the options of `weft run` on how a sandbox begins, ends and begins again.
type lifeFlags struct {
	restart, stopSignal, cidFile string
	stopTimeout                  int
	labelFiles                   []string
	keys                         detaching
	cmd                          *cobra.Command
}

func (l *lifeFlags) add(cmd *cobra.Command) {
	l.cmd = cmd
	f := cmd.Flags()
	f.StringVar(&l.restart, "restart", "no", "When to start the process again: no, on-failure[:N], always, unless-stopped")
	f.StringVar(&l.stopSignal, "stop-signal", "", "Signal that stops the process, by name or number (default SIGTERM)")
	f.IntVar(&l.stopTimeout, "stop-timeout", 10, "Seconds that a stop waits before the process is killed (-1: for ever)")
	f.StringVar(&l.cidFile, "cidfile", "", "Write the sandbox's ID to this file, which must not be there")
	f.StringArrayVar(&l.labelFiles, "label-file", nil, "Read in a file of labels (KEY=VALUE, one a line)")
	l.keys.add(cmd)
	complete(cmd, "restart", "no", "on-failure", "always", "unless-stopped")
}

// into puts them into the request.
func (l *lifeFlags) into(r *weftv1.CreateSandboxRequest) error {
	policy, err := parseRestart(l.restart)
	if err != nil {
		return err
	}
	if policy != nil && r.AutoRemove {
		//lint:ignore ST1005 Docker's words
		return errors.New("Conflicting options: --restart and --rm")
	}
	r.Restart = policy
	sig, err := parseSignal(l.stopSignal)
	if err != nil {
		return err
	}
	r.StopSignal = int32(sig)
	if l.cmd.Flags().Changed("stop-timeout") {
		r.StopTimeout = durationpb.New(time.Duration(l.stopTimeout) * time.Second)
	}
	labels := map[string]string{}
	for _, name := range l.labelFiles {
		lines, err := readLines("--label-file", name)
		if err != nil {
			return err
		}
		for _, line := range lines {
			k, v, _ := strings.Cut(line, "=")
			labels[k] = v
		}
	}
	maps.Copy(labels, r.Labels)
	if len(labels) > 0 {
		r.Labels = labels
	}
	return nil
}

// parseRestart reads NAME[:N], with docker's words on what is wrong with it. No policy is nil.
func parseRestart(s string) (*weftv1.RestartPolicy, error) {
	name, count, hasCount := strings.Cut(s, ":")
	switch {
	case s == "":
		return nil, nil
	case name == "":
		return nil, errors.New("invalid restart policy format: no policy provided before colon")
	case strings.Contains(count, ":"):
		return nil, errors.New("invalid restart policy format")
	case name != "no" && name != "on-failure" && name != "always" && name != "unless-stopped":
		return nil, fmt.Errorf("invalid restart policy '%s': it is no, on-failure[:N], always or unless-stopped", name)
	case s == "no":
		return nil, nil
	case !hasCount:
		return &weftv1.RestartPolicy{Name: name}, nil
	}
	n, err := strconv.ParseInt(count, 10, 32)
	switch {
	case err != nil:
		return nil, errors.New("invalid restart policy format: maximum retry count must be an integer")
	case name != "on-failure":
		return nil, fmt.Errorf("maximum retry count cannot be used with restart policy '%s'", name)
	case n < 0:
		return nil, errors.New("maximum retry count cannot be negative")
	}
	return &weftv1.RestartPolicy{Name: name, Max: int32(n)}, nil
}

// checkCID refuses, before anything is made, a file that is there.
func (l *lifeFlags) checkCID() error {
	if l.cidFile == "" {
		return nil
	}
	if _, err := os.Lstat(l.cidFile); err == nil {
		return fmt.Errorf("container ID file found, make sure the other container isn't running or delete %s", l.cidFile)
	}
	return nil
}

func (l *lifeFlags) writeCID(id string) error {
	if l.cidFile == "" {
		return nil
	}
	f, err := os.OpenFile(l.cidFile, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o644)
	if err == nil {
		_, err = f.WriteString(id)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return fmt.Errorf("failed to create the container ID file: %w", err)
	}
	return nil
}
