package peer

import (
	"context"

	"weft/store/record"
)

// Nobody is the Peers of a host without a certificate of its cluster: nobody can be asked.
type Nobody struct{}

func (Nobody) Hello(context.Context, *record.Host) (Greeting, error) {
	return Greeting{}, ErrNoIdentity
}

func (Nobody) Judge(context.Context, *record.Host, []record.HostID) (map[record.HostID]Opinion, error) {
	return nil, ErrNoIdentity
}

func (Nobody) Owns(context.Context, *record.Host, []record.EndpointID) (map[record.EndpointID]bool, bool, error) {
	return nil, false, ErrNoIdentity
}

func (Nobody) Drop(context.Context, *record.Host, record.NetworkID, record.EndpointID, bool, string) (bool, error) {
	return false, ErrNoIdentity
}

func (Nobody) FindSandbox(context.Context, *record.Host, string) ([]Found, error) {
	return nil, ErrNoIdentity
}
