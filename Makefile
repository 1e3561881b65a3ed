# Every target is a call of a tool that you could type yourself; `make help` lists them.
#   PROFILE=smoke|quick|standard|full   SLUG=rebnn   EXECUTOR=local|slurm   PYTHON=python3.12
#   FLAGS: more for the tool, e.g. FLAGS=--yes-without-gpu, FLAGS=--force, FLAGS="-k kernels"
PYTHON ?= python3
PROFILE ?= quick
EXECUTOR ?= local
SET ?= cifar10
FLAGS ?=

export COMPACTNETS_HOME := $(CURDIR)
export UV_PYTHON_DOWNLOADS := never
BIN := .venv/bin
BOOK := $(BIN)/python -m compactnets.book
# uv from the PATH, else one in a small environment of its own.
UV := $(or $(shell command -v uv 2>/dev/null),.venv/.uv/bin/uv)

LOCK := $(UV) pip compile pyproject.toml --universal --python-version 3.11 --no-header \
	--no-annotate --quiet

.DEFAULT_GOAL := help
.PHONY: help setup book paper test bench sanitize lint lab data lock clean

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## /make \1\t/p' $(MAKEFILE_LIST)

book: .venv/.package  ## run the notebooks that are due, build _build/html
	@$(BOOK) build --profile $(PROFILE) --executor $(EXECUTOR) $(FLAGS)

paper: .venv/.package  ## the same for one notebook: SLUG=rebnn PROFILE=standard
	@test -n "$(SLUG)" || { echo "say which paper: make paper SLUG=rebnn PROFILE=standard"; exit 2; }
	@$(BOOK) build $(SLUG) --profile $(PROFILE) --executor $(EXECUTOR) $(FLAGS)

test: .venv/.package  ## unit tests, kernels, pipeline, every notebook at profile smoke
	@$(BOOK) smoke
	@$(BIN)/python -m pytest tests _build/smoke --nbval-lax --nbval-current-env \
		--nbval-cell-timeout=300 $(FLAGS)

bench: .venv/.bench  ## kernels and training against their peers, which it installs
	$(BIN)/python -m kernels.bench $(FLAGS)
	@set -e; for script in $(wildcard bench/*.py); do \
		echo "$(BIN)/python $$script"; $(BIN)/python $$script; done

# In an environment of its own: an editable install would bring the module without sanitizers.
SANITIZED := _build/sanitize/venv/bin/python
sanitize: .venv/.package  ## tests of the kernels under the address and undefined-behaviour sanitizers
	$(UV) venv --quiet --allow-existing --python "$$(readlink -f $(BIN)/python)" _build/sanitize/venv
	$(UV) pip install --quiet --python $(SANITIZED) scikit-build-core nanobind ninja cmake
	$(UV) pip install --quiet --python $(SANITIZED) --no-build-isolation --no-deps --reinstall \
		--config-settings build-dir=_build/sanitize/native \
		--config-settings cmake.define.COMPACTNETS_SANITIZE=ON .
	PYTHONPATH="$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
		LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libubsan.so)" \
		ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1 \
		$(SANITIZED) -m pytest -s $(wildcard tests/test_kernels_*.py) $(FLAGS)

lint: .venv/.package  ## format, lint and types
	$(BIN)/ruff format --check lib tests
	$(BIN)/ruff check lib tests
	$(BIN)/pyright

lab: .venv/.package  ## JupyterLab; a double click on a notebook's .md opens it as a notebook
	$(BIN)/jupyter lab --ServerApp.root_dir=$(CURDIR) $(FLAGS)

data: .venv/.package  ## download a data set: SET=cifar10
	$(BIN)/compactnets data fetch $(SET)

lock: | $(UV)  ## new versions for the two lock files, within pyproject.toml
	$(LOCK) --upgrade --extra book --extra test --extra build --output-file requirements.lock
	$(LOCK) --upgrade --extra bench --constraint requirements.lock \
		--output-file requirements-bench.lock
	sed -i.old -E "/(== 'win32'|== 'nt'|== 'emscripten')$$/d" requirements.lock requirements-bench.lock
	rm requirements.lock.old requirements-bench.lock.old

clean:  ## remove everything that can be made again, but for .venv and the caches in your home
	rm -rf _build

setup: .venv/.package  ## only .venv, the package and its kernels

.venv/.requirements: requirements.lock | $(UV)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or newer is needed, $(PYTHON) is older or missing:" \
		"make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(UV) venv --quiet --allow-existing --python "$$(command -v $(PYTHON))" .venv
	$(UV) pip sync --python $(BIN)/python requirements.lock
	@touch $@

.venv/.package: .venv/.requirements pyproject.toml $(shell find kernels -name '*.cpp' -o -name '*.h' -o -name '*.hpp' -o -name CMakeLists.txt)
	$(UV) pip install --python $(BIN)/python --no-build-isolation --no-deps --reinstall-package compactnets --editable .
	@$(BIN)/python -c 'import importlib.util as u; print("compiled kernels: built" \
		if u.find_spec("compactnets._native") else "compiled kernels: none, for want of a C++20 \
		compiler (Debian: apt install g++); the references in PyTorch run instead")'
	@mkdir -p .venv/share/jupyter/lab/settings
	@cp workflow/lab/overrides.json .venv/share/jupyter/lab/settings/overrides.json
	@touch $@

.venv/.bench: .venv/.package requirements-bench.lock
	$(UV) pip install --quiet --python $(BIN)/python -r requirements-bench.lock
	@touch $@

.venv/.uv/bin/uv:
	@$(PYTHON) -m venv .venv/.uv || { \
		echo "cannot make an environment: install uv, or venv (Debian: apt install python3-venv)"; \
		exit 1; }
	.venv/.uv/bin/python -m pip install --quiet --disable-pip-version-check uv
