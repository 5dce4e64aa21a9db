package command

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
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
