# weft: the two commands of the README are `sudo make demo` and `sudo make test`.
GO ?= $(shell command -v go || echo /usr/local/go/bin/go)
export GO
export CGO_ENABLED ?= 0
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X weft/agent/about.Version=$(VERSION)

.PHONY: all build demo test unit sim e2e lint fuzz bench upgrade soak generate man install clean

all: build

build:
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/weft ./cmd/weftd

# Three hosts as network namespaces on this machine, and what weft does between them. KEEP=1 leaves them up.
demo: build
	./bin/weft demo $(if $(KEEP),--keep)

# Everything that a change must pass; installs what it needs (Debian packages, Go modules).
test:
	./tools/test.sh all

lint unit sim e2e fuzz:
	./tools/test.sh $@

# weft beside the raw floor, in one run. JSON=FILE writes the numbers there too; ARGS="--only start --stores etcd" measures a part alone.
bench: build
	./tools/test.sh deps
	$(GO) run ./e2e/bench $(if $(JSON),--json $(JSON)) $(ARGS)

# Three hosts that live with all that can happen to them, and a table of what was lost or is left. TIME=1h STORE=consul|zk HOSTS=5 SEED=N change it.
soak: build
	./tools/test.sh deps
	$(GO) run ./e2e/soak $(if $(TIME),--time $(TIME)) $(if $(STORE),--store $(STORE)) $(if $(HOSTS),--hosts $(HOSTS)) $(if $(SEED),--seed $(SEED))

# A hundred restarts under traffic, of which every second is an upgrade or a downgrade: the other version is the commit FROM.
FROM ?= 2d4fa82
upgrade: build
	./tools/test.sh deps
	rm -rf bin/from && git worktree prune && git worktree add -q --detach bin/from $(FROM)
	cd bin/from && $(GO) build -trimpath -o ../other/ ./cmd/weftd
	git worktree remove --force bin/from
	$(GO) run ./e2e/bench --only restart --other bin/other/weftd $(ARGS)

generate:
	$(GO) generate ./...

# A page of man(1) for each command; with SOURCE_DATE_EPOCH, pages of that date.
man:
	$(GO) run -ldflags '$(LDFLAGS)' ./cmd/weft/docs man bin/man

PREFIX ?= /usr/local
install: build man
	install -d $(DESTDIR)$(PREFIX)/share/man/man1
	install -m 0644 bin/man/*.1 $(DESTDIR)$(PREFIX)/share/man/man1
	install -D -m 0755 bin/weft $(DESTDIR)$(PREFIX)/bin/weft
	install -D -m 0755 bin/weftd $(DESTDIR)$(PREFIX)/bin/weftd
	install -D -m 0644 deploy/systemd/weftd.service $(DESTDIR)/etc/systemd/system/weftd.service

clean:
	rm -rf bin
