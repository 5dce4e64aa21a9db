package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weft/agent/api"
	"weft/agent/event"
	"weft/identity"
	weftv1 "weft/proto/weft/v1"
	"weft/store/open"
	"weft/store/record"
)

// enrolment lets hosts join, where this agent has the cluster's authority; elsewhere it says which host has it.
type enrolment struct {
	weftv1.UnimplementedEnrolmentServer
	a *Agent
}

const maxName = 253

// Join answers who shows a token with a certificate.
func (e enrolment) Join(ctx context.Context, q *weftv1.JoinRequest) (*weftv1.JoinResponse, error) {
	r, code, err := e.a.admit(ctx, q)
	if err == nil {
		e.a.log.Info("let a host join", "host", q.HostId, "name", q.Name)
		return r, nil
	}
	if code != codes.FailedPrecondition && code != codes.Unavailable {
		e.a.events.Emit(event.Event{Type: event.Host, Action: event.Refuse, ID: printable(q.HostId), Attributes: map[string]string{
			"host": printable(q.HostId), "name": printable(q.Name), "reason": err.Error(),
		}})
	}
	return nil, status.Error(code, err.Error())
}

// printable bounds what a stranger says of itself.
func printable(s string) string { return strings.ToValidUTF8(s[:min(len(s), maxName)], "?") }

func (a *Agent) admit(ctx context.Context, q *weftv1.JoinRequest) (*weftv1.JoinResponse, codes.Code, error) {
	token, err := identity.ParseToken(q.Token)
	if err != nil {
		return nil, codes.InvalidArgument, err
	}
	release, err := a.pki.take(ctx)
	if err != nil {
		return nil, codes.Unavailable, err
	}
	defer release()
	auth := a.pki.authority
	if auth == nil {
		return nil, codes.FailedPrecondition, a.noAuthority("join there")
	}
	if err := auth.VerifyToken(token); err != nil {
		return nil, codes.PermissionDenied, err
	}
	print, err := identity.RequestPrint(q.Csr, q.HostId)
	if err != nil {
		return nil, codes.InvalidArgument, err
	}
	id := record.HostID(q.HostId)
	if a.follower.Picture().Revoked(print) { // nobody would take what is signed for it
		return nil, codes.PermissionDenied, errRemoved
	}
	if h, ok := a.follower.Picture().Host(id); ok && h.PublicKey != "" && h.PublicKey != print {
		return nil, codes.AlreadyExists, fmt.Errorf("host ID %s is that of host %s, which has another key: where this machine is a copy of it, empty the state directory; where it is that host and has lost its certificate, remove it from the cluster first (weft host rm %s)",
			record.ShortID(id), h.Name, h.Name)
	}
	cert, trusted, err := a.sign(id, q.Csr)
	if err != nil {
		return nil, codes.Internal, err
	}
	r := &weftv1.JoinResponse{Certificate: cert, Authority: trusted, ClusterId: a.member.identity().Cluster}
	r.Store, r.StoreByCertificate = a.storeForOthers()
	return r, codes.OK, nil
}

// noAuthority says where the authority is instead.
func (a *Agent) noAuthority(do string) error {
	if a.pki.keeper != nil && a.pki.keeper.Given() {
		return errors.New("the certificates of this cluster's hosts come from files (--peer-certfile): no token gives one")
	}
	r := a.follower.Picture().Authority()
	if r == nil {
		return errors.New("this cluster has no authority that could sign certificates: run `weft cluster token` on the host that is to have it")
	}
	if h, ok := a.follower.Picture().Host(r.Host); ok {
		return fmt.Errorf("host %s (%s) has the cluster's authority, and not this one: %s", h.Name, h.Advertise, do)
	}
	return fmt.Errorf("host %s has the cluster's authority, and is not in the cluster any more: run `weft cluster token` on the host that is to have a new one", record.ShortID(r.Host))
}

// storeForOthers is what a host that was given no store may use; "" where it needs files that only its user has, or where nobody else is served.
func (a *Agent) storeForOthers() (url string, byCertificate bool) {
	p := a.where()
	if p.embedded {
		if !a.servesStore() {
			return "", false
		}
		at, err := netip.ParseAddrPort(a.cfg.EmbeddedListen)
		if err != nil {
			return "", false
		}
		host := at.Addr().String()
		if at.Addr().IsUnspecified() {
			if host, _, err = net.SplitHostPort(a.underlay.advertise); err != nil {
				return "", false
			}
		}
		return "etcd://" + net.JoinHostPort(host, fmt.Sprint(at.Port())) + "/" + embeddedPrefix, true
	}
	c, err := open.Parse(p.url, p.opts)
	if err != nil || c.CAFile != "" || c.CertFile != "" || c.PasswordFile != "" || c.TokenFile != "" {
		return "", false
	}
	return c.Scheme + "://" + strings.Join(c.Endpoints, ",") + "/" + c.Prefix, c.HostCertificate
}

// Renew signs the next certificate of a host that has one.
func (a *Agent) Renew(ctx context.Context, from record.HostID, csr []byte) (certificate, authority []byte, err error) {
	release, err := a.pki.take(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer release()
	if a.pki.authority == nil {
		return nil, nil, api.Refuse(api.InUse, "%s", a.noAuthority("ask there").Error())
	}
	print, err := identity.RequestPrint(csr, string(from))
	if err != nil {
		return nil, nil, api.Refuse(api.Invalid, "%s", err.Error())
	}
	if h, ok := a.follower.Picture().Host(from); ok && h.PublicKey != "" && h.PublicKey != print {
		return nil, nil, api.Refuse(api.Invalid, "the request has another key than host %s", h.Name)
	}
	return a.sign(from, csr)
}

// CreateToken makes a token with which hosts can join here. A cluster that has no authority yet, or whose authority's host was removed, gets it on this host.
func (a *Agent) CreateToken(ctx context.Context, ttl time.Duration) (api.TokenView, error) {
	if a.pki.keeper == nil || a.pki.keeper.Given() {
		return api.TokenView{}, api.Refuse(api.Unsupported, "%s", a.noAuthority("").Error())
	}
	as, err := a.member.claim(ctx)
	if err != nil && !a.hasAuthority(ctx) {
		return api.TokenView{}, err
	}
	if err == nil {
		if err := a.settleAuthority(ctx, as, true); err != nil {
			return api.TokenView{}, a.member.explain(err)
		}
	}
	release, err := a.pki.take(ctx)
	if err != nil {
		return api.TokenView{}, err
	}
	defer release()
	if a.pki.authority == nil {
		return api.TokenView{}, api.Refuse(api.InUse, "%s", a.noAuthority("run `weft cluster token` there").Error())
	}
	t, err := a.pki.authority.Token(ttl)
	if err != nil {
		return api.TokenView{}, api.Refuse(api.Invalid, "%s", err.Error())
	}
	return api.TokenView{Token: t.Secret(), Expires: t.Expires(), Join: a.underlay.advertise}, nil
}

func (a *Agent) hasAuthority(ctx context.Context) bool {
	release, err := a.pki.take(ctx)
	if err != nil {
		return false
	}
	defer release()
	return a.pki.authority != nil
}
