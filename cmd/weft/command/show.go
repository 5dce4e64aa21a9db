package command

import (
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	weftv1 "weft/proto/weft/v1"
)

// stamp is a time in a list, as docker's; a time that never was is empty.
func stamp(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return t.AsTime().Local().Format("2006-01-02 15:04:05 -0700 MST")
}

// moment is a time in an inspect, as docker's: one that never was is the zero time.
func moment(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}

// parseLink reads TARGET[:ALIAS].
func parseLink(s string) *weftv1.Link {
	target, alias, ok := strings.Cut(s, ":")
	if !ok {
		alias = target
	}
	return &weftv1.Link{Target: target, Alias: alias}
}
