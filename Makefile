# `make test` and `make demo` are the two to know; both make .venv first.
.DEFAULT_GOAL := help
.PHONY: help setup lint unit test demo bench oracle bases agent-image lock clean

PYTHON_BIN := .venv/bin/python
PYTEST := .venv/bin/pytest
WORKERS ?= 2
UNIT := $(wildcard tests/unit tests/golden tests/property tests/conformance)
# Tests that share something costly carry an `xdist_group` mark and stay on one worker.
PARALLEL := -n $(WORKERS) --dist loadgroup

help: ## What there is to make
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1	/p' Makefile | expand -t 13

setup: ## .venv with pybuild, executor and warmer, and the Debian packages that are used
	@.ci/setup

lint: setup ## Layout, rules and types
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy

unit: setup ## The tests that need no registry, container or network: under a minute
	$(PYTEST) $(PARALLEL) $(UNIT)

test: setup lint ## Everything, with real parts: at most 20 minutes
	$(PYTEST) $(PARALLEL) tests

demo: setup ## The main job with real parts: clone, mvn package, build, push, run (BASE=… for another base)
	@$(PYTHON_BIN) -m examples.demo $(if $(BASE),--base '$(BASE)')

bench: setup ## Times and memory against buildah and BuildKit
	$(PYTHON_BIN) -m benchmarks $(BENCH)

oracle: setup ## Records again what BuildKit makes of tests/cases
	$(PYTHON_BIN) -m tests.support.oracle $(ORACLE)

bases: setup ## Makes the base images from Debian packages, once a machine
	$(PYTHON_BIN) -m tests.support.bases

agent-image: setup ## The builder's own image, by pybuild itself: REGISTRY=host:port/repository pushes it
	@$(PYTHON_BIN) agent-image/build.py --repository '$(REGISTRY)' \
		$(addprefix --architecture=,$(ARCHITECTURE)) $(addprefix --target=,$(TARGET)) \
		--more-folders='$(MORE_FOLDERS)' --more-links='$(MORE_LINKS)'

lock: ## requirements*.lock from pyproject.toml, with hashes
	@.ci/lock

clean: ## Everything made here but .venv; the caches in ~/.cache/pybuild-dev stay
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
	rm -rf tests/groovy/target examples/hello-maven/target
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
