package api

import (
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	weftv1 "weft/proto/weft/v1"
)

// referring are the calls about one sandbox, which may be another host's: where in their first message the reference to it is.
var referring = map[string]reference{
	weftv1.Sandboxes_StartSandbox_FullMethodName:   {at: "ref"},
	weftv1.Sandboxes_StopSandbox_FullMethodName:    {at: "ref"},
	weftv1.Sandboxes_RestartSandbox_FullMethodName: {at: "ref"},
	weftv1.Sandboxes_SignalSandbox_FullMethodName:  {at: "ref"},
	weftv1.Sandboxes_WaitSandbox_FullMethodName:    {at: "ref"},
	weftv1.Sandboxes_RemoveSandbox_FullMethodName:  {at: "ref"},
	weftv1.Sandboxes_RenameSandbox_FullMethodName:  {at: "ref"},
	weftv1.Sandboxes_InspectSandbox_FullMethodName: {at: "ref"},
	weftv1.Sandboxes_Logs_FullMethodName:           {at: "ref", first: func() proto.Message { return new(weftv1.LogsRequest) }},
	weftv1.Sandboxes_Exec_FullMethodName:           {in: "exec", at: "ref", first: newInput},
	weftv1.Sandboxes_AttachSandbox_FullMethodName:  {in: "attach", at: "ref", first: newInput},
	weftv1.Networks_Connect_FullMethodName:         {at: "target"},
	weftv1.Networks_Disconnect_FullMethodName:      {at: "target", here: "force", unfound: true},
}

func newInput() proto.Message { return new(weftv1.StreamInput) }

// reference is where a call has its reference to a sandbox.
type reference struct {
	in, at  protoreflect.Name    // the field, and the message that has it where that is not the call's own
	here    protoreflect.Name    // a flag with which the call is for the host that was asked
	unfound bool                 // a call about what nobody has is for the host that was asked: there may be a record of it
	first   func() proto.Message // of a stream
}

// of returns the message of a call that has the reference, and the field; ok is false where the call has none, or is not to be passed on.
func (r reference) of(m proto.Message) (holder protoreflect.Message, field protoreflect.FieldDescriptor, ok bool) {
	holder = m.ProtoReflect()
	if r.in != "" {
		f := holder.Descriptor().Fields().ByName(r.in)
		if !holder.Has(f) {
			return nil, nil, false
		}
		holder = holder.Mutable(f).Message()
	}
	fields := holder.Descriptor().Fields()
	if r.here != "" && holder.Get(fields.ByName(r.here)).Bool() {
		return nil, nil, false
	}
	return holder, fields.ByName(r.at), true
}

// get returns the reference, "" where there is none.
func (r reference) get(m proto.Message) string {
	if holder, f, ok := r.of(m); ok {
		return holder.Get(f).String()
	}
	return ""
}

func (r reference) set(m proto.Message, ref string) {
	if holder, f, ok := r.of(m); ok {
		holder.Set(f, protoreflect.ValueOfString(ref))
	}
}
