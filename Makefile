# Everything runs in .venv, which the first command makes. DVC starts its stages with the python that is on the PATH.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: install repro table readme experiments compare check format test test-fast test-faults fuzz reliability audit lock clean

TABLE := python -m vitprune table --metrics metrics/evaluate.json --timing metrics/timing.json

repro: $(INSTALLED)  ## run the pipeline and print the table
	dvc repro
	@$(TABLE)

install: $(INSTALLED)  ## make .venv with the locked versions

$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is older than Python 3.11; run make PYTHON=python3.12 (or newer)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

table: $(INSTALLED)  ## print the table of the last run
	@$(TABLE)

readme: $(INSTALLED)  ## put the table of the last run into the README
	$(TABLE) --fill README.md

experiments: $(INSTALLED)  ## prune to three other speeds, as experiments of DVC
	dvc exp run --queue -S prune.target_speedup=1.5,2,3
	dvc exp run --run-all

compare: $(INSTALLED)  ## print and draw all experiments there are: plots/pareto.png, reports/experiments.html
	dvc exp show --csv --no-pager > experiments.csv
	python -m vitprune pareto experiments.csv
	python -m vitprune report --experiments experiments.csv --out reports/experiments.html

check: $(INSTALLED)  ## lint, formatting and types
	ruff check .
	ruff format --check .
	mypy

format: $(INSTALLED)  ## put the code into shape
	ruff check --fix .
	ruff format .

# Files of tests go to two processes of one thread each; what needs the clock runs afterwards, alone.
PYTEST := OMP_NUM_THREADS=1 python -m pytest
BESIDE := --numprocesses 2 --dist loadfile --no-loadscope-reorder

test: $(INSTALLED)  ## all tests, real DVC pipelines included
	$(PYTEST) $(BESIDE) -m "not alone"
	$(PYTEST) -m alone

test-fast: $(INSTALLED)  ## the tests that need neither a pipeline nor the clock
	$(PYTEST) $(BESIDE) -m "not alone and not slow"

test-faults: $(INSTALLED)  ## the tests that inject faults (docs/reliability.md lists them)
	$(PYTEST) $(BESIDE) -m "fault and not alone"

fuzz: $(INSTALLED)  ## 10,000 random changes of files, read by every reader
	python -m tests.fuzz --mutations 10000

reliability: $(INSTALLED)  ## write the table of faults into docs/reliability.md
	python -m tests.faults.table

audit: $(INSTALLED)  ## look for known vulnerabilities of the locked packages (needs a network)
	$(PYTHON) -m venv $(VENV)/audit
	$(VENV)/audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit
	$(VENV)/audit/bin/pip-audit --requirement requirements.lock --no-deps --disable-pip

lock: $(INSTALLED)  ## write the installed versions into requirements.lock
	python -m pip freeze --exclude-editable --local \
		| sed -E 's/\+(cu[0-9]+|cpu)$$//; /^(nvidia-|cuda-|triton)/ s/$$/ ; sys_platform == "linux"/' > requirements.lock

clean:  ## remove what these commands made: the environment, caches, data and models
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info data models .dvc/cache .dvc/tmp
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
