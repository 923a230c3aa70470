# One command each; each installs what it needs first, once.
#
#   make run                      everything on this machine, with the demo's images
#   make run IMAGES=folder        with your images; subfolders, if there are some, become the classes
#   make run LABEL_STUDIO_URL=... LABEL_STUDIO_API_KEY=...      beside a Label Studio that is there already
#   make test    make test-fast   all tests; those that start no servers
#   make lint    make bench    make clean
#
# Settings can be given to each: make run TANDEM_WEB_PORT=9091 MLFLOW_PORT=5001 TANDEM_STATE=folder.
# On Linux without a GPU, PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu saves 3 GB of CUDA libraries.

VENV := .venv
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	"$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo "$$python" && break; done)

.PHONY: run test test-fast lint bench install install-all clean python

run: install-all
	@$(VENV)/bin/tandem up $(if $(IMAGES),--images "$(IMAGES)") $(if $(MLFLOW_PORT),--mlflow-port $(MLFLOW_PORT))

test: install-all
	$(VENV)/bin/pytest -q $(ARGS)

test-fast: install
	$(VENV)/bin/pytest -q -m "not servers" $(ARGS)

lint: install
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

bench: install-all
	$(VENV)/bin/python -m benchmarks $(ARGS)

install: python
	@$(PYTHON) -m backend.up.install tandem

# A Label Studio that is there already needs none of our own.
install-all: python
	@$(PYTHON) -m backend.up.install tandem $(if $(LABEL_STUDIO_API_KEY),,label-studio)

python:
	@test -n "$(PYTHON)" || { echo "Tandem needs Python 3.11, 3.12 or 3.13: install one, or name it: make PYTHON=/path/to/python3.11"; exit 1; }

# What can be made again. What you labelled, in the state folder, stays.
clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache *.egg-info build dist
	rm -rf $${TANDEM_STATE:-.tandem}/cache $${TANDEM_STATE:-.tandem}/label-studio-venv
	find backend model tests -name __pycache__ -type d -prune -exec rm -rf {} +
