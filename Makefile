# Two commands do all the set-up: `make demo` and `make test`. Both need only Python >= 3.11 with pip.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
TASK   ?=

.PHONY: help demo test check lock bench chaos clean
.DEFAULT_GOAL := help

help:  ## say what can be made
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.runtime  ## play one conversation to a call_sid; TASK="…" plays yours
	@$(BIN)/ringonce demo $(if $(TASK),--task "$(TASK)")

test: $(VENV)/.dev  ## the tests, on a real server, real processes and real HTTP
	@$(BIN)/python -m pytest -q $(PYTEST_ARGS)

check: $(VENV)/.dev  ## ruff and mypy --strict
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

bench: $(VENV)/.bench  ## measure; the last line is one JSON object; BENCH_ARGS="--quick"
	@$(BIN)/python -m tests.benchmarks $(BENCH_ARGS)

chaos: $(VENV)/.runtime  ## break everything, count the rings; CHAOS_ARGS="--seed 7"
	@$(BIN)/ringonce chaos $(CHAOS_ARGS)

lock: pyproject.toml  ## resolve pyproject.toml into the locks (needs uv)
	@uv pip compile -q --universal --generate-hashes --no-emit-index-url --no-header \
	    --python-version 3.11 pyproject.toml -o requirements.lock
	@uv pip compile -q --universal --generate-hashes --no-emit-index-url --no-header \
	    --python-version 3.11 --extra dev pyproject.toml -c requirements.lock -o requirements-dev.lock
	@uv pip compile -q --universal --generate-hashes --no-emit-index-url --no-header \
	    --python-version 3.11 --extra bench pyproject.toml -c requirements.lock -o requirements-bench.lock

clean:  ## remove what make made
	@rm -rf $(VENV) .ringonce .pytest_cache .mypy_cache .ruff_cache .hypothesis

# uv installs in two seconds what takes pip most of a minute, so it is fetched where it is missing;
# where it cannot be had, pip does the same from the same hashes.
define install
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; sys.exit("Ringonce needs Python 3.11 or newer, this is " + sys.version.split()[0] + ": run make with PYTHON=…" if sys.version_info < (3, 11) else 0)'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@uv=$$(command -v uv || true); \
	test -n "$$uv" || { $(BIN)/python -m pip install -q --disable-pip-version-check uv >/dev/null 2>&1 && uv=$(BIN)/uv; }; \
	if test -n "$$uv"; then \
	  VIRTUAL_ENV=$(VENV) $$uv pip install -q --require-hashes -r $(1) && \
	  VIRTUAL_ENV=$(VENV) $$uv pip install -q --no-deps -e .; \
	else \
	  $(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r $(1) && \
	  $(BIN)/python -m pip install -q --disable-pip-version-check --no-deps -e .; \
	fi
endef

$(VENV)/.runtime: requirements.lock pyproject.toml
	$(call install,requirements.lock)
	@touch $@

$(VENV)/.dev: requirements-dev.lock pyproject.toml
	$(call install,requirements-dev.lock)
	@touch $@ $(VENV)/.runtime

$(VENV)/.bench: requirements-bench.lock pyproject.toml
	$(call install,requirements-bench.lock)
	@touch $@ $(VENV)/.runtime
