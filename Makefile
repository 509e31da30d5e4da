# Everything a person does with this tree. `make` alone lists it.
#
# Set-up is remembered in .stamp-* files; system packages are looked at every time, since that is quick.
# No index address is named anywhere: the machine's own pip and uv configuration decides.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
.DELETE_ON_ERROR:

PYTHON ?=
VENV := .venv
BIN := $(VENV)/bin
HOST ?= 127.0.0.1
PORT ?= 8700
WORKERS ?= 2
DATA_DIR ?= $(if $(filter 0,$(shell id -u)),/var/lib/bay,$(HOME)/.local/share/bay)
# Tests start hundreds of Pythons, and each would compile all it imports.
unexport PYTHONDONTWRITEBYTECODE
UV = $(or $(shell command -v uv),$(BIN)/uv)
SPEC_COMPILE = pip compile --quiet --universal --generate-hashes --no-emit-index-url --extra server

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: .stamp-server ## install what Bay needs: system packages, .venv, the locked requirements

.PHONY: demo
demo: .stamp-server ## start Bay, run real work in a sandbox, check every step, leave nothing
	@$(BIN)/python -m examples.demo

# By exec, so that what ends make ends Bay: a shell between them would leave it running.
.PHONY: serve
serve: .stamp-server ## run Bay here: HOST=, PORT=, DATA_DIR= (default /var/lib/bay as root)
	@exec $(BIN)/bay serve --host "$(HOST)" --port "$(PORT)" --data-dir "$(DATA_DIR)"

# Whole files go to the workers, in the order of tests/conftest.py: what a module's tests share is made once.
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --max-worker-restart 0

.PHONY: test
test: check gate-setup ## the gate: all checks, and the tests that every change passes (WORKERS=2: two files of them at a time)
	@$(PYTEST) --part gate --timeout 60

# The rest, by what it needs. CONTRIBUTING says which paths need which part.
.PHONY: test-host test-postgres test-kubernetes test-clients test-docs
test-host: .stamp-images .stamp-helm ## tests with runc, networks, storage, cages, kills (ARGS="tests/network -k relay")
	@$(BIN)/python -m scripts.test_parts host $(ARGS)

test-postgres: .stamp-dev ## tests of replicas, and of the server with its rows in PostgreSQL (ARGS=)
	@$(BIN)/python -m scripts.test_parts postgres $(ARGS)

test-kubernetes: .stamp-helm ## tests of pods, and inside a real Kubernetes, which is built once (ARGS=)
	@$(BIN)/python -m scripts.test_parts kubernetes $(ARGS)

test-clients: test-setup ## tests with other people's clients, Node and browsers (ARGS=)
	@$(BIN)/python -m scripts.test_parts clients $(ARGS)

test-docs: test-setup ## tests that run the pages of the documentation and what is in deploy/ (ARGS=)
	@$(BIN)/python -m scripts.test_parts docs $(ARGS)

.PHONY: test-all
test-all: check test-setup ## all checks, the gate and every other part, and a table of what came of each
	@$(BIN)/python -m scripts.test_parts all $(ARGS)

.PHONY: steady
steady: .stamp-dev ## run tests 25 times beside two busy loops: TESTS="tests/a/test_b.py::test_c"
	@$(BIN)/python -m scripts.steady $(TESTS)

.PHONY: check
check: .stamp-dev ## format, lint, types, generated SDK, lock files
	@scripts/check.sh $(BIN)

.PHONY: check-fast
check-fast: .stamp-dev ## format, lint, types of what changed, tests that need neither root nor a process
	@scripts/check.sh $(BIN) fast

.PHONY: fix
fix: .stamp-dev ## format the code, mend what the linter can, generate the SDKs' files again
	@$(BIN)/ruff check --fix --exit-zero --quiet
	@$(BIN)/ruff format --quiet
	@$(BIN)/python scripts/generate_sync.py
	@[ ! -e .stamp-typescript-tools ] || $(BIN)/python scripts/generate_typescript.py
	@$(BIN)/ruff check

.PHONY: bench
bench: .stamp-server ## measure (ARGS="exec memory" for some of it); JSON in bench/results/
	@$(BIN)/python -m bench $(ARGS)

.PHONY: bench-kubernetes
bench-kubernetes: .stamp-dev ## a whole Bay on thousands of puppet pods, in a real API server (ARGS="--count 1000"); docs/scaling.md
	@scripts/kubernetes/with-cluster --no-kubelet $(BIN)/python -m bench.puppets $(ARGS)

.PHONY: casts
casts: .stamp-server ## record the terminal sessions of docs/casts again; needs root and asciinema
	@$(BIN)/python -m scripts.record_casts

# Pillow packs them, which python3-matplotlib brings. A Bay of this port is in the pictures.
.PHONY: pictures
pictures: .stamp-dev .stamp-images .stamp-console ## make the screenshots of docs/images again: each page of the console, on a Bay at work (PORT=)
	@shots=$$(mktemp -d) && trap 'rm -rf "$$shots"' EXIT && \
	  CONSOLE_PORT=$(PORT) CONSOLE_SHOTS=$$shots $(BIN)/python -m pytest -q tests/console/test_pictures.py && \
	  /usr/bin/python3 scripts/pack_pictures.py "$$shots" docs/images

.PHONY: soak
soak: .stamp-server ## half an hour of traffic with crashes; fails when anything grows (ARGS="--minutes 2")
	@$(BIN)/python -m bench.soak $(ARGS)

.PHONY: crash
crash: .stamp-dev ## kill Bay everywhere and count what is lost, leaked or doubled (ARGS="create stop", ARGS=--write)
	@PYTHONPATH=tests/support $(BIN)/python tests/crash/crash_matrix.py $(ARGS)

.PHONY: killed-replicas
killed-replicas: .stamp-dev .stamp-compat .stamp-compat-node ## all tests of the SDK, and other people's clients, while three replicas are killed without end (ARGS=)
	@BAY_TEST_KILLED_LONG=1 $(BIN)/python -m pytest -s tests/replicas/test_killed_under_clients.py $(ARGS)

.PHONY: integrity
integrity: .stamp-dev ## move up to 1 GiB through every door, under load, and count bytes that are lost, doubled or reordered
	@BAY_INTEGRITY_BYTES=$$((1 << 30)) BAY_INTEGRITY_LOAD=$$(nproc) $(BIN)/python -m pytest -q tests/integrity

.PHONY: abuse
abuse: .stamp-dev ## hostile programs and clients, also those that take much of this host (ARGS="-k pressure")
	@$(BIN)/python -m pytest tests/abuse -m "abuse or not abuse" $(ARGS)

.PHONY: docs
docs: .stamp-docs ## build the site of the documentation, which the server has at /docs/ from its next start

.PHONY: console
console: .stamp-console ## build the web console, which the server has at / from its next start; needs node

.PHONY: lock
lock: .stamp-dev ## compile requirements/*.txt again after a change of pyproject.toml
	@$(UV) $(SPEC_COMPILE) --group build pyproject.toml -o requirements/server.txt
	@$(UV) $(SPEC_COMPILE) --group dev pyproject.toml -o requirements/dev.txt
	@$(UV) $(SPEC_COMPILE) --extra kubernetes --extra opentelemetry --extra postgres --extra s3 -c requirements/dev.txt \
	  pyproject.toml -o requirements/kubernetes.txt
	@$(UV) pip compile --quiet --universal --generate-hashes --no-emit-index-url --resolution lowest-direct \
	  pyproject.toml -o requirements/oldest.txt

	@for name in compat docs frameworks swe-rex; do $(UV) pip compile --quiet --universal --generate-hashes --no-emit-index-url \
	  requirements/$$name.in -o requirements/$$name.txt; done

.PHONY: version
version: .stamp-dev ## begin a release: write VERSION=0.2.0 to every place, gather changelog.d into CHANGELOG.md
	@$(BIN)/python scripts/release.py version "$(VERSION)"

.PHONY: release
release: .stamp-dev .stamp-docs .stamp-console ## build sdist, wheel and npm package into dist/, and use each in a clean environment
	@rm -rf dist
	@$(BIN)/python scripts/release.py build dist
	@$(BIN)/python scripts/release.py check dist

.PHONY: clean
clean: ## remove .venv, stamps, caches and build results (never a data directory)
	@rm -rf $(VENV) .venv-bare .venv-oldest .venv-compat .venv-frameworks .venv-docs src/bay/server/web/site src/bay/server/web/console .stamp-* .pytest_cache .ruff_cache .hypothesis dist clients/typescript/dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: system system-tests gate-setup test-setup
system:
	@scripts/setup-system.sh

system-tests:
	@scripts/setup-system.sh tests

gate-setup: .stamp-bare .stamp-helm .stamp-compat .stamp-typescript .stamp-docs .stamp-console

test-setup: .stamp-vite .stamp-images .stamp-helm .stamp-oldest .stamp-compat .stamp-compat-node .stamp-agent .stamp-frameworks .stamp-typescript .stamp-docs .stamp-console

.stamp-server: requirements/server.txt pyproject.toml scripts/setup-python.sh scripts/setup-uv.txt | system
	@PYTHON="$(PYTHON)" scripts/setup-python.sh $(VENV) requirements/server.txt
	@touch $@

# The same again for the one test of what `make setup` alone brings.
.stamp-bare: requirements/server.txt pyproject.toml scripts/setup-python.sh scripts/setup-uv.txt | system
	@PYTHON="$(PYTHON)" scripts/setup-python.sh .venv-bare requirements/server.txt
	@touch $@

# Before the tests: they run in a network of their own, without a way to a registry.
.stamp-vite: tests/network/vite/package-lock.json | system-tests
	@cd $(<D) && npm ci --ignore-scripts --no-audit --no-fund --silent
	@touch $@

# Likewise: a Debian for sandboxes to start from, as this machine's own sources have it.
.stamp-images: scripts/make-test-image.sh | system-tests
	@scripts/make-test-image.sh tests/images/debian.tar
	@touch $@

# Likewise: the program that renders and installs the chart. 3: not on this machine, and its tests are skipped.
.stamp-helm: scripts/kubernetes/helm scripts/kubernetes/helm.txt .stamp-dev
	@scripts/kubernetes/helm >/dev/null || [ $$? -eq 3 ]
	@touch $@

# The client's libraries, each the oldest that it says it works with, and the oldest Python where this machine has it.
.stamp-oldest: requirements/oldest.txt .stamp-dev
	@python3.11 -m venv --clear .venv-oldest 2>/dev/null || $(BIN)/python -m venv --clear .venv-oldest
	@.venv-oldest/bin/python -m pip install --quiet --require-hashes -r requirements/oldest.txt </dev/null
	@touch $@

# Other people's clients, as they are published, each in an environment of its own.
.stamp-compat: requirements/compat.txt .stamp-dev
	@$(BIN)/python -m venv --clear .venv-compat
	@$(UV) pip install --quiet --python .venv-compat/bin/python --require-hashes -r requirements/compat.txt </dev/null || \
	  .venv-compat/bin/python -m pip install --quiet --require-hashes -r requirements/compat.txt </dev/null
	@touch $@

.stamp-compat-node: tests/compat/node/package-lock.json | system-tests
	@cd $(<D) && npm ci --ignore-scripts --no-audit --no-fund --silent
	@touch $@

# The program that drives a browser in sandboxes, without its scripts: the package has it for every system.
.stamp-agent: tests/agent_browser/package-lock.json | system-tests
	@cd $(<D) && npm ci --ignore-scripts --no-audit --no-fund --silent
	@touch $@

# The TypeScript SDK: the tools that it is made with, and what they make of it.
.stamp-typescript-tools: clients/typescript/package-lock.json | system-tests
	@cd $(<D) && npm ci --ignore-scripts --no-audit --no-fund --silent
	@touch $@

.stamp-typescript: .stamp-typescript-tools clients/typescript/tsconfig.json $(wildcard clients/typescript/src/*.ts)
	@cd clients/typescript && npm run --silent build
	@touch $@

# The web console: it has the SDK's source in it.
.stamp-console-tools: console/package-lock.json | system-tests
	@cd $(<D) && npm ci --ignore-scripts --no-audit --no-fund --silent
	@touch $@

.stamp-console: .stamp-console-tools scripts/build_console.py scripts/packing.py $(shell find console/src console/*.* -type f) $(wildcard clients/typescript/src/*.ts) | .stamp-server
	@$(BIN)/python -m scripts.build_console
	@touch $@

.stamp-frameworks: requirements/frameworks.txt requirements/swe-rex.txt requirements/server.txt pyproject.toml .stamp-dev
	@$(BIN)/python -m venv --clear .venv-frameworks
	@$(UV) pip install --quiet --python .venv-frameworks/bin/python --require-hashes -r requirements/frameworks.txt </dev/null || \
	  .venv-frameworks/bin/python -m pip install --quiet --require-hashes -r requirements/frameworks.txt </dev/null
	@$(UV) pip install --quiet --python .venv-frameworks/bin/python --no-deps --no-build-isolation --offline -e . </dev/null
	@$(UV) pip install --quiet --python /usr/bin/python3 --target .venv-frameworks/in-sandboxes --require-hashes -r requirements/swe-rex.txt </dev/null
	@touch $@

.stamp-docs-tools: requirements/docs.txt | .stamp-server
	@$(BIN)/python -m venv --clear .venv-docs
	@$(UV) pip install --quiet --compile-bytecode --python .venv-docs/bin/python --require-hashes -r requirements/docs.txt </dev/null || \
	  .venv-docs/bin/python -m pip install --quiet --require-hashes -r requirements/docs.txt </dev/null
	@touch $@

# Strict: a link that leads nowhere, or a page in no section, fails it.
.stamp-docs: .stamp-docs-tools mkdocs.yml scripts/build_docs.py scripts/packing.py $(wildcard *.md docs/*.md docs/design/*.md docs/images/*.webp)
	@$(BIN)/python -m scripts.build_docs .venv-docs/bin/mkdocs
	@touch $@

.stamp-dev: requirements/dev.txt pyproject.toml scripts/setup-python.sh scripts/setup-uv.txt | system-tests
	@PYTHON="$(PYTHON)" scripts/setup-python.sh $(VENV) requirements/dev.txt
	@touch $@ .stamp-server
