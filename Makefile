# make run      the product on an embedded store and a demo provider, at http://127.0.0.1:8000
# make quick    style, types, contracts, and the tests of the fast lane: about a minute
# make test     every check and every test: about 10 minutes on 2 cores
# make bench    cost of a delivered token, beside a lower bound and other servers: about 15 minutes
# make chaos    random failures on whole deployments: SEED=1 SCHEDULES=60, further OPTIONS="--help"
# make newest, make oldest   the fast lane on the newest and the lowest versions of the dependencies
# make check    format, lint, types, import contracts, generated files, web sources
# make style, types, contracts, web, coverage   one of the checks; coverage: core modules by their own tests
# make generated   write the files that are derived from the code: protocol schema and reference, settings
# make dist     wheel, source distribution and npm package in dist/
# make tools    what further tests of deploy/ need: helm, schemas, a linter
# make lock     renew the lock files with packages that are at least a week old

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

SEED ?= 1
SCHEDULES ?= 60

# Two checks run at once: no check has a time limit.
CHECKS := style types contracts web
AT_ONCE := $(MAKE) --no-print-directory --jobs=2

.PHONY: run quick test newest oldest dist bench chaos check $(CHECKS) coverage generated format tools lock clean

# Separate from .venv/dev: running needs neither the tools nor an editable install.
run: $(VENV)/run
	$(BIN)/python -m gateway run $(if $(TOKENWIRE_STORE),,--store embedded://)

quick: $(VENV)/dev
	$(AT_ONCE) style types contracts
	$(BIN)/python -m tests.quick

newest oldest: $(VENV)/dev $(VENV)/build
	$(BIN)/python -m tests.bounds $@

test:
	$(AT_ONCE) $(CHECKS) coverage
	$(BIN)/python -m tests

bench: $(VENV)/run
	$(BIN)/python -m tests.bench

chaos: $(VENV)/dev
	$(BIN)/python -m tests.chaos --seed $(SEED) --schedules $(SCHEDULES) $(OPTIONS)

check:
	$(AT_ONCE) $(CHECKS)

style: $(VENV)/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/dev
	$(BIN)/mypy
	$(BIN)/mypy deploy/backends/fastapi_backend.py

contracts: $(VENV)/dev
	$(BIN)/lint-imports
	$(BIN)/python -m tests.generated --check

generated: $(VENV)/dev
	$(BIN)/python -m tests.generated

# Needs only Python itself, so its npm packages install while the Python packages do.
web: $(BIN)/python
	$(BIN)/python -m tests.web check

coverage: $(VENV)/dev
	$(BIN)/python -m tests.core_coverage

format: $(VENV)/dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("Tokenwire needs Python 3.11 or newer; set PYTHON=" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

# The locks name every package with its hash, so nothing is left to resolve.
$(VENV)/dev: requirements-dev.lock pyproject.toml $(BIN)/python
	$(BIN)/python tests/install.py requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $(VENV)/dev $(VENV)/run

$(VENV)/run: requirements.lock $(BIN)/python
	$(BIN)/python tests/install.py requirements.lock
	@touch $(VENV)/run

$(VENV)/build: requirements-build.lock $(BIN)/python
	$(BIN)/python tests/install.py requirements-build.lock
	@touch $(VENV)/build

dist: $(VENV)/dev $(VENV)/build
	$(BIN)/python -m tests.web set-up
	npm run --silent build --prefix web
	rm -rf dist && $(BIN)/python -m uv build --quiet --no-build-isolation --out-dir dist
	npm pack --silent --pack-destination dist ./web
	$(BIN)/python -m zipfile --list dist/*.whl

tools: $(VENV)/dev
	$(BIN)/python tests/install.py requirements-deploy.lock

lock:
	uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --exclude-newer "1 week" \
		--custom-compile-command "make lock" pyproject.toml --output-file requirements.lock
	uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --exclude-newer "1 week" \
		--custom-compile-command "make lock" --group dev pyproject.toml --output-file requirements-dev.lock
	uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --exclude-newer "1 week" \
		--custom-compile-command "make lock" --group build --output-file requirements-build.lock
	uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --exclude-newer "1 week" \
		--custom-compile-command "make lock" --group deploy --no-deps --output-file requirements-deploy.lock

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage*
