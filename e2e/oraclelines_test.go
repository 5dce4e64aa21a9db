package e2e

import (
	"os"
	"strings"
	"testing"
)

// oracleLines reads a file of lines.
func oracleLines(t *testing.T, name string) (out []line) {
	t.Helper()
	raw, err := os.ReadFile(name)
	must(t, err)
	for text := range strings.Lines(string(raw)) {
		mark, rest, _ := strings.Cut(strings.TrimRight(text, "\n"), " ")
		if mark == "$" {
			out = append(out, line{text: rest})
			continue
		}
		if mark == "#" || mark == "" {
			continue
		}
		last := &out[len(out)-1]
		switch mark {
		case "!":
			last.says = rest
		case "<":
			last.in = rest + "\n"
		default:
			t.Fatalf("%s: a line begins with %q", name, mark)
		}
	}
	return out
}

func TestDockerIsTheOracle(t *testing.T) {
	t.Parallel()
	o := newOracle(t)
	for _, l := range oracleLines(t, "testdata/oracle.txt") {
		o.ask(l)
	}
	o.judge(meantDifferences)
}

// meantDifferences are what weft does in another way than Docker 20.10, and why.
var meantDifferences = []meant{
	{`network ls -f scope=nowhere: exit code 1, docker's is 0`, "a scope that there is not is a typing error, as a type that there is not"},
	{`network create --subnet 10\.12\.0\.1/24 hostbits: exit code 1, docker's is 0`, "host bits in a subnet are a typing error"},
	{`network connect --ip 172\.18\.0\.99 n1 b2: exit code 0, docker's is 1`, "an address may be asked for in any subnet"},

	{`network ls: \.IPv4 of its own`, "Docker has it since 28"},
	{`network inspect: \[\]\.EnableIPv4 of its own`, "Docker has it since 28"},
	{`network inspect: \[\]\.Containers\.<id>\.Host of its own`, "the sandboxes of all hosts are shown"},
	{`network inspect: \[\]\.Attachable is "true", docker's is "false"`, "every network of the cluster can be attached to"},
	{`network inspect: \[\]\.IPAM\.Config\[\]\.Gateway (of its own|is "10\.10\.0\.7", "10\.9\.0\.1", docker's is "10\.10\.0\.7")`, "the gateway is chosen when the network is made, and not when it is first used"},
	{`network inspect: \[\]\.Options\.com\.docker\.network\.bridge\.name is "weft0", docker's is "docker0"`, "both can be on one host"},
	{`network inspect: no \[\]\.Options\.com\.docker\.network\.driver\.mtu`, "the default network's MTU is what the host's way out carries"},
	{`network inspect: \[\]\.(VNI|MTU|State|Peers|Endpoints)(\[\])?(\..*)? of its own`, "what -v adds is for those who look for a fault"},

	{`network ls -f dangling=true --format .*: no line "c1"`, "settings for others are nothing that prune removes, with Docker neither"},
	{`network ls -f dangling=false --format .*: a line "(c1|n3)" of its own`, "Docker does not look at who is in a network that it lists, and takes all for dangling"},

	{`run -d --name (onconfig|b3|b4|p2|p3) .*: (no line "<id>"|a line "" of its own)`, "nothing is left of what could not be run, so that there is no ID to print"},
	{`rm (onconfig|b3|-f b4|-f b3): exit code 1, docker's is 0`, "nothing is left of what could not be run"},
	{`inspect -f '\{\{\.Name\}\}.* b2: (no line "/b2 |a line "b2 )running true 0 <short id>"( of its own)?`, "a name is a name, and no path"},

	{`ps -f name=nobody: (no line "CONTAINER ID IMAGE .*"|a line "SANDBOX ID .*" of its own)`, "a sandbox has no image, and which networks it is in is what one looks for"},
	{`(port p1|port p1 80|ps -f name=p1 .*): (no line ".*:::18080.*"|a line ".*\[::\]:18080.*" of its own)`, "Docker writes IPv6 addresses so since 23"},

	{`inspect: \.n\d\.(GwPriority|DNSNames(\[\])?) of its own`, "Docker has it since 26"},
	{`inspect: \.n\d\.(MacAddress|DriverOpts) stands before .*`, "the order of Docker since 25"},
	{`inspect: (no )?\.n\d\.Aliases(\[\])?( is .*)?`, "the short ID is among the DNSNames, as with Docker since 25"},
	{`inspect: \.n\d\.(IPAMConfig|DriverOpts) is null, docker's is object`, "an attachment that asks for nothing says so in one way, however it was made"},
}
