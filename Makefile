# make            what there is
# make build      the three programs, in target/release
# make demo       the whole path on a small drawn data set; RAW=folder takes raw data sets instead
# make test       every test, the parity tests with the published Python implementation included
# make setup-cuda libtorch with CUDA and NCCL; build again after it
# make soak       2,000 training steps under faults, about a quarter of an hour
# make ci         everything that .ci/run checks
#
# Every target sets up what it needs; a second set-up is instant.

.PHONY: help setup setup-cuda setup-weights setup-python setup-servers build demo test soak lint ci clean
RAW ?=

help:
	@sed -n 's/^# \{0,1\}//p' Makefile

setup:
	@scripts/setup-libtorch.sh cpu

setup-cuda:
	@scripts/setup-libtorch.sh cuda

setup-weights:
	@scripts/setup-weights.sh

setup-python: setup
	@scripts/setup-python.sh

setup-servers:
	@scripts/setup-servers.sh

build: setup
	cargo build --locked --release

demo: build setup-weights
	@scripts/demo.sh $(if $(RAW),"$(RAW)")

# The release profile, so that `build`, `demo` and `test` share one set of build products.
test: build setup-weights setup-python setup-servers
	HQSAM_PYTHON="$(CURDIR)/.venv/bin/python" HQSAM_LITE_MEDSAM="$(CURDIR)/weights/lite_medsam.pth" HQSAM_TEST_SERVERS=required cargo test --locked --release --workspace

soak: build setup-servers
	HQSAM_TEST_SERVERS=required HQSAM_SOAK_STEPS=2000 cargo test --locked --release --workspace --test stores -- soak --nocapture

lint: setup
	cargo fmt --all --check
	cargo clippy --locked --release --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --release --workspace --no-deps --document-private-items
	scripts/check-graph.sh

ci:
	.ci/run

clean:
	cargo clean
	rm -rf demo
