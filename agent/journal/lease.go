package journal

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"

	"weft/store"
	"weft/store/record"
)

const (
	leasePartition = "leases"
	claimPartition = "pool-claims"
)

// Lease is an address that an IPAM plugin has given this host, for an endpoint. It is noted when the plugin has given it, and forgotten when the
// plugin has it back.
type Lease struct {
	Plugin   string            `json:"plugin"`
	Handle   string            `json:"handle"` // of the pool
	Addr     netip.Addr        `json:"addr"`
	Network  record.NetworkID  `json:"network"`
	Endpoint record.EndpointID `json:"endpoint"`
	MAC      record.MAC        `json:"mac,omitempty"` // that it was asked for with
}

// PoolClaim are pools of a network that is being made or removed: once it is clear that there is no such network, the plugin gets them back.
type PoolClaim struct {
	Network record.NetworkID `json:"network"`
	Plugin  string           `json:"plugin"`
	Local   bool             `json:"local,omitempty"` // the network is of this host alone
	Pools   []ClaimedPool    `json:"pools"`
}

// ClaimedPool is a pool with the addresses in it that are the network's own: gateway and auxiliary ones.
type ClaimedPool struct {
	Handle string       `json:"handle"`
	Addrs  []netip.Addr `json:"addrs,omitempty"`
}

// Key is what no two leases share.
func (l Lease) Key() string {
	sum := sha256.Sum256([]byte(l.Plugin + "\x00" + l.Handle + "\x00" + l.Addr.String()))
	return hex.EncodeToString(sum[:16])
}

// PutLease notes a lease.
func (j *Journal) PutLease(ctx context.Context, l Lease) error {
	return j.putJSON(ctx, "a lease", store.Key{Partition: leasePartition, Name: l.Key()}, l)
}

// DeleteLease forgets a lease.
func (j *Journal) DeleteLease(ctx context.Context, l Lease) error {
	return j.write(ctx, "a lease", store.Del(store.Key{Partition: leasePartition, Name: l.Key()}))
}

// Leases returns all leases.
func (j *Journal) Leases(ctx context.Context) ([]Lease, error) {
	return listJSON[Lease](ctx, j, "the leases", leasePartition)
}

// PutPoolClaim notes what a network that is being made, or removed, has of a plugin.
func (j *Journal) PutPoolClaim(ctx context.Context, c PoolClaim) error {
	return j.putJSON(ctx, "a claim of pools", store.Key{Partition: claimPartition, Name: string(c.Network)}, c)
}

// DeletePoolClaim forgets a claim.
func (j *Journal) DeletePoolClaim(ctx context.Context, id record.NetworkID) error {
	return j.write(ctx, "a claim of pools", store.Del(store.Key{Partition: claimPartition, Name: string(id)}))
}

// PoolClaims returns all claims.
func (j *Journal) PoolClaims(ctx context.Context) ([]PoolClaim, error) {
	return listJSON[PoolClaim](ctx, j, "the claims of pools", claimPartition)
}

func (j *Journal) putJSON(ctx context.Context, what string, k store.Key, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write %s: %w", what, err)
	}
	return j.write(ctx, what, store.Put(k, b))
}

func listJSON[T any](ctx context.Context, j *Journal, what, partition string) ([]T, error) {
	l, err := j.store.List(ctx, partition)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", what, err)
	}
	out := make([]T, len(l.Entries))
	for i, e := range l.Entries {
		if err := json.Unmarshal(e.Value, &out[i]); err != nil {
			return nil, fmt.Errorf("read %s: %w", what, err)
		}
	}
	return out, nil
}
