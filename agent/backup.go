package agent

import (
	"context"
	"errors"
	"io"
	"time"

	"weft/agent/api"
	"weft/agent/journal"
	"weft/agent/registry"
	"weft/store/backup"
	"weft/store/record"
)

// settleTime is what agents get to hear that a store is being replaced under them, before anything in it changes.
const settleTime = time.Second

// registerTime is what they get to register again.
const registerTime = 10 * time.Second

// BackupStore writes all records of the cluster.
func (a *Agent) BackupStore(ctx context.Context, w io.Writer) error {
	return kindOf(a.member.explain(a.registry.Backup(ctx, w)))
}

// RestoreStore makes the store hold what a backup holds, this host one of the backup's cluster, and checks the store.
func (a *Agent) RestoreStore(ctx context.Context, r api.RestoreRequest, file io.Reader) (api.Restored, error) {
	var out api.Restored
	var err error
	out.RestoreResult, err = a.registry.Restore(ctx, registry.RestoreRequest{
		By: a.member.identity().Host, Force: r.Force, DryRun: r.DryRun, Adopt: a.adopt, Settle: settleTime,
	}, file)
	var damaged *backup.DamagedError
	switch {
	case errors.As(err, &damaged):
		return out, api.Refuse(api.Invalid, "%w", err)
	case err != nil:
		return out, kindOf(a.member.explain(err))
	case r.DryRun:
		return out, nil
	}
	a.log.Warn("the store's records were replaced by those of a backup", "cluster", out.Backup.Cluster, "taken", out.Backup.Time, "replaced", out.Replaced)
	out.Findings, err = a.atRest(ctx)
	return out, err
}

// atRest checks the store, for a while again where it finds something: the hosts, this one too, register anew after a restore.
func (a *Agent) atRest(ctx context.Context) ([]record.Finding, error) {
	for end := a.clock.Now().Add(registerTime); ; {
		survey, err := a.registry.Inspect(ctx)
		if err != nil || len(survey.Findings) == 0 || a.clock.Now().After(end) {
			return survey.Findings, err
		}
	}
}

// adopt makes this host one of a cluster whose records are about to be put into its store.
func (a *Agent) adopt(ctx context.Context, cluster string) error {
	if err := a.member.setIdentity(ctx, func(id *journal.Identity) { id.Cluster = cluster }); err != nil {
		return err
	}
	a.follower.Adopt(cluster)
	return nil
}
