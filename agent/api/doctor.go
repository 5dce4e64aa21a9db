package api

import (
	"google.golang.org/grpc"

	"weft/agent/doctor"
	weftv1 "weft/proto/weft/v1"
)

func (c *cluster) Doctor(r *weftv1.DoctorRequest, stream grpc.ServerStreamingServer[weftv1.DoctorProgress]) error {
	tell := func(what string) {
		_ = stream.Send(&weftv1.DoctorProgress{Checking: what}) // who does not listen any more has cancelled the call
	}
	return c.b.Doctor(stream.Context(), r.Quick, tell, func(k doctor.Check) error {
		return stream.Send(&weftv1.DoctorProgress{Check: &weftv1.Check{
			Name: k.Name, Subject: k.Subject, Status: string(k.Status), Finding: k.Finding, Remedy: k.Remedy,
		}})
	})
}
