package registry

import (
	"context"
	"errors"
	"fmt"

	"weft/store"
	"weft/store/record"
)

// Authority returns who signs the cluster's certificates, nil where nobody does. Vacant says that a new one may be made: there is none, or its
// host is not in the cluster any more.
func (r *Registry) Authority(ctx context.Context) (is *record.Authority, vacant bool, err error) {
	is, _, _, err = r.readAuthority(ctx)
	if err != nil || is == nil {
		return nil, err == nil, err
	}
	h, _, err := get[record.Host](ctx, r.cfg.Store, record.HostKey(is.Host))
	return is, err == nil && h == nil, err
}

func (r *Registry) readAuthority(ctx context.Context) (is *record.Authority, rev, hostRev store.Rev, err error) {
	is, rev, err = get[record.Authority](ctx, r.cfg.Store, record.AuthorityKey())
	if err != nil {
		return nil, 0, 0, fmt.Errorf("read the cluster's authority: %w", err)
	}
	if is != nil {
		if _, hostRev, err = get[record.Host](ctx, r.cfg.Store, record.HostKey(is.Host)); err != nil {
			return nil, 0, 0, fmt.Errorf("read the host of the cluster's authority: %w", err)
		}
	}
	return is, rev, hostRev, nil
}

// EnsureAuthority returns the cluster's authority, which becomes want where there is none, where the one that is there is the same on another
// host (it was moved), or where its host was removed from the cluster. Of several hosts that begin at once, one wins.
func (r *Registry) EnsureAuthority(ctx context.Context, as Actor, want record.Authority) (*record.Authority, error) {
	var out *record.Authority
	err := retry(ctx, func(fresh bool) (bool, error) {
		is, rev, hostRev, err := r.readAuthority(ctx)
		if err != nil {
			return false, err
		}
		vacant := is == nil || hostRev == store.Absent
		if is != nil && (is.Certificate == want.Certificate && is.Host == want.Host || is.Certificate != want.Certificate && !vacant) {
			out = is
			return false, nil
		}
		conds, err := r.conditions(ctx, as, fresh)
		if err != nil {
			return false, err
		}
		t := txn{}
		t.t.If = conds
		t.when(record.AuthorityKey(), rev)
		if is != nil && is.Host != as.Host {
			t.when(record.HostKey(is.Host), hostRev)
		}
		t.put(record.AuthorityKey(), &want)
		_, err = r.commit(ctx, t)
		if _, lost := conflict(err); lost || err == nil || errors.Is(err, store.ErrUnknown) {
			return true, err // read back what is there now
		}
		return false, fmt.Errorf("write the cluster's authority: %w", err)
	})
	return out, err
}
