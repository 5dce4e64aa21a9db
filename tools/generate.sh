#!/bin/sh
# Makes the generated code from the .proto files, with the plugins that tools/go.mod pins and the machine's protoc.
set -eu
cd "$(dirname "$0")/.."
mkdir -p bin
(cd tools && GOBIN="$PWD/../bin" go install google.golang.org/protobuf/cmd/protoc-gen-go google.golang.org/grpc/cmd/protoc-gen-go-grpc)
PATH="$PWD/bin:$PATH" protoc --go_out=. --go_opt=module=weft --go-grpc_out=. --go-grpc_opt=module=weft proto/weft/v1/*.proto
