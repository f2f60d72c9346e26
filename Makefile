# make run     the product, at http://127.0.0.1:8000, on an embedded store and the built-in demo provider
# make test    every check and every test
# make bench   what a delivered token costs, beside a floor and beside others (about 15 minutes)
# make chaos   random failures on whole deployments; SEED=1 SCHEDULES=60, and what else OPTIONS="--help" names
# make check   format, lint, types, import contracts; sizes and age of the built files, where there is node
# make style, types, contracts, web, coverage   one of the checks; the last: core modules by their own tests alone
# make tools   what further tests of deploy/ need, in .venv: helm, schemas, a linter
# make lock    renew the lock files; nothing younger than a week is taken

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

SEED ?= 1
SCHEDULES ?= 60

# Two of them at once: none has a bound on its time.
CHECKS := style types contracts web
AT_ONCE := $(MAKE) --no-print-directory --jobs=2

.PHONY: run test bench chaos check $(CHECKS) coverage generated format tools lock clean

run: $(VENV)/run
	$(BIN)/python -m gateway run

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

contracts: $(VENV)/dev
	$(BIN)/lint-imports
	$(BIN)/python -m tests.generated --check

generated: $(VENV)/dev
	$(BIN)/python -m tests.generated

# Its packages come while Python's are installed, of which it needs none.
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

# --no-deps: the lock names every package with its hash, so nothing is left to resolve.
$(VENV)/dev: requirements-dev.lock pyproject.toml $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $(VENV)/dev $(VENV)/run

$(VENV)/run: requirements.lock $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	@touch $(VENV)/run

tools: $(VENV)/dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements-deploy.lock

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
