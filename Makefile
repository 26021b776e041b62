# `make demo` and `make test` each work alone on a fresh machine with Python >= 3.11, pip and make.
# The first of these that runs and is new enough makes the environment.
PYTHON ?= python3.11 python3.12 python3.13 python3 python
VENV   ?= .venv
JOBS   ?= 2
ARGS   ?=

BIN := $(VENV)/bin
# A stamp records what is installed: it is renewed when the packaging files change, so a second run installs nothing.
KEY := $(shell cat pyproject.toml setup.py | cksum | tr ' ' '-')
RUNTIME := $(VENV)/.runtime-$(KEY)
DEVELOP := $(VENV)/.develop-$(KEY)

.PHONY: help demo test test-slow conformance fuzz-ops lint types check bench wheel clean

help:
	@echo "make demo         compile the trained digit network, classify held-out digits, write digits.png"
	@echo "make test         the test suite (ARGS=... goes to pytest)"
	@echo "make test-slow    the tests marked slow: large networks, every kernel on every instruction set; .ci/run runs both"
	@echo "make conformance  what passes of onnx's backend tests, suite by suite, then tests/conformance"
	@echo "make fuzz-ops     random nodes of every operator: kernels, references, onnxruntime (ARGS=\"--seconds 60 --seed 1 --op Conv\")"
	@echo "make lint types   ruff and mypy --strict; make check: all that .ci/run does"
	@echo "make bench        the classic networks against onnxruntime (ARGS=... goes to the script)"
	@echo "make wheel clean"

demo: $(RUNTIME)
	@$(BIN)/python -m cnngraph_models.demo $(ARGS)

test: $(DEVELOP)
	@$(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal -m "not slow" $(ARGS)

test-slow: $(DEVELOP)
	@$(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal -m slow $(ARGS)

conformance: $(DEVELOP)
	@$(BIN)/python -W ignore -m tests.conformance.onnx_suites
	@$(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal tests/conformance $(ARGS)

fuzz-ops: $(DEVELOP)
	@$(BIN)/python -W ignore -m tests.fuzz $(ARGS)

lint: $(DEVELOP)
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check

types: $(DEVELOP)
	@$(BIN)/mypy --strict cnngraph backends models

check:
	@.ci/run

bench: $(DEVELOP)
	@$(BIN)/python benchmarks/compare.py $(ARGS)

wheel: $(DEVELOP)
	@rm -rf build packaging/runtime/build
	@$(BIN)/pip wheel -q --no-deps -w dist . ./packaging/runtime

clean:
	rm -rf $(VENV) build dist *.egg-info packaging/runtime/build packaging/runtime/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis digits.png

$(BIN)/python:
	@for python in $(PYTHON); do \
	    if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	        echo "creating $(VENV) with $$($$python --version)"; \
	        exec $$python -m venv $(VENV); \
	    fi; \
	done; \
	echo "error: Python 3.11 or newer is needed; none of these is: $(PYTHON)" >&2; exit 1

# pip's output is kept in a file and shown only when it fails.
define install
	@echo "installing cnngraph[$(1)] into $(VENV)"
	@$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[$(1)]' >$(VENV)/install.log 2>&1 || { cat $(VENV)/install.log >&2; exit 1; }
	@rm -f $(VENV)/.$(2)-*
	@touch $@
endef

$(RUNTIME): | $(BIN)/python
	$(call install,images,runtime)

$(DEVELOP): | $(BIN)/python
	$(call install,dev$(comma)images,develop)

comma := ,
