# `make` alone says what there is. `make demo` and `make test` need nothing but Rust, Python 3 and make.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

target := $(abspath $(or $(CARGO_TARGET_DIR),target))
# In CI the lock file is law; a developer may have changed Cargo.toml a moment ago.
locked := $(if $(CI),--locked)

# Tests find these through the environment, and `keepbest` and the tools through the path.
export PYTHON := $(CURDIR)/.venv/bin/python
export KEEPBEST_BIN := $(target)/debug/keepbest
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# What everything installs by itself; the demo and the tests run on the CPU.
export KERAS_BACKEND := jax
export JAX_PLATFORMS := cpu

STAGES := setup fmt lint docs deny proto stubs settings test-rust test-s3 test-python conformance

.PHONY: help demo test setup build python fmt format lint docs deny proto stubs settings
.PHONY: test-rust test-s3 test-azure test-python test-pins test-tf-keras test-deploy test-languages test-page book conformance bench bench-peers clean

help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

demo: build python ## Train a real model, kill it, resume it, and look at what was kept
	@demo/run

# With what the tests need besides, so that nothing is built twice, with other features.
test: export BUILD_FOR_TESTS := 1
test: ## All checks and tests, with the time of each
	@scripts/stages $(STAGES)

build: ## The server and the command line, unoptimised: target/debug/keepbest
	cargo $(if $(BUILD_FOR_TESTS),test --workspace --no-run,build) $(locked)

python:
	@scripts/setup-python

setup: python ## What the tests need: .venv, the Postgres server and strace (installs when root)
	@scripts/setup-postgres
	@scripts/setup-strace

fmt: python ## Is all code formatted?
	cargo fmt --all --check
	cd clients/python && ruff format --check . ../../demo ../../benches ../../tests/deploy ../../tests/languages ../../tests/page ../../docs/site ../../scripts/check-book --config pyproject.toml

format: python ## Format all code
	cargo fmt --all
	cd clients/python && ruff format . ../../demo ../../benches ../../tests/deploy ../../tests/languages ../../tests/page ../../docs/site ../../scripts/check-book --config pyproject.toml
	buf format -w proto

lint: python ## clippy, ruff, mypy and shellcheck; warnings are errors
	cargo clippy $(locked) --workspace --all-targets -- -D warnings
	cd clients/python && ruff check . ../../demo ../../benches ../../tests/deploy ../../tests/languages ../../tests/page ../../docs/site ../../scripts/check-book --config pyproject.toml
	cd clients/python && mypy
	shellcheck scripts/setup-* scripts/check-stubs scripts/stages scripts/test-pins deploy/compose-secrets demo/run .ci/run clients/python/generate.sh \
		clients/examples/shell/plain clients/examples/shell/complete

deny: python ## Licences and sources of the dependencies
	cargo-deny $(locked) check bans licenses sources

docs: ## The Rust documentation, warnings are errors
	RUSTDOCFLAGS='-D warnings' cargo doc $(locked) --no-deps --workspace

proto: python ## Lint and format of the contract
	buf lint proto
	buf format -d --exit-code proto

stubs: python ## Is the generated Python code up to date?
	scripts/check-stubs

settings: build ## Are the files of settings right?
	$(KEEPBEST_BIN) check-config --config deploy/config.example.toml
	$(KEEPBEST_BIN) check-config --config deploy/config.replicas.toml

test-rust: setup ## Rust unit and integration tests, on SQLite and Postgres
	cargo test $(locked) --workspace

# The tests over the wire but for one, which is about the data folder.
wire := access:: bounds:: events:: http:: inputs:: metrics:: page:: runs:: uploads:: watch:: wire_traces --skip a_second_server_on_the_same_folder

test-s3: setup ## The tests over the wire again, on Postgres and an S3 server
	KEEPBEST_TEST_REPLICA=s3 cargo test $(locked) --test it -- $(wire)

test-azure: setup ## Uploads and downloads on Postgres and Azurite (npm, 365 MB)
	scripts/setup-azurite
	KEEPBEST_TEST_REPLICA=azure cargo test $(locked) --test it -- uploads:: \
		--skip a_second_server_on_the_same_folder

test-python: build python ## The Python client's tests, against the real server
	cd clients/python && pytest

test-pins: build python ## The client with the oldest and the newest protobuf, grpcio and Python that it allows
	scripts/test-pins

test-tf-keras: build ## The tests of the callback for tf_keras, with TensorFlow in .venv-tf (1.5 GB)
	scripts/setup-python tf
	cd clients/python && KERAS_BACKEND=tensorflow TF_CPP_MIN_LOG_LEVEL=3 \
		../../.venv-tf/bin/python -m pytest -W ignore tests/test_tf_keras.py

test-deploy: build setup ## The files of deploy/ and the runbook: replicas behind Envoy, backups, the chart (85 MB in .venv-deploy, and helm)
	scripts/setup-python deploy
	scripts/setup-sqlite
	scripts/setup-helm
	scripts/setup-prometheus
	PATH="$(CURDIR)/.venv-deploy/bin:$(CURDIR)/.helm:$$PATH" pytest -q -p no:cacheprovider tests/deploy

test-languages: build python ## clients/examples, built with their toolchains, and the same faults for all (Go, Java, Node, C++)
	scripts/setup-languages
	PYTHONPATH=clients/python/src pytest -q -p no:cacheprovider tests/languages

test-page: build ## The page in Chromium: looks, keys, phone, no scripts, axe-core; pictures in target/page-screenshots
	scripts/setup-page
	scripts/setup-python page
	PATH="$(CURDIR)/.venv-page/bin:$$PATH" pytest -q -p no:cacheprovider tests/page

book: build ## The site of docs/: target/book, which is read without a network (170 MB in .venv-book)
	@scripts/setup-python book
	rm -rf $(target)/book $(target)/book-pages
	.venv-book/bin/sphinx-build -q -W --keep-going -c docs/site -d $(target)/book-pages -b html . $(target)/book
	scripts/check-book $(target)/book
	@echo "The site is at $(target)/book/index.html"

conformance: build python ## Keras' own ModelCheckpoint tests, on our callback
	PYTHONPATH=tests/conformance pytest -q -p dropin_plugin --pyargs keras.src.callbacks.model_checkpoint_test

# All modules with tests that repeat what they do (`tests/it/support/soak.rs`). One at a time: each wants the machine for
# itself, and the disk for what it has saved.
soaked := crashes:: failpoints:: collector:: outages::

soak: build setup ## Kills, failpoints, races and storms, 10 to 25 times as long as in `make test`
	KEEPBEST_SOAK=1 cargo test $(locked) --test it -- $(soaked) --nocapture --test-threads=1
	cd clients/python && KEEPBEST_SOAK=1 pytest -s tests/test_storm.py

bench: ## Measurements with a release build
	benches/run.sh

bench-peers: ## Measurements beside MLflow, wandb and cp, with a release build (0.8 GB in target/bench-peers)
	@scripts/setup-python peers
	@scripts/setup-postgres
	cargo build $(locked) --release --bin keepbest --quiet
	target/bench-peers/bin/python benches/peers $(target)/release/keepbest --json target/bench-peers.json $(PEERS)

clean: ## Remove what was built; data/ stays
	cargo clean
	rm -rf .venv .venv-tf .venv-deploy .venv-book .venv-page .azurite .helm
