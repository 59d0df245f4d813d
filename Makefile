# make reproduce and make test set everything up themselves; a second call only works.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help venv quick test reproduce lab notebooks readme bench trust browser site
help:            ## this list
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/\1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 12

venv: $(STAMP)   ## create .venv and install smpr with everything the project needs

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "smpr needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.12 ...")'
	@if command -v uv >/dev/null 2>&1; then uv venv --seed --python "$$(command -v $(PYTHON))" $(VENV); \
	 else $(PYTHON) -m venv $(VENV) || { echo "No virtual environment could be made: install your system's python3-venv, or uv; then remove $(VENV) and try again."; exit 1; }; fi

$(STAMP): pyproject.toml | $(BIN)/python
	@if command -v uv >/dev/null 2>&1; then uv pip install --python $(BIN)/python -e '.[test]'; \
	 else $(BIN)/python -m pip install --disable-pip-version-check -e '.[test]'; fi
	@touch $@

quick: $(STAMP)  ## export, lint, types, structure and unit tests (under 3 minutes)
	@bash .ci/test.sh quick

test: $(STAMP)   ## every check: quick's, notebooks, slow tests, ablation smoke (11 minutes on two quiet cores)
	@bash .ci/test.sh

reproduce: $(STAMP)  ## Table I in the small world, from random weights, one seed (nine minutes with the installation on two quiet cores)
	@$(BIN)/smpr reproduce table1 --scale mini
	@$(BIN)/python benchmarks/keep_reference.py

lab: $(STAMP)    ## JupyterLab with the notebooks, widgets working
	@$(BIN)/jupyter lab --notebook-dir=nbs

notebooks: $(STAMP)  ## run every notebook in place, pictures kept, then clean and export
	@bash .ci/notebooks.sh

readme: $(STAMP) ## README.md from nbs/index.ipynb
	@$(BIN)/python .ci/readme.py

bench: $(STAMP)  ## how fast smpr is here, against plain versions, torchvision and the machine's limit (half an hour on two slow cores, undisturbed)
	@$(BIN)/python benchmarks/bench.py

trust: $(STAMP)  ## kill it, feed it garbage, load hostile files: figures/results/trust.json (at most 40 minutes; goes on where it stopped)
	@cd tests && OMP_NUM_THREADS=1 ../$(BIN)/python -m trust

browser: $(STAMP) ## the widgets in a real JupyterLab, driven in Chromium (as root, apt-get installs it; minutes)
	@if ! command -v chromium >/dev/null 2>&1 && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then apt-get update -qq && apt-get install -y -qq chromium; fi
	@$(BIN)/python -m pytest tests/browser

site: $(STAMP)   ## the chapters, results and API as a web site in _site/, links checked (no quarto needed)
	@$(BIN)/python .ci/site/build.py
