#!/usr/bin/env bash
# Runs one part of the checks, or all of them: deps, lint, unit, sim, e2e, fuzz, all.
# It installs what a part needs where that is missing: Debian packages as root, Go modules through the proxy.
set -euo pipefail
cd "$(dirname "$0")/.."
GO=${GO:-$(command -v go || echo /usr/local/go/bin/go)}
export PATH="$(dirname "$GO"):$PWD/bin:$PATH"

# Program and the Debian package that has it.
needs="java:default-jre-headless ip:iproute2 nft:nftables dnsperf:dnsperf dig:bind9-dnsutils protoc:protobuf-compiler gcc:gcc
  busybox:busybox curl:curl dockerd:docker.io containerd:containerd runc:runc tini:tini iptables:iptables firewalld:firewalld dbus-daemon:dbus-daemon etcd:etcd-server
  fish:fish zsh:zsh"

root() {
  if [ "$(id -u)" != 0 ]; then
    echo "the tests make network namespaces: run them as root (sudo make test)" >&2
    exit 1
  fi
}

deps() {
  local missing=()
  for n in $needs; do
    command -v "${n%%:*}" >/dev/null || missing+=("${n##*:}")
  done
  [ -e /usr/include/google/protobuf/timestamp.proto ] || missing+=(libprotobuf-dev)
  [ -e /usr/share/bash-completion/bash_completion ] || missing+=(bash-completion)
  [ -e /usr/share/java/zookeeper.jar ] || missing+=(libzookeeper-java)
  [ ${#missing[@]} = 0 ] && return
  root
  echo "== installing ${missing[*]}"
  apt-get update -qq
  quietly apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# Installs without starting what comes with a service: the tests start their own dockerd and etcd, in namespaces (invoke-rc.d(8)).
quietly() {
  local policy=/usr/sbin/policy-rc.d
  if [ -e $policy ]; then
    DEBIAN_FRONTEND=noninteractive "$@"
    return
  fi
  printf '#!/bin/sh\nexit 101\n' >$policy
  chmod 755 $policy
  local code=0
  DEBIAN_FRONTEND=noninteractive "$@" || code=$?
  rm -f $policy
  return $code
}

lint() {
  echo "== format, vet, staticcheck, generated code"
  local unformatted
  unformatted=$(gofmt -l $(git ls-files '*.go' | grep -v '\.pb\.go$'))
  if [ -n "$unformatted" ]; then
    echo "gofmt wants to rewrite: $unformatted" >&2
    exit 1
  fi
  go vet ./...
  (cd tools && GOBIN="$OLDPWD/bin" go install honnef.co/go/tools/cmd/staticcheck)
  staticcheck ./...
  go mod verify >/dev/null
  local before
  before=$(cat proto/weft/v1/*.pb.go | sha256sum)
  go generate ./proto/...
  if [ "$before" != "$(cat proto/weft/v1/*.pb.go | sha256sum)" ]; then
    echo "proto/weft/v1: the generated code is not what the .proto files make: run make generate" >&2
    exit 1
  fi
}

# The stores' servers: what is not there yet is built, which takes minutes the first time, so that no test has to wait for it.
servers() {
  echo "== store servers (the first time Consul is built, which takes some minutes)"
  go test -timeout 40m ./store/storetest/server
}

unit() {
  root
  servers
  echo "== unit and namespace tests, with the race detector"
  CGO_ENABLED=1 gotests "$(go list ./... | grep -vE '^weft/e2e(/soak)?$')" -race -timeout 15m
}

# Histories of whole clusters in virtual time, and broken agents that they must find. The race detector cannot take so many timers at once.
sim() {
  echo "== ${SIMULATIONS:-10000} simulated histories"
  go test ./agent -count=1 -timeout 20m -run '^Test(The)?Simulation' -sim.histories="${SIMULATIONS:-10000}"
}

# Runs the packages' tests. A few of them cut networks and freeze servers under a load of their own, and a machine that stalls can break
# what they count on: up to three tests that fail are run once more, and named at the end so that somebody looks at them. A data race is never
# run again.
gotests() {
  local packages=$1 report code=0
  shift
  report=$(mktemp)
  (cd tools && GOBIN="$OLDPWD/bin" go install gotest.tools/gotestsum)
  gotestsum --format pkgname --hide-summary=skipped --rerun-fails=1 --rerun-fails-max-failures=3 --rerun-fails-abort-on-data-race \
    --rerun-fails-report="$report" --packages="$packages" -- "$@" || code=$?
  if [ -s "$report" ]; then
    echo "== tests that were run again:"
    cat "$report"
  fi
  rm -f "$report"
  return $code
}

# The stories of whole hosts on each store, or on $STORE alone. What is about no store of ours runs once, with etcd. Most of a story is waiting: those of
# the other two stores share the machine.
e2e() {
  root
  local store other=()
  for store in ${STORE:-etcd consul zk}; do
    if [ "$store" = etcd ]; then
      stories etcd
      echo "== a short soak"
      go test ./e2e/soak -count=1 -timeout 6m
    else
      stories "$store" &
      other+=($!)
    fi
  done
  local pid code=0
  for pid in "${other[@]}"; do
    wait "$pid" || code=$?
  done
  return $code
}

stories() {
  local store=$1 once='^(TestReadme|TestDemo|TestNetworksOfDocker|TestDockerIsTheOracle|TestTheOracle|TestShellsComplete|TestAPlugin|TestWhatAPlugin|TestPluginsOf|TestPageOnOneHost|TestAnOperationIsCutShort|TestWhatIsTakenAwayByHand|TestAHostJoinsByToken|TestTokensThat|TestStrangersAt|TestCertificatesOf|TestACertificateIs)'
  echo "== whole hosts in namespaces, on $store"
  if [ "$store" = etcd ]; then # alone on the machine
    STORE=$store gotests ./e2e -count=1 -timeout 20m -parallel=6
  else
    STORE=$store gotests ./e2e -count=1 -timeout 20m -skip="$once"
  fi
}

# Each fuzz target for some thousand inputs from its corpus; go test runs one at a time. Inputs and not seconds: when time is up while an
# input runs, go test can take that for a failure (golang/go#75804).
fuzz() {
  echo "== fuzz targets, ${FUZZTIME:-10000x} each"
  local file name
  grep -rlE '^func Fuzz' --include='*_test.go' . | while read -r file; do
    grep -oE '^func Fuzz[A-Za-z0-9_]*' "$file" | while read -r _ name; do
      go test -run '^$' -fuzz "^$name\$" -fuzztime "${FUZZTIME:-10000x}" "./$(dirname "$file")" </dev/null
    done
  done
}

case "${1:-all}" in
  deps) deps ;;
  lint) deps; lint ;;
  unit) deps; unit ;;
  sim) sim ;;
  e2e) deps; e2e ;;
  fuzz) fuzz ;;
  all) root; deps; lint; unit; sim; e2e; fuzz ;;
  *) echo "usage: $0 deps|lint|unit|sim|e2e|fuzz|all" >&2; exit 2 ;;
esac
