package command

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"
)

// Exit codes that have a meaning of their own, as docker's.
const (
	codeFailure = 1
	codeAgent   = 125 // run: the agent refused, or the flags are wrong; no process has run
)

// fault is an error that knows how the user is to be told. An error that is none is printed as "Error: …" and exits 1.
type fault struct {
	code int
	text string // complete lines for stderr; "" when everything has been said
	err  error  // the cause, where there is one
}

func (f *fault) Error() string { return f.text }
func (f *fault) Unwrap() error { return f.err }

// usage is what is said about a command line that is wrong.
func usage(cmd *cobra.Command, code int, format string, args ...any) error {
	return &fault{code: code, text: fmt.Sprintf(format, args...) + fmt.Sprintf("\nSee '%s --help'.", cmd.CommandPath())}
}

// runFault is an error of `weft run` before its process runs: docker's form, and docker's hint.
func runFault(err error) error {
	var f *fault
	if errors.As(err, &f) {
		return f
	}
	if code, ok := notStarted(err); ok {
		return &fault{code: code, text: "weft: " + sentence(plain(err)), err: err}
	}
	return &fault{code: codeAgent, text: "weft: " + sentence(plain(err)) + "\nSee 'weft run --help'.", err: err}
}

// notStarted returns the exit code that the agent gave for a process that could not be run.
func notStarted(err error) (int, bool) {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.Reason == "NOT_STARTED" {
			code, err := strconv.Atoi(info.Metadata["exit_code"])
			return code, err == nil
		}
	}
	return 0, false
}

// sentence ends text as a sentence ends.
func sentence(text string) string {
	if strings.HasSuffix(text, ".") || strings.HasSuffix(text, "?") || strings.HasSuffix(text, "!") {
		return text
	}
	return text + "."
}

// ended is how a command ends whose process ended with code.
func ended(code int, reason string) error {
	switch {
	case reason != "":
		return &fault{code: code, text: "weft: " + sentence(reason)}
	case code != 0:
		return &fault{code: code}
	}
	return nil
}

// plain is an error's text for the user: of one from the agent, its message without the code.
func plain(err error) string {
	var s interface{ GRPCStatus() *status.Status }
	if errors.As(err, &s) && s.GRPCStatus() != nil {
		return strings.Replace(err.Error(), s.(error).Error(), s.GRPCStatus().Message(), 1)
	}
	return err.Error()
}

// report prints err once and says which code to exit with.
func report(w io.Writer, err error) int {
	var f *fault
	switch {
	case err == nil:
		return 0
	case !errors.As(err, &f):
		fmt.Fprintln(w, "Error: "+plain(err))
		return codeFailure
	case f.text != "":
		fmt.Fprintln(w, f.text)
	}
	return f.code
}

// each does something for every name, goes on after errors, and prints each error at once. It fails when one failed. An agent that is
// not there is said once.
func (c *cli) each(names []string, do func(name string) error) error {
	failed := false
	for _, n := range names {
		err := do(n)
		if errors.Is(err, errLost) {
			return err
		}
		if err != nil {
			report(c.env.Err, err)
			failed = true
		}
	}
	if failed {
		return &fault{code: codeFailure}
	}
	return nil
}
