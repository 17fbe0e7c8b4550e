# builder: make build, make demo, make test. Everything else is for those who
# change it. Nothing but Go is needed to build; `make test` as root installs
# the Debian packages that the tests use (testdata/setup.sh lists them).

GO          ?= go
VERSION     ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS     := -s -w -X main.version=$(VERSION)
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
TESTFLAGS   ?= -count=1 -timeout=20m
PACKAGES    ?= ./...

.DEFAULT_GOAL := build
.PHONY: build demo setup test conformance race bench lint fmt clean help

build: ## the static binary, bin/builder
	CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)' -o bin/builder ./cmd/builder

demo: build ## build, run and rebuild a small image from nothing
	testdata/demo/run bin/builder

setup: ## what the tests need from outside: packages, base images
	testdata/setup.sh

test: setup ## every test, against the real kernel, tools and a registry
	CGO_ENABLED=0 BUILDER_TEST_BUILDAH=no $(GO) test $(TESTFLAGS) $(PACKAGES)

conformance: setup ## every case of testdata/conformance, held against buildah too
	CGO_ENABLED=0 $(GO) test $(TESTFLAGS) -run '^TestConformance$$' ./cmd/builder

race: setup ## the same under the race detector (needs a C compiler)
	CGO_ENABLED=1 $(GO) test -race -short $(TESTFLAGS) $(PACKAGES)

bench: ## benchmarks
	$(GO) test -run '^$$' -bench . -benchmem $(PACKAGES)

lint: ## gofmt, go vet, staticcheck, a tidy go.mod
	@test -z "$$(gofmt -l .)" || { echo 'make fmt would change:'; gofmt -l .; exit 1; }
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...
	$(GO) mod tidy -diff

fmt: ## format the code
	gofmt -w .

clean: ## remove what make made here
	rm -rf bin .demo

help: ## this list
	@sed -n 's/^\([a-z]*\):[^#]*## /\1\t/p' Makefile
