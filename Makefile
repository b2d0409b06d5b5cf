# The commands of this repository; `make help` lists them. All of them honour CARGO_TARGET_DIR.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

export PYTHONDONTWRITEBYTECODE := 1
# The same cases each time: what one run in a thousand finds is found on purpose (with another seed), not while something lands.
export PROPTEST_RNG_SEED ?= 1
PYTHON ?= python3

TARGET := $(or $(CARGO_TARGET_DIR),target)
LITTORAL := $(TARGET)/debug/littoral

EXAMPLE := examples/machine-health
# Workspaces beside the main one, which have lock files and lints of their own.
SIDE_WORKSPACES := sdk/rust library $(EXAMPLE)/guests examples/parade/guests fuzz
# These are linted, too; they have no tests.
LINTED_WORKSPACES := $(SIDE_WORKSPACES) crates/bench/guests tests/guests

# The component of our own tests of WASI 0.2.
CONFORMANCE := $(TARGET)/guests/test/wasm32-wasip2/release/examples/conformance.wasm

# The optional build with sources and sinks of Kafka; no other crate is compiled anew for it.
KAFKA := --features littoral-cli/kafka

# Worth its minute of compiling for many seeds, and not for the few of `make test`.
SEEDS_FAST := $(foreach crate,model plan control store sim,--config 'profile.dev.package.littoral-$(crate).opt-level=2') \
	--config 'profile.dev.package.redb.debug-assertions=false'

.PHONY: test-kafka help setup languages build install guests demo demo-parade drill overload chaos chaos-flow chaos-queue test offline check fix bench bench-guests bench-density-guests bench-zenoh-peer clean conformance conformance-guest fuzz seeds

help: ## list the targets
	@grep -hE '^[a-z%-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z%-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

setup: ## install what is missing (Debian packages, the Wasm target); quick when nothing is
	@scripts/setup

languages: setup ## install what apps in Python, JavaScript and C are built with, for the tests of the templates
	@scripts/setup-languages

build: setup ## build the `littoral` command (dev profile, optimised dependencies)
	cargo build --locked --package littoral-cli

install: setup ## build optimised and put `littoral` into ~/.cargo/bin, and the library of operators beside it
	cargo install --locked --path crates/cli
	@scripts/install-library $${CARGO_HOME:-$$HOME/.cargo}/share/littoral/library

guests: setup ## build the example's Wasm components
	@scripts/build-guests $(EXAMPLE)

demo: build guests ## run the main job: devices, edge and cloud on this machine
	$(LITTORAL) dev $(EXAMPLE) --demo

demo-parade: build ## run the parade: phones that are told where to look, by queries in SQL; FRAMES=N for another number than 150
	@scripts/demo-parade $(LITTORAL) $(FRAMES)

drill: build guests ## kill, pause, wipe and cut nodes while records flow, a minute each, and check what came out
	@scripts/drill $(LITTORAL)

overload: build guests ## slow an edge node of the example down until its objective is violated, and see that it is kept again
	$(LITTORAL) dev $(EXAMPLE) --once --sensors 20 --rate 400 --duration 150s --fault 'slow:edge-1@15%..75%'

chaos: bench-chaos ## kill, pause, wipe, cut and heal twelve nodes for ten minutes under records and calls; SEED=N repeats a run, SHORT=1 has one of each

chaos-flow: bench-chaos-flow ## kill, pause, wipe and cut nodes, swap functions, move stages and change numbers of partitions 200 times under a flow in SQL; SEED=N repeats a run, SHORT=1 has ten

chaos-queue: bench-chaos-queue ## kill, pause and wipe nodes 200 times under asynchronous calls; SEED=N repeats a run, SHORT=1 has ten

seeds: setup ## run the whole fabric under SEEDS seeds (10,000) in virtual time, from FROM (1) on, on all cores
	cargo test --locked --workspace --test seeds $(SEEDS_FAST) -- --count $(or $(SEEDS),10000) --from $(or $(FROM),1)

offline: setup ## cut an edge node off for 72 hours of virtual time, with 20 restarts, under SEEDS seeds (20)
	cargo test --locked --workspace --test offline $(SEEDS_FAST) -- --hours 72 --count $(or $(SEEDS),20) --from $(or $(FROM),1)

test: languages guests ## run every test
	cargo test --locked --workspace
	cargo test --locked --workspace $(KAFKA) --test kafka_client
	@# With the tests goes the command that they run, built with their dependencies' features.
	@scripts/drill $(LITTORAL) short
	@$(MAKE) conformance-guest
	$(PYTHON) tests/conformance/run.py --component $(CONFORMANCE) --target littoral
	@for workspace in $(SIDE_WORKSPACES); do scripts/in-workspace $$workspace test; done
	$(PYTHON) -m unittest discover --start-directory tests/checker --pattern 'test_*.py'
	$(PYTHON) -m unittest discover --start-directory tests/architecture --pattern 'test_*.py'

test-kafka: setup ## run the tests of the optional build with Kafka; LITTORAL_KAFKA=HOST:PORT and LITTORAL_KAFKA_TOPIC name a broker and an empty topic of it
	cargo build --locked --workspace $(KAFKA) --example kafka-broker
	cargo test --locked --workspace $(KAFKA) --test kafka --test kafka_client
	cargo test --locked --workspace $(KAFKA) --lib -- kafka::

conformance-guest: setup
	cd tests/guests && cargo build --locked --release --example conformance --target wasm32-wasip2 --target-dir $(abspath $(TARGET))/guests/test

conformance: build conformance-guest ## run WASI's tests on `littoral run` and on wasmtime, and say where they differ; WASI_TESTSUITE=FOLDER adds the public suite
	@scripts/setup-peers coldstart
	$(PYTHON) tests/conformance/run.py --component $(CONFORMANCE)

fuzz: setup ## run each fuzz target for FUZZ_SECONDS (600); figures in target/fuzz/
	@scripts/fuzz run

check: setup ## what CI holds a change to, without changing anything: format, lints, crate graph, licences, docs
	cargo fmt --all --check
	@for workspace in $(LINTED_WORKSPACES); do scripts/in-workspace $$workspace fmt; done
	rustfmt --check --edition 2024 templates/rust/*/src/*.rs templates/rust/*/tests/*.rs
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo clippy --locked --workspace $(KAFKA) --all-targets -- -D warnings
	@for workspace in $(LINTED_WORKSPACES); do scripts/in-workspace $$workspace clippy; done
	$(PYTHON) -m unittest discover --start-directory tests/architecture --pattern 'test_*.py'
	@if cargo deny --version >/dev/null 2>&1; then cargo deny --offline check bans licenses sources; fi
	RUSTDOCFLAGS='-D warnings' cargo doc --locked --workspace --no-deps --quiet

fix: setup ## mend what can be mended: format, lints
	cargo fmt --all
	@for workspace in $(LINTED_WORKSPACES); do (cd $$workspace && cargo fmt --all); done
	rustfmt --edition 2024 templates/rust/*/src/*.rs templates/rust/*/tests/*.rs
	cargo clippy --workspace --all-targets --fix --allow-dirty --allow-staged

bench: bench-flow bench-flow-basic bench-http bench-coldstart bench-container bench-mesh bench-neighbour bench-density bench-elastic bench-hybrid bench-idle bench-place bench-priority bench-stream ## run every benchmark; results in target/bench/

bench-guests: setup ## build the components that the benchmarks serve
	cd crates/bench/guests && cargo build --locked --release --target wasm32-wasip2 --target-dir $(abspath $(TARGET))/guests/bench

bench-density-guests: bench-guests
	cd crates/bench/guests && cargo build --locked --release --package catalogue --examples --target wasm32-wasip2 --target-dir $(abspath $(TARGET))/guests/bench
	@scripts/setup-peers density
	@crates/bench/guests/build-js $(TARGET)/guests/bench/js

bench-zenoh-peer:
	cargo build --locked --release --package littoral-mesh --example zenoh_query

bench-mesh: bench-zenoh-peer
bench-density: bench-density-guests

bench-%: setup guests bench-guests ## run one benchmark, for instance `make bench-http`; SHORT=1 for its short form
	@scripts/setup-peers $*
	cargo build --locked --release --package littoral-cli
	cargo run --locked --release --package littoral-bench -- $* $(if $(SHORT),--short) $(if $(SEED),--seed $(SEED))

clean: ## forget what was built
	cargo clean
	rm -rf $(EXAMPLE)/target examples/parade/target $(addsuffix /target,$(SIDE_WORKSPACES))
