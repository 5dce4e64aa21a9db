package command

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"weft/cmd/weft/table"
	weftv1 "weft/proto/weft/v1"
)

func (c *cli) storeCommand() *cobra.Command {
	return group("store", "Look after the cluster's store", "  weft store status\n  weft store check\n  weft store migrate --to consul://192.0.2.2:8500/weft",
		c.storeStatus(), c.storeCheck(), c.storeReseed(), c.storeMigrate())
}

// storeState is what `store status` shows. Fields that are not known now are empty.
type storeState struct {
	Store         string
	Configured    string
	Embedded      bool
	Backend       string
	Version       string
	Endpoints     []string
	Leader        string
	Latency       string
	Revision      uint64
	ClusterID     string `json:"ClusterId"`
	HistoryID     string `json:"HistoryId"`
	SessionTTL    string
	NoticedWithin string
	State         string
	Since         time.Time
	Error         string
	Hosts         uint32
	HostsAlive    uint32
}

func (c *cli) storeStatus() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use: "status [OPTIONS]", Short: "Show how the store is", Args: exactly(0),
		Long: `Show how the cluster's store is, as the agent of this host sees it: back end, version, endpoints, leader, latency (median of some answers),
revision, and within what time a host that died is noticed by the others. The exit code is 1 where the store is away or not believed.`,
		Example: `  weft store status
  weft store status --format '{{.State}} {{.Latency}}'
  weft store status --format json`,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := call(cmd.Context(), c, (*client).StoreStatus, &weftv1.StoreStatusRequest{})
			if err != nil {
				return err
			}
			if err := c.showStore(stateOf(r), format); err != nil {
				return err
			}
			return storeTrouble(r)
		},
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", "Go template, or \"json\"")
	return cmd
}

// storeTrouble is the error of a store that this host cannot work with.
func storeTrouble(r *weftv1.StoreStatusResponse) error {
	switch {
	case r.State == "away":
		return fmt.Errorf("cluster store %s is not reachable: %s: networks and sandboxes that exist go on; see that its servers run and can be reached from this host", r.Url, r.Error)
	case r.State == "joining" && r.Error == "":
		return fmt.Errorf("cluster store %s answers, and this host has not joined its cluster yet: ask again in a moment", r.Url)
	case r.State == "joining":
		return fmt.Errorf("cluster store %s answers, and this host cannot join its cluster: %s", r.Url, r.Error)
	case r.Error != "":
		return fmt.Errorf("cluster store %s is not believed: %s", r.Url, r.Error)
	}
	return nil
}

func stateOf(r *weftv1.StoreStatusResponse) storeState {
	s := storeState{
		Store: r.Url, Configured: r.Configured, Embedded: r.Embedded, Backend: r.Backend, Version: r.Version, Endpoints: r.Endpoints, Leader: r.Leader, Revision: r.Revision,
		ClusterID: r.ClusterId, HistoryID: r.HistoryId, State: r.State, Since: moment(r.Since), Error: r.Error, Hosts: r.Hosts, HostsAlive: r.HostsAlive,
	}
	if r.Latency != nil {
		s.Latency = r.Latency.AsDuration().Round(10 * time.Microsecond).String()
	}
	if r.SessionTtl != nil {
		s.SessionTTL = r.SessionTtl.AsDuration().String()
	}
	if r.SessionBound != nil {
		s.NoticedWithin = r.SessionBound.AsDuration().String()
	}
	return s
}

func (c *cli) showStore(s storeState, format string) error {
	switch format {
	case "":
		_, err := fmt.Fprint(c.env.Out, s.human(time.Now()))
		return err
	case "json":
		format = "{{json .}}"
	}
	return showObjects(c.env.Out, []any{s}, format)
}

// human is the table, of at most 80 columns where no single word is longer.
func (s storeState) human(now time.Time) string {
	var b strings.Builder
	line := func(title string, words ...string) {
		if len(words) == 0 || words[0] == "" {
			words = []string{"not known now"}
		}
		fmt.Fprintf(&b, "%-12s%s\n", title+":", words[0])
		for _, w := range words[1:] {
			fmt.Fprintf(&b, "%-12s%s\n", "", w)
		}
	}
	name := s.Store
	if s.Embedded {
		name = "embedded in this host's agent"
	}
	line("Store", name)
	if s.Configured != "" {
		line("Configured", s.Configured+": the records have moved, change", "--cluster-store of this host")
	}
	line("Back end", strings.TrimSpace(s.Backend+" "+s.Version))
	line("State", s.State+" for "+strings.ToLower(table.Ago(now.Sub(s.Since))))
	line("Endpoints", s.Endpoints...)
	line("Leader", s.Leader)
	latency := s.Latency
	if latency != "" {
		latency += " (median)"
	}
	line("Latency", latency)
	revision := ""
	if s.Revision > 0 {
		revision = fmt.Sprint(s.Revision)
	}
	line("Revision", revision)
	line("Cluster ID", s.ClusterID)
	line("Store ID", s.HistoryID)
	session := s.SessionTTL
	if s.NoticedWithin != "" {
		session += "; a host that died is noticed within " + s.NoticedWithin
	}
	line("Session", session)
	hosts := fmt.Sprintf("%d, of which %d alive", s.Hosts, s.HostsAlive)
	if s.State != "connected" {
		hosts = fmt.Sprintf("%d; which of them are alive is not known now", s.Hosts)
	}
	line("Hosts", hosts)
	return b.String()
}
