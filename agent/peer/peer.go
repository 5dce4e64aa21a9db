// Package peer is how agents speak with each other: the server of the contract between them, and the clients of it, over TLS with
// certificates of the cluster's authority. What the calls mean is the Backend's, and what follows from the answers is for those who ask.
package peer

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weft/store/record"
)

// Greeting is what an agent says of itself.
type Greeting struct {
	Host        record.HostID
	Cluster     string
	Incarnation uint64
	Instance    string // of the agent process
	Version     string // of the program
	Contract    int    // the newest version of the contract that both speak
	Features    []string
	StoreUp     bool // the store answers that agent
	RTT         time.Duration
}

// Opinion is what one host knows of another.
type Opinion struct {
	Agent   bool          // its agent answers
	Tunnel  bool          // it answers through the tunnel
	Unknown bool          // it could not be asked
	Age     time.Duration // of this knowledge
}

// Found is a sandbox of another host.
type Found struct {
	ID    record.SandboxID
	Name  string
	Exact bool // by name or whole ID, and not by a prefix
}

// Peers asks other agents. Every call has a bound of its own (2 s) beside the context's, and an error is one of those below, or the
// other agent's refusal. A simulation brings its own.
type Peers interface {
	// Hello asks whether a host's agent is there, and who it is.
	Hello(ctx context.Context, h *record.Host) (Greeting, error)
	// Judge asks a host what it knows of others; it finds out anew.
	Judge(ctx context.Context, h *record.Host, about []record.HostID) (map[record.HostID]Opinion, error)
	// Owns asks a host which of these endpoints its sandboxes have, or are about to have. Unsure: it is just starting.
	Owns(ctx context.Context, h *record.Host, of []record.EndpointID) (has map[record.EndpointID]bool, unsure bool, err error)
	// Drop asks a host to take its sandbox out of a network, or to delete a record of its own that no sandbox has.
	Drop(ctx context.Context, h *record.Host, n record.NetworkID, ep record.EndpointID, live bool, reason string) (dropped bool, err error)
	// FindSandbox looks for a sandbox of a host.
	FindSandbox(ctx context.Context, h *record.Host, ref string) ([]Found, error)
}

// Backend is the agent, as it answers others. From is who asks, by its certificate.
type Backend interface {
	Greet(from record.HostID) Greeting
	Judge(ctx context.Context, from record.HostID, about []record.HostID) (map[record.HostID]Opinion, error)
	Owns(from record.HostID, of []record.EndpointID) (has map[record.EndpointID]bool, unsure bool)
	Drop(ctx context.Context, from record.HostID, n record.NetworkID, ep record.EndpointID, live bool, reason string) (bool, error)
	FindSandbox(from record.HostID, ref string) []Found
	// Renew signs a certificate for a host that has one.
	Renew(ctx context.Context, from record.HostID, csr []byte) (certificate, authority []byte, err error)
}

// Errors that callers branch on.
var (
	ErrNoIdentity = errors.New("this host has no certificate of its cluster") // nobody can be asked
	ErrSilent     = errors.New("the other agent does not answer")
	ErrStranger   = errors.New("the other end is another one than it should be") // a wrong, expired or foreign certificate
	ErrOld        = errors.New("the other agent does not know this call")
	ErrUnsettled  = errors.New("this agent is just starting, and does not know yet which hosts are in its cluster")
)

// Answered tells whether a call reached an agent that said something, be it a refusal. Any other error says nothing of whether it is there.
func Answered(err error) bool {
	said, ok := status.FromError(err)
	switch {
	case errors.Is(err, ErrSilent), errors.Is(err, ErrStranger):
		return false
	case err == nil, errors.Is(err, ErrOld):
		return true
	}
	return ok && said.Code() != codes.Unavailable && said.Code() != codes.DeadlineExceeded && said.Code() != codes.Canceled
}
