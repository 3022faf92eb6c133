# `make demo` runs the whole workflow on one machine; `make test` sets up and passes the tests.
# The same commands without make are in README.md.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(shell command -v uv 2>/dev/null)

# A process a core, up to four; tests/conftest.py says which tests stay in one process.
PARALLEL := --numprocesses logical --maxprocesses 4 --dist loadgroup

.PHONY: setup demo test test-slurm test-network lint docs protos clean

setup: $(VENV)/.installed

# uv installs in half a minute, pip in a few; both obey the same pins.
$(VENV)/.installed: pyproject.toml constraints.txt
ifdef UV
	test -x $(BIN)/python || $(UV) venv --python $(PYTHON) $(VENV)
	$(UV) pip install --python $(BIN)/python --constraint constraints.txt --editable '.[dev]'
else
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
endif
	touch $@

demo: setup
	$(BIN)/stal-cli demo --output demo-out

test: setup
	$(BIN)/python -m pytest $(PARALLEL)

# Precompute and training by their batch scripts under a real Slurm on this machine; needs root and Debian's slurm-wlm and munge.
test-slurm: setup
	BIN=$(CURDIR)/$(BIN) scripts/test_slurm.sh

# The workflow and its faults over several hosts in network namespaces on this machine; needs root and iproute2.
test-network: setup
	$(BIN)/python -m pytest tests/network -m network

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/gen_protos.py --check
	$(BIN)/python scripts/check_protos.py

# A site in build/docs; a warning, such as a broken link, fails the build.
docs: setup
	$(BIN)/mkdocs build

protos: setup
	$(BIN)/python scripts/gen_protos.py

clean:
	rm -rf $(VENV) demo-out build
