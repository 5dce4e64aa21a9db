package command

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weft/cmd/weft/table"
	weftv1 "weft/proto/weft/v1"
)

func (c *cli) networkInspect() *cobra.Command {
	var format string
	var verbose bool
	cmd := &cobra.Command{
		Use: "inspect [OPTIONS] NETWORK [NETWORK...]", Short: "Display detailed information on one or more networks", Args: atLeast(1),
		Example: `  weft network inspect web
  weft network inspect -f '{{range .Containers}}{{.Name}} {{end}}' web`,
		ValidArgsFunction: c.completeNetworks(-1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.inspect(args, format, func(name string) (any, error) { return c.findNetwork(cmd.Context(), name, verbose) })
		},
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", "Go template")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "Add VNI, MTU, peers and the state of each endpoint")
	return cmd
}

func (c *cli) inspectCommand() *cobra.Command {
	var format, kind string
	cmd := &cobra.Command{
		Use: "inspect [OPTIONS] NAME|ID [NAME|ID...]", Short: "Display detailed information on sandboxes and networks", Args: atLeast(1),
		Example: `  weft inspect c1
  weft inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' c1`,
		ValidArgsFunction: c.completeArgs(-1, func(ctx context.Context) []string {
			return append(c.sandboxNames(ctx, true), c.networkNames(ctx)...)
		}),
		RunE: func(cmd *cobra.Command, args []string) error {
			find, err := c.finder(cmd, kind)
			if err != nil {
				return err
			}
			return c.inspect(args, format, find)
		},
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", "Go template")
	cmd.Flags().StringVar(&kind, "type", "", "Only look at this: sandbox (or container), network")
	complete(cmd, "type", "sandbox", "network")
	return cmd
}

func (c *cli) finder(cmd *cobra.Command, kind string) (func(string) (any, error), error) {
	sandbox := func(name string) (any, error) { return c.findSandbox(cmd.Context(), name) }
	network := func(name string) (any, error) { return c.findNetwork(cmd.Context(), name, false) }
	switch kind {
	case "sandbox", "container":
		return sandbox, nil
	case "network":
		return network, nil
	case "":
		return func(name string) (any, error) {
			v, err := sandbox(name)
			if status.Code(err) != codes.NotFound {
				return v, err
			}
			if v, err = network(name); status.Code(err) == codes.NotFound {
				return nil, fmt.Errorf("no such object: %s is neither a sandbox of this host nor a network", name)
			}
			return v, err
		}, nil
	}
	return nil, fmt.Errorf("%q is not a valid value for --type: it is sandbox or network", kind)
}

func (c *cli) findSandbox(ctx context.Context, name string) (any, error) {
	r, err := call(ctx, c, (*client).InspectSandbox, &weftv1.InspectSandboxRequest{Ref: name})
	if err != nil {
		return nil, err
	}
	return sandboxView(r.Sandbox), nil
}

func (c *cli) findNetwork(ctx context.Context, name string, verbose bool) (any, error) {
	r, err := call(ctx, c, (*client).InspectNetwork, &weftv1.InspectNetworkRequest{Ref: name})
	if err != nil {
		return nil, err
	}
	if r.EndpointsUnknown {
		fmt.Fprintf(c.env.Err, "WARNING: the endpoints of network %s are not known now: the cluster store is not reachable, and this host takes no part in the network\n", name)
	}
	return networkView(r, verbose), nil
}

// inspect shows what it found, and then what it did not find: docker's order. Nothing is shown when the template is wrong.
func (c *cli) inspect(names []string, format string, find func(string) (any, error)) error {
	var found []any
	var missing []error
	for _, name := range names {
		switch v, err := find(name); {
		case errors.Is(err, errLost):
			return err
		case err != nil:
			missing = append(missing, err)
		default:
			found = append(found, v)
		}
	}
	if err := showObjects(c.env.Out, found, format); err != nil {
		return err
	}
	for _, err := range missing {
		report(c.env.Err, err)
	}
	if len(missing) > 0 {
		return &fault{code: codeFailure}
	}
	return nil
}

func showObjects(w io.Writer, found []any, format string) error {
	if format == "" || format == "json" {
		if found == nil {
			found = []any{}
		}
		e := json.NewEncoder(w)
		e.SetEscapeHTML(false)
		if format == "" {
			e.SetIndent("", "    ")
		}
		return e.Encode(found)
	}
	t, err := table.Parse(format)
	if err != nil {
		return err
	}
	if len(found) == 0 {
		_, err := fmt.Fprintln(w) // as docker
		return err
	}
	var out bytes.Buffer
	for _, v := range found {
		var b strings.Builder
		if err := t.Execute(&b, v); err != nil {
			// Docker's second try: the names of the JSON (.Id) beside those of the structures (.ID).
			raw, rawErr := asMap(v)
			if rawErr != nil {
				return rawErr
			}
			b.Reset()
			if err := t.Execute(&b, raw); err != nil {
				return fmt.Errorf("template parsing error: %w", err)
			}
		}
		fmt.Fprintln(&out, b.String())
	}
	_, err = w.Write(out.Bytes())
	return err
}

func asMap(v any) (any, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("show as JSON: %w", err)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var out any
	if err := d.Decode(&out); err != nil {
		return nil, fmt.Errorf("show as JSON: %w", err)
	}
	return out, nil
}
