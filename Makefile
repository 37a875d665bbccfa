# Everything a contributor runs. `make` alone lists the targets.
# Each target fetches what it needs (scripts/setup) and needs no root.

CARGO ?= cargo
DEV_DIR ?= .dev
CHAOS_SCHEDULES ?= 100000
DENY_VERSION := 0.20.2
DENY := .tools/bin/cargo-deny
CYCLONEDX_VERSION := 0.5.9
CYCLONEDX := .tools/bin/cargo-cyclonedx
DIST ?= target/dist
SECRETS_RUN ?= $(CURDIR)/target/secrets-run

.DEFAULT_GOAL := help
.PHONY: help setup build demo test test-api test-secrets chaos bench sbom release deny lint fmt up

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: ## bring nats-server and Postgres where the machine lacks them
	@scripts/setup

build: ## compile
	$(CARGO) build --locked

demo: setup build ## show what it does, on a private cluster
	scripts/demo

up: setup build ## a private Postgres, NATS cluster and the service, until interrupted
	$(CARGO) run --locked -- dev --dir $(DEV_DIR)

test: setup ## all tests, with real servers
	$(CARGO) test --locked

test-api: setup ## the API against its own OpenAPI document, with schemathesis (API_SEED, API_CASES); part of `test`
	$(CARGO) test --locked --test it -- contract:: --nocapture

chaos: setup ## faults at full size, and many schedules on a simulated cluster (CHAOS_SCHEDULES, CHAOS_SEED)
	CHAOS_SCHEDULES=$(CHAOS_SCHEDULES) $(CARGO) test --locked --config 'profile.dev.package.nats-authority.opt-level=1' \
		--test simulation -- --nocapture
	CHAOS_FULL=1 $(CARGO) test --locked --test it -- chaos:: months:: reconcile:: --nocapture --test-threads=1

test-secrets: setup ## all tests at their most talkative, then a search for every secret in what they left
	rm -rf $(SECRETS_RUN)
	SECRETS_RUN=$(SECRETS_RUN) NATS_AUTHORITY__LOG__FILTER=trace $(CARGO) test --locked --test it
	SECRETS_RUN=$(SECRETS_RUN) $(CARGO) test --locked --test it -- --ignored --nocapture whole_run::
	rm -rf $(SECRETS_RUN)

bench: setup ## the figures, measured beside their limits
	$(CARGO) bench --locked --bench figures

sbom: ## what the binary is made of, as CycloneDX, in target/dist
	@$(CYCLONEDX) cyclonedx --version 2>/dev/null | grep -qF ' $(CYCLONEDX_VERSION)' || \
		$(CARGO) install --debug --locked --root .tools cargo-cyclonedx@$(CYCLONEDX_VERSION)
	CARGO=$(CARGO) scripts/sbom $(DIST)/nats-authority.cdx.json

release: sbom ## the binary to give away, what it is made of, and the SHA-256 of both, in target/dist
	$(CARGO) build --locked --release --bin nats-authority --target-dir target
	cp target/release/nats-authority $(DIST)/
	cd $(DIST) && sums=$$(command -v sha256sum || echo shasum -a 256) && $$sums nats-authority nats-authority.cdx.json >SHA256SUMS
	cd $(DIST) && sums=$$(command -v sha256sum || echo shasum -a 256) && $$sums --check SHA256SUMS

lint: ## format, clippy, and what `deny` looks at where cargo-deny is installed
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	@if $(DENY) --version >/dev/null 2>&1; then $(DENY) --locked check licenses bans sources; \
	else echo "skipped: cargo-deny (make deny installs it)"; fi

deny: ## licences, duplicates and sources of what we depend on, and known weaknesses where the list can be had
	@$(DENY) --version >/dev/null 2>&1 || $(CARGO) install --debug --locked --root .tools cargo-deny@$(DENY_VERSION)
	$(DENY) --locked check licenses bans sources
	$(DENY) --locked check advisories

fmt: ## format the code
	$(CARGO) fmt
