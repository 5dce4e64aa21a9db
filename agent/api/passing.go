package api

import (
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // registers the codec that passing leans on
	"google.golang.org/grpc/mem"
)

// frame is a message that is passed on as it came, whatever it says.
type frame struct{ bytes []byte }

// passing is gRPC's codec for messages, which leaves frames alone.
type passing struct{ encoding.CodecV2 }

func newPassing() passing { return passing{encoding.GetCodecV2("proto")} }

func (p passing) Marshal(v any) (mem.BufferSlice, error) {
	if f, ok := v.(*frame); ok {
		return mem.BufferSlice{mem.SliceBuffer(f.bytes)}, nil
	}
	return p.CodecV2.Marshal(v)
}

func (p passing) Unmarshal(data mem.BufferSlice, v any) error {
	if f, ok := v.(*frame); ok {
		f.bytes = data.Materialize()
		return nil
	}
	return p.CodecV2.Unmarshal(data, v)
}
