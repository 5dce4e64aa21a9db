// Package weftv1 is the gRPC contract of the agent: its admin API, and generated code. admin.proto has the meaning of each field.
package weftv1

//go:generate ../../../tools/generate.sh
