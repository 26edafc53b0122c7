# The commands that a person types. Each does all it needs, from installing what is missing.
.DEFAULT_GOAL := help
.PHONY: help lab down test check bench

# Where `rustup` puts cargo, for shells that have not been told.
export PATH := $(PATH):$(HOME)/.cargo/bin

help: ## say what there is
	@sed -n 's/^\([a-z]*\): ## \(.*\)/  make \1\t\2/p' Makefile | expand -t 16

lab: ## bring up a three-node cluster on this machine, and prove by traffic that it works
	@scripts/bootstrap lab
	@cargo build --workspace --bins
	@target/debug/weft lab up
	@target/debug/weft lab check
	@scripts/kubectl-ok || echo "No kubectl 1.31 or newer is on this machine; get one with: scripts/get-kubectl"

down: ## take the lab down, without a trace
	@target/debug/weft lab down

test: ## run everything that CI runs
	@scripts/test

check: ## the quick part of it: formatting, house rules, lints
	@cargo fmt --all --check
	@cargo xtask check
	@cargo clippy --workspace --all-targets --locked -- -D warnings

bench: ## measure this network beside its peers
	@scripts/bootstrap bench
	@cargo build --release --workspace --bins
	@cargo plugin
	@target/release/weft bench path
	@target/release/weft bench cni
	@target/release/weft bench agent
