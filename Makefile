# builder: make build, make demo, make test. Everything else is for those who
# change it. Nothing but Go is needed to build; `make test` as root installs
# the Debian packages that the tests use (testdata/setup.sh lists them).

GO          ?= go
VERSION     ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
TAGS        := -tags pid1
# Functions of few bytes are many: aligned to 16 instead of 32 they take 176 kB less.
LDFLAGS     := -s -w -funcalign=16 -X main.version=$(VERSION)
# Nothing is inlined in libraries that only wait or never run: 530 kB less. protobuf comes with BuildKit's parser, which does not use it.
SELDOM      := google.golang.org/protobuf github.com/minio github.com/tinylib github.com/moby/buildkit github.com/planetscale github.com/containerd \
	github.com/tonistiigi github.com/sirupsen github.com/spf13 github.com/BurntSushi go.yaml.in gopkg.in golang.org/x/text oras.land \
	net crypto/tls crypto/x509 encoding/asn1 encoding/xml golang.org/x/crypto
GCFLAGS     := $(foreach lib,$(SELDOM),-gcflags=$(lib)/...=-l)
BENCHSTAT   := golang.org/x/perf/cmd/benchstat@v0.0.0-20260908200009-22c9c6c9d4da
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
# Four at a time: tests wait for disks, sleeps and each other more than they compute.
TESTFLAGS   ?= -count=1 -timeout=20m -parallel=4
PACKAGES    ?= ./...
# Which tests `make race` runs; SHORT= has it run the long ones too.
RUN         ?= .
SHORT       ?= -short
FUZZTIME    ?= 1m
FUZZ        := builder:FuzzStore builder/plan:FuzzParse builder/plan:FuzzMount builder/buildctx:FuzzIgnore builder/buildctx:FuzzMemoFile \
	builder/cache:FuzzRecord builder/cdi:FuzzParse builder/copier:FuzzWalk builder/lockfile:FuzzParse builder/policy:FuzzPolicy \
	builder/progress:FuzzEditor builder/sandbox/child:FuzzDecode builder/sbom:FuzzBuildInfo builder/sbom/rpmdb:FuzzHeader builder/sbom/rpmdb:FuzzPackages \
	builder/sbom/sqlite:FuzzTable builder/sbom/zip:FuzzEach builder/secret:FuzzMask builder/sharedcache:FuzzConfig \
	builder/source/git:FuzzOutput builder/source/git:FuzzRemote oci:FuzzDocuments oci/archive:FuzzRead oci/chunked:FuzzRead \
	oci/layer:FuzzChanges oci/layer:FuzzUnpack oci/layer:FuzzWhiteouts oci/name:FuzzParse \
	oci/registry:FuzzAnswers oci/registry:FuzzConfig oci/registry/hosts:FuzzLookup
# Where the measurements keep their workload; bench-growth fills 45 GB for its largest file.
BENCHDIR    ?= /var/tmp/builder-bench

.DEFAULT_GOAL := build
.PHONY: build pid1 demo setup test torture conformance race fuzz bench bench-growth bench-go bench-compare lint fmt clean help

build: pid1 ## the static binary, bin/builder
	CGO_ENABLED=0 $(GO) build $(TAGS) $(GCFLAGS) -trimpath -buildvcs=false -ldflags '$(LDFLAGS)' -o bin/builder ./cmd/builder

# The small program that sandboxes start with, which the binary embeds. It runs for milliseconds, all of them system calls: what
# is not inlined costs none and makes it smaller by a tenth.
pid1:
	CGO_ENABLED=0 $(GO) build -gcflags=all=-l -trimpath -buildvcs=false -ldflags '-s -w -funcalign=16 -buildid=' -o builder/sandbox/pid1/pid1 ./builder/sandbox/pid1
	$(GO) run builder/sandbox/pid1/compress.go builder/sandbox/pid1/pid1

demo: build ## build, run and rebuild a small image from nothing
	testdata/demo/run bin/builder

setup: ## what the tests need from outside: packages, base images
	testdata/setup.sh

test: setup pid1 ## every test, against the real kernel, tools and a registry
	CGO_ENABLED=0 $(GO) test $(TAGS) $(TESTFLAGS) $(PACKAGES)

torture: setup pid1 ## sixteen processes in one store for a minute (BUILDER_TORTURE), some killed
	CGO_ENABLED=0 BUILDER_TEST_BUILDAH=no BUILDER_TORTURE=$(or $(BUILDER_TORTURE),1m) $(GO) test $(TAGS) $(TESTFLAGS) -v -run '^TestTorture$$' ./cmd/builder

conformance: setup pid1 ## every case of testdata/conformance, held against buildah too
	CGO_ENABLED=0 $(GO) test $(TAGS) $(TESTFLAGS) -run '^TestConformance$$' ./cmd/builder

# The binary that the scripts run is built with the detector too, and looks at its end for goroutines and descriptors that it forgot.
# A second's sleep at the end of each process would be the detector's default.
race: setup pid1 ## the same under the race detector (needs a C compiler)
	GORACE='halt_on_error=1 exitcode=66 atexit_sleep_ms=0' CGO_ENABLED=1 $(GO) test $(TAGS) -race $(SHORT) -run '$(RUN)' $(TESTFLAGS) $(PACKAGES)

fuzz: ## all that reads bytes from outside, each target for FUZZTIME (1m)
	@GO=$(GO) FUZZTIME=$(FUZZTIME) testdata/fuzz-all $(FUZZ)

bench: build setup ## the ladder beside its limits and buildah, into docs/performance.md
	$(GO) run ./cmd/bench -dir $(BENCHDIR) -write docs/performance.md $(BENCHFLAGS)

bench-growth: build setup ## time and memory as the input grows, into docs/performance.md
	$(GO) run ./cmd/bench -growth -dir $(BENCHDIR) -write docs/performance.md $(BENCHFLAGS)

bench-go: ## the packages' own benchmarks, as benchstat reads them
	@GO=$(GO) testdata/bench-go

bench-compare: ## the same beside those of another commit: make bench-compare OLD=v1
	@GO=$(GO) BENCHSTAT=$(BENCHSTAT) testdata/bench-compare $(OLD)

lint: pid1 ## gofmt, go vet, staticcheck, a tidy go.mod
	@test -z "$$(gofmt -l .)" || { echo 'make fmt would change:'; gofmt -l .; exit 1; }
	$(GO) vet $(TAGS) ./...
	$(GO) run $(STATICCHECK) $(TAGS) ./...
	$(GO) mod tidy -diff

fmt: ## format the code
	gofmt -w .

clean: ## remove what make made here
	rm -rf bin .demo

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' Makefile
