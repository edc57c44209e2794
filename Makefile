# make demo    sets everything up in .venv, then runs the main job      (make demo MINUTES=60 for longer)
# make test    sets everything up, then runs all checks and tests
MINUTES ?= 15
PYTHON ?= python3
PIP = .venv/bin/python -m pip --disable-pip-version-check --quiet install
export OWNSHIP_STARTED := $(shell date +%s)

.PHONY: demo test setup check bench-decode clean
.DELETE_ON_ERROR:

demo: .venv/ready
	@.venv/bin/ownship demo --minutes $(MINUTES)

test: .venv/ready-dev check
	@.venv/bin/python -m pytest

check: .venv/ready-dev
	@.venv/bin/ruff check
	@.venv/bin/lint-imports --no-cache
	@.venv/bin/mypy

setup: .venv/ready

.venv/made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; make PYTHON=python3.12 chooses another")'
	@$(PYTHON) -m venv .venv
	@touch $@

.venv/ready: .venv/made pyproject.toml constraints.txt
	@echo "setting up .venv ..."
	@$(PIP) -c constraints.txt -e .
	@touch $@

.venv/ready-dev: .venv/ready
	@echo "setting up the tools for tests ..."
	@$(PIP) -c constraints.txt -e '.[dev]'
	@touch $@

bench-decode: .venv/ready-dev
	@.venv/bin/python bench/decode.py

clean:
	rm -rf .venv
