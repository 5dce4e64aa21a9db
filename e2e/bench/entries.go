package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"weft/overlay"
	"weft/store/record"
)

const remoteEndpoints = 1000

// measureEntries brings a network with 1,000 endpoints of another host to a kernel that has nothing of it, and compares that with the raw
// batches of entries alone.
func (b *bench) measureEntries(ctx context.Context) error {
	var p pairs
	for i := range b.n(11, 2) {
		if err := settle(ctx, quietTime); err != nil { // the last round's namespaces are still ending
			return err
		}
		w, f, err := b.entriesPair(ctx, i)
		if err != nil {
			return err
		}
		p.add(w, f)
	}
	b.report.pair("1,000 remote endpoints programmed", "ms", "raw batches of their entries, network there already", p, atMost(50, "ms"))
	return nil
}

func (b *bench) entriesPair(ctx context.Context, i int) (weft, raw float64, err error) {
	ours, err := b.newSite(fmt.Sprintf("entries%d", i))
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, ours.close()) }()
	theirs, err := b.newSite(fmt.Sprintf("entries%draw", i))
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, theirs.close()) }()
	port, err := ours.port(0)
	if err != nil {
		return 0, 0, err
	}
	other, err := theirs.port(0)
	if err != nil {
		return 0, 0, err
	}
	if err := theirs.build(ctx, other, nil); err != nil {
		return 0, 0, err
	}
	ns := overlay.NetnsPath(theirs.set, theirs.net.Record.ID)
	batches, err := rawEntries(ns)
	if err != nil {
		return 0, 0, err
	}
	s, err := openRaw(ns)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	var remote []*record.Endpoint
	for i := range remoteEndpoints {
		remote = append(remote, ours.endpoint(1000+i, "other"))
	}
	if err := settle(ctx, quietTime/3); err != nil {
		return 0, 0, err
	}
	return inTurns(i, func() error { return ours.build(ctx, port, remote) }, func() error {
		for _, batch := range batches {
			if err := s.send(batch...); err != nil {
				return err
			}
		}
		return nil
	})
}

// rawEntries are the three entries of each remote endpoint, in batches of 128 messages.
func rawEntries(ns string) (out [][]*nl.NetlinkRequest, err error) {
	bridge, err := linkIndex(ns, "br0")
	if err != nil {
		return nil, err
	}
	vxlan, err := linkIndex(ns, "vx0")
	if err != nil {
		return nil, err
	}
	var all []*nl.NetlinkRequest
	for i := range remoteEndpoints {
		a := siteAddr(1000 + i)
		all = append(all,
			rawEntry(netlink.Ndmsg{Family: unix.AF_INET, Index: uint32(bridge), State: unix.NUD_PERMANENT}, a.AsSlice(), hardware(a)),
			rawEntry(netlink.Ndmsg{Family: unix.AF_BRIDGE, Index: uint32(vxlan), State: unix.NUD_NOARP, Flags: unix.NTF_MASTER}, nil, hardware(a)),
			rawEntry(netlink.Ndmsg{Family: unix.AF_BRIDGE, Index: uint32(vxlan), State: unix.NUD_NOARP | unix.NUD_PERMANENT, Flags: unix.NTF_SELF}, []byte{192, 0, 2, 202}, hardware(a)))
	}
	for len(all) > 0 {
		n := min(128, len(all))
		out, all = append(out, all[:n]), all[n:]
	}
	return out, nil
}

func rawEntry(m netlink.Ndmsg, dst, mac []byte) *nl.NetlinkRequest {
	q := nl.NewNetlinkRequest(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE)
	q.AddData(&m)
	if dst != nil {
		q.AddData(nl.NewRtAttr(unix.NDA_DST, dst))
	}
	q.AddData(nl.NewRtAttr(unix.NDA_LLADDR, mac))
	return q
}
