package main

import (
	"context"
	"fmt"
	"net"

	"weft/store/storetest/server"
)

// raw is a back end's own client, used as somebody would without weft: the floor that weft's store stands beside.
type raw interface {
	// create makes two keys, which must not be there, in one transaction.
	create(ctx context.Context, key string, value []byte) error
	// remove deletes these two in one transaction.
	remove(ctx context.Context, key string) error
	// put writes one key.
	put(ctx context.Context, key, value string) error
	// watch sends what one key, or the first that create makes of it, holds from now on, until ctx ends.
	watch(ctx context.Context, key string) (<-chan string, error)
	// close ends the client and waits for its watches, whose contexts have ended.
	close() error
}

type dialer func(ctx context.Context, network, address string) (net.Conn, error)

func newRaw(kind server.Kind, endpoint string, dial dialer) (raw, error) {
	switch kind {
	case server.Etcd:
		return newRawEtcd(endpoint, dial)
	case server.Consul:
		return newRawConsul(endpoint, dial)
	case server.ZooKeeper:
		return newRawZooKeeper(endpoint, dial)
	}
	return nil, fmt.Errorf("no such store: %s", kind)
}

// rawPrefix begins all that the raw clients write, so that no agent meets it.
const rawPrefix = "raw"

// twoKeys are what create makes: about what an endpoint has.
func twoKeys(key string) (record, owner string) { return key + ".ep", key + ".addr" }

// ownerValue is that of the second.
const ownerValue = "owner"

// tell sends a value to whoever watches, unless that has gone.
func tell(ctx context.Context, to chan<- string, value string) {
	select {
	case to <- value:
	case <-ctx.Done():
	}
}
