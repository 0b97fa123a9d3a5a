# Needs Python >= 3.11 with pip, git and make. pip's own settings (index, wheel folder) are respected.
PYTHON ?= python3
VENV   ?= .venv
JOBS   ?= 2
BIN    := $(VENV)/bin
# pip would compile all there is on one core.
PIP    := $(BIN)/python -m pip --disable-pip-version-check install --no-compile -c constraints.txt
# Not all that packages carry is Python of this version.
COMPILE = $(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true
DONE   := $(VENV)/.done

.PHONY: help quickstart test lint docs clean clean-venv

help:
	@echo 'make quickstart  install, run the main job on the shipped model, show table and figures'
	@echo 'make test        install, then lint, types and all tests'
	@echo 'make lint        ruff and pyright only'
	@echo 'make docs        build docs/_build/html, warnings are errors'
	@echo 'make clean       remove build products; make clean-venv removes $(VENV) too'
	@echo 'Options: PYTHON=python3.12 (interpreter), VENV=.venv (where to install), JOBS=2 (test processes)'

quickstart: $(DONE)/run
	@$(BIN)/omnisky quickstart

# pytest runs last, so that its closing line is the last one of this target.
test: lint
	@OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS)

lint: $(DONE)/dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright --pythonpath $(BIN)/python

docs: $(DONE)/dev
	@OMP_NUM_THREADS=1 $(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo 'Built docs/_build/html/index.html'

# Where the interpreter lacks ensurepip (Debian without python3-venv), its pip fills the environment.
$(DONE)/venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "omnisky needs Python >= 3.11, but '$(PYTHON)' is: $$($(PYTHON) --version 2>&1 | head -n 1)." \
	       "Name a newer one: make PYTHON=python3.12 $(or $(firstword $(MAKECMDGOALS)),quickstart)"; exit 1; }
	@echo 'Installing into $(VENV) (about 2 GB; once)'
	@if $(PYTHON) -c 'import ensurepip' 2>/dev/null; then $(PYTHON) -m venv $(VENV); else \
	  $(PYTHON) -m venv --without-pip $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install pip; fi
	@mkdir -p $(DONE) && touch $@

$(DONE)/torch: $(DONE)/venv constraints.txt
	@$(PIP) torch
	@touch $@

$(DONE)/run: $(DONE)/torch pyproject.toml
	@$(PIP) -e '.[stars,track]'
	@$(COMPILE)
	@touch $@

$(DONE)/dev: $(DONE)/torch pyproject.toml
	@$(PIP) -e '.[all]'
	@$(COMPILE)
	@touch $@ $(DONE)/run

clean:
	@rm -rf docs/_build docs/reference/generated dist build .pytest_cache .ruff_cache .hypothesis
	@find omnisky tests dev perf -name __pycache__ -type d -prune -exec rm -rf {} +

clean-venv: clean
	@rm -rf $(VENV)
