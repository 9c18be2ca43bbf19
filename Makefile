# Every target does the set-up it needs; nothing but Python 3.11+ and make has to be there.
# `make run ARGS="--for 15s"`, `make test ARGS="-k framing"`, `make fuzz SECONDS=60`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
SECONDS ?= 10
ARGS ?=

.PHONY: setup run test check lint types layers bench fuzz package install test-systemd clean help
.DEFAULT_GOAL := help

help: ## what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(STAMP) ## make .venv with the project in it

$(STAMP): pyproject.toml build_hook.py $(wildcard proto/*.proto procmond/events/*.c procmond/events/*.h)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is older than 3.11; name another: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "$(PYTHON) has no venv module; install it (Debian: python3-venv), then try again" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

run: setup ## both daemons from this checkout, for a first look
	@$(BIN)/daemoneye up $(ARGS)

test: setup ## all tests; as root also those that need root
	$(BIN)/python -m pytest $(ARGS)

lint: setup ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup ## mypy, strict
	$(BIN)/mypy
	$(BIN)/mypy --strict systemd/package/stage.py systemd/package/deb.py

layers: setup ## who may import whom
	$(BIN)/lint-imports

check: lint types layers ## lint, types, layers, tests with branch coverage
	$(BIN)/python -m pytest --cov --cov-report=term $(ARGS)

bench: setup ## the figures of docs/benchmarks.md, as tables and JSON
	$(BIN)/python -m tests.bench.run $(ARGS)

syscalls: setup ## the system calls of the system tests against the filters: docs/syscalls.md; needs root, strace
	@$(BIN)/python -m tests.support.trace $(ARGS)

fuzz: setup ## every fuzz target for SECONDS
	$(BIN)/python -m tests.fuzz.run --seconds $(SECONDS) $(ARGS)

package: setup ## dist/: the wheel and a .deb; the same commit gives the same bytes
	$(BIN)/python systemd/package/deb.py

install: setup ## for packagers: everything as installed, under DESTDIR
	@test -n "$(DESTDIR)" || { echo "name a directory: make install DESTDIR=/tmp/root" >&2; exit 2; }
	$(BIN)/python systemd/package/stage.py --destdir "$(DESTDIR)"

test-systemd: setup ## install the package in a booted systemd, check every promise; needs root, see its report
	$(BIN)/python -m tests.systemd.run $(ARGS)

clean: ## remove what the targets made
	rm -rf $(VENV) common/pb dist build .coverage .coverage.* .hypothesis .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
