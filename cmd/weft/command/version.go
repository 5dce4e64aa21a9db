package command

import (
	"runtime"

	"github.com/spf13/cobra"

	"weft/agent/about"
	weftv1 "weft/proto/weft/v1"
)

// versions is what `version` shows.
type versions struct {
	Client programVersion
	Server *agentVersion
}

type programVersion struct{ Version, GoVersion, OsArch string }

type agentVersion struct {
	programVersion
	APIVersion     string `json:"ApiVersion"`
	HostID         string `json:"HostId"`
	ClusterID      string `json:"ClusterId"`
	Store          string
	StoreReachable bool
	StoreError     string
}

func (c *cli) versionCommand() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use: "version [OPTIONS]", Short: "Show the versions of the command and of the agent", Args: exactly(0),
		Example: `  weft version
  weft version --format '{{.Server.Version}}'`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := versions{Client: programVersion{about.Version, runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}}
			r, err := call(cmd.Context(), c, (*client).Version, &weftv1.VersionRequest{})
			if err == nil {
				v.Server = &agentVersion{
					programVersion: programVersion{r.Version, r.GoVersion, r.OsArch}, APIVersion: r.ApiVersion, HostID: r.HostId,
					ClusterID: r.ClusterId, Store: r.Store, StoreReachable: r.StoreReachable, StoreError: r.StoreError,
				}
			}
			if showErr := c.showVersion(v, format); showErr != nil && err == nil {
				err = showErr
			}
			return err
		},
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", "Go template, or \"json\"")
	return cmd
}

const versionTemplate = `Client:
 Version:      {{.Client.Version}}
 Go version:   {{.Client.GoVersion}}
 OS/Arch:      {{.Client.OsArch}}{{with .Server}}

Agent:
 Version:      {{.Version}}
 API version:  {{.APIVersion}}
 Go version:   {{.GoVersion}}
 OS/Arch:      {{.OsArch}}
 Host ID:      {{.HostID}}
 Cluster ID:   {{.ClusterID}}
 Store:        {{.Store}} ({{if .StoreReachable}}reachable{{else}}not reachable: {{.StoreError}}{{end}}){{end}}`

func (c *cli) showVersion(v versions, format string) error {
	switch format {
	case "":
		format = versionTemplate
	case "json":
		format = "{{json .}}"
	}
	return showObjects(c.env.Out, []any{v}, format)
}
