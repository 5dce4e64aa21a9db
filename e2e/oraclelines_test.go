package e2e

import (
	"fmt"
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
			t.Fatal(fmt.Sprintf("%s: a line begins with %q", name, mark))
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
var meantDifferences = map[string]string{
	"network ls -f scope=nowhere: exit code 1, docker's is 0": "a scope that there is not is a typing error, as a type that there is not",

	"network ls: .IPv4 of its own":                                                                  "Docker has it since 28",
	"network inspect: [].EnableIPv4 of its own":                                                     "Docker has it since 28",
	"network inspect: [].Containers.<id>.Host of its own":                                           "the sandboxes of all hosts are shown",
	`network inspect: [].Attachable is "true", docker's is "false"`:                                 "every network of weft's can be attached to",
	`network inspect: [].IPAM.Config[].Gateway is "10.10.0.7", "10.9.0.1", docker's is "10.10.0.7"`: "the gateway is chosen when the network is made, and not when it is first used",

	"network inspect: [].VNI of its own":       "what -v adds is for those who look for a fault",
	"network inspect: [].MTU of its own":       "what -v adds is for those who look for a fault",
	"network inspect: [].State of its own":     "what -v adds is for those who look for a fault",
	"network inspect: [].Peers of its own":     "what -v adds is for those who look for a fault",
	"network inspect: [].Endpoints of its own": "what -v adds is for those who look for a fault",
}
