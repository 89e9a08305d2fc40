# `make demo` and `make test` do their own set-up: git, make and python3 (>= 3.11, with venv) are all they need.
PYTHON ?= python3
VENV ?= .venv$(if $(filter-out python3,$(PYTHON)),-$(notdir $(PYTHON)))
RUN := $(VENV)/bin/python
# Set-up is done again when what is to be installed has changed.
READY := $(VENV)/.ready

.PHONY: demo test test-all lint clean
demo: $(READY)
	$(RUN) -m experiments.demo $(ARGS)

test: $(READY)
	$(RUN) -m pytest --numprocesses=auto --maxprocesses=8 --dist=worksteal $(ARGS)

# The slow ones too: every rival is trained.
test-all: $(READY)
	$(RUN) -m pytest -m "slow or not slow" --numprocesses=auto --maxprocesses=8 --dist=worksteal $(ARGS)

lint: $(READY)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

$(READY): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv .venv-* runs build *.egg-info
