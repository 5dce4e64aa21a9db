package command

import (
	"fmt"
	"strings"

	"weft/cmd/weft/table"
	"weft/integrations/libnetwork"
	weftv1 "weft/proto/weft/v1"
)

// importPlan is what is to be done, or has been, network by network.
type importPlan []importStep

type importStep struct {
	libnetwork.Candidate
	step *weftv1.ImportPlan
}

const (
	toCreate  = weftv1.ImportAction_IMPORT_ACTION_CREATE
	isPresent = weftv1.ImportAction_IMPORT_ACTION_PRESENT
	toSkip    = weftv1.ImportAction_IMPORT_ACTION_SKIP
)

// Words for the actions of networks and of addresses: planned, and done.
var (
	plannedNetwork = map[weftv1.ImportAction]string{toCreate: "create", isPresent: "is there", toSkip: "skip"}
	plannedAddress = map[weftv1.ImportAction]string{toCreate: "keep", isPresent: "is there", toSkip: "skip"}
	doneNetwork    = map[weftv1.ImportAction]string{toCreate: "created", isPresent: "is there", toSkip: "skipped"}
	doneAddress    = map[weftv1.ImportAction]string{toCreate: "kept", isPresent: "is there", toSkip: "skipped"}
)

func (s importStep) addresses(a weftv1.ImportAction) (n int) {
	for _, e := range s.step.Endpoints {
		if e.Action == a {
			n++
		}
	}
	return n
}

// pending tells whether there is something to do.
func (s importStep) pending() bool { return s.step.Action == toCreate || s.addresses(toCreate) > 0 }

// todo counts the networks to create and the addresses to keep.
func (p importPlan) todo() (networks, addresses int) {
	for _, s := range p {
		if s.step.Action == toCreate {
			networks++
		}
		addresses += s.addresses(toCreate)
	}
	return networks, addresses
}

// importEndpoint is an endpoint in the JSON of a plan.
type importEndpoint struct {
	ID      string `json:"Id"`
	Name    string
	Address string
	Plan    string
	Reason  string `json:",omitempty"`
}

func (s importStep) row(network, address map[weftv1.ImportAction]string) table.Row {
	subnets := make([]string, 0, len(s.Network.Pools))
	for _, p := range s.Network.Pools {
		subnets = append(subnets, p.Subnet)
	}
	endpoints := make([]importEndpoint, 0, len(s.step.Endpoints))
	for _, e := range s.step.Endpoints {
		endpoints = append(endpoints, importEndpoint{ID: e.Id, Name: e.Name, Address: e.Address, Plan: address[e.Action], Reason: e.Reason})
	}
	vni := ""
	if s.step.Vni != 0 {
		vni = fmt.Sprint(s.step.Vni)
	}
	return table.Row{
		"ID": s.Network.Id, "Name": s.Network.Name, "Subnets": subnets, "VNI": vni, "Plan": network[s.step.Action], "Reason": s.step.Reason,
		"Notes": append(append([]string{}, s.Notes...), s.step.Notes...), "Endpoints": endpoints,
		"Network": shorten(s.Network.Name, 18), "Pools": someOf(subnets), "Addresses": s.counted(),
	}
}

// counted is how many addresses will be kept, of how many.
func (s importStep) counted() string {
	kept := s.addresses(toCreate) + s.addresses(isPresent)
	if all := len(s.Network.Endpoints); kept != all {
		return fmt.Sprintf("%d of %d", kept, all)
	}
	return fmt.Sprint(kept)
}

// someOf shows the first of a list, and how many more there are.
func someOf(list []string) string {
	if len(list) < 2 {
		return strings.Join(list, "")
	}
	return fmt.Sprintf("%s +%d", list[0], len(list)-1)
}

// shorten cuts a name for a table of 80 columns.
func shorten(s string, width int) string {
	r := []rune(s)
	if len(r) <= width {
		return s
	}
	return string(r[:width-1]) + "…"
}

func (p importPlan) list(network, address map[weftv1.ImportAction]string) table.List {
	l := table.List{Default: "{{.Network}}\t{{.Pools}}\t{{.VNI}}\t{{.Addresses}}\t{{.Plan}}", Titles: map[string]string{"Pools": "SUBNETS"}}
	for _, s := range p {
		l.Rows = append(l.Rows, s.row(network, address))
	}
	return l
}

// show prints the plan: a table, and below it what needs words.
func (p importPlan) show(c *cli, from, format string) error {
	if format == "" {
		fmt.Fprintf(c.env.Out, "Docker's networks in %s:\n\n", from)
	}
	if err := p.write(c, format, plannedNetwork, plannedAddress); err != nil || format != "" {
		return err
	}
	var b strings.Builder
	for _, s := range p {
		for _, line := range s.words() {
			fill(&b, s.Network.Name+": "+line)
		}
	}
	if b.Len() == 0 {
		return nil
	}
	_, err := fmt.Fprint(c.env.Out, "\n"+b.String())
	return err
}

// write leaves columns of the table alone out of the JSON.
func (p importPlan) write(c *cli, format string, network, address map[weftv1.ImportAction]string) error {
	l := p.list(network, address)
	if format == "json" {
		for _, r := range l.Rows {
			delete(r, "Network")
			delete(r, "Pools")
			delete(r, "Addresses")
		}
	}
	return l.Write(c.env.Out, format)
}

// worded is how many addresses that are not kept are given a line each.
const worded = 10

// words says why things are skipped, and what will not be as it was.
func (s importStep) words() []string {
	var out []string
	if s.step.Action == toSkip {
		return append(out, "skipped: "+s.step.Reason)
	}
	out = append(append(out, s.Notes...), s.step.Notes...)
	skipped := s.addresses(toSkip)
	for _, e := range s.step.Endpoints {
		if e.Action != toSkip {
			continue
		}
		if skipped -= 1; len(out) >= worded && skipped > 0 {
			return append(out, fmt.Sprintf("and %d more addresses are not kept: see --format json", skipped+1))
		}
		out = append(out, fmt.Sprintf("the address of %s is not kept: %s", e.Name, e.Reason))
	}
	return out
}

// fill breaks a line at spaces so that it fits 80 columns; what follows is set in.
func fill(b *strings.Builder, line string) {
	const width = 80
	at := 0
	for i, word := range strings.Fields(line) {
		n := len([]rune(word))
		switch {
		case i == 0:
		case at+1+n > width:
			b.WriteString("\n  ")
			at = 2
		default:
			b.WriteByte(' ')
			at++
		}
		b.WriteString(word)
		at += n
	}
	b.WriteByte('\n')
}

// showIdle is the end where nothing is done: nothing is to be or can be, or only the plan was asked for.
func (p importPlan) showIdle(c *cli, f dockerImport) error {
	networks, addresses := p.todo()
	if networks+addresses > 0 {
		return nil
	}
	if f.format != "" && !f.dryRun {
		if err := p.write(c, f.format, doneNetwork, doneAddress); err != nil {
			return err
		}
	}
	skipped := p.skipped()
	switch {
	case skipped > 0 && skipped == len(p):
		return fmt.Errorf("%s cannot be imported: the plan says why", networksOf(skipped))
	case f.format != "":
		return nil
	case len(p) == 0:
		fmt.Fprintln(c.env.Out, "\nThere are no networks to import.")
		return nil
	}
	fmt.Fprintln(c.env.Out, "\nThere is nothing left to import.")
	if skipped > 0 {
		fmt.Fprintf(c.env.Out, "%s cannot be imported: the plan says why.\n", networksOf(skipped))
	}
	return nil
}

// skipped counts the networks that cannot be imported.
func (p importPlan) skipped() (n int) {
	for _, s := range p {
		if s.step.Action == toSkip {
			n++
		}
	}
	return n
}

func (p importPlan) showDone(c *cli, format string) error {
	if format != "" {
		return p.write(c, format, doneNetwork, doneAddress)
	}
	networks, addresses := p.todo() // what was to be done, of what has been done
	fmt.Fprintf(c.env.Out, "\nCreated %s, kept %s.\n", networksOf(networks), addressesOf(addresses))
	if addresses > 0 {
		fmt.Fprintln(c.env.Out, "Each address is for the sandbox of its name; `weft import ls` lists them.")
	}
	return nil
}

func networksOf(n int) string  { return counted(n, "network") }
func addressesOf(n int) string { return fmt.Sprintf("%d %s", n, numbered(n, "address", "addresses")) }

// numbered is the form of a word that goes with a number.
func numbered(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}

func keptRow(k *weftv1.Kept, l *listing) table.Row {
	return table.Row{
		"ID": k.Name, "Network": k.Network, "NetworkID": l.id(k.NetworkId), "Name": k.Name, "Address": strings.Join(k.Addresses, ","),
		"MacAddress": k.MacAddress, "Host": k.Host, "CreatedAt": stamp(k.Created),
	}
}
