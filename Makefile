# Everything a newcomer or CI runs. `make help` lists it.

PYTHON ?= python3
# Build of torch: cpu (default) or cuda (from PyPI, several GB).
TORCH ?= cpu
# Options of `make bench-coarse`.
SEED ?= 1
DRAWS ?= 200
# Number of pytest processes, of one thread each.
TEST_JOBS ?= 2
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-$(TORCH)
BENCH_STAMP := $(VENV)/.installed-bench
# A CPU build of torch comes from a local wheel folder where one is set, else from PyTorch's own CPU index.
TORCH_SOURCE_cpu = $(if $(PIP_FIND_LINKS),--find-links "$(PIP_FIND_LINKS)",--torch-backend cpu)
TORCH_SOURCE_cuda =
SUDO = $(if $(filter 0,$(shell id -u)),,sudo)

.DEFAULT_GOAL := help
.PHONY: help env demo test test-browser test-faults test-slurm test-compose bench-coarse bench-accuracy bench-sequence \
	bench-scale bench-gpu bench-e2e bench-multi-gpu bench-cpu lint words docs pictures format clean

help:  ## Show this list
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

env: $(STAMP)  ## Make .venv with everything in it (TORCH=cuda for NVIDIA GPUs)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ssem_dask needs Python 3.11 or newer; set PYTHON=…")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python $(TORCH_SOURCE_$(TORCH)) --compile-bytecode --editable '.[all,dev]'
	@touch $@

demo: env  ## Align a made-up volume with known truth; prints the error before and after, and a picture
	$(BIN)/ssem-dask demo --dir demo

test: env  ## Run all tests but those of browser, faults and clusters, with coverage
	@rm -f .coverage .coverage.*
	$(PYTEST) -n $(TEST_JOBS) --dist worksteal --cov --cov-report term:skip-covered

test-browser: env  ## Open report and viewer in Chromium; installs Debian's package where there is none
	@command -v chromium > /dev/null || { $(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq chromium; }
	$(PYTEST) -n $(TEST_JOBS) --dist loadfile tests/browser

test-faults: env  ## Kill processes, tear files, fill disks, fail S3 requests; prints what was redone and what differs
	$(PYTEST) -n $(TEST_JOBS) --dist loadfile tests/faults

test-slurm: env  ## Run the tests of batch jobs on a real SLURM of this machine (as root on Debian: installs it)
	tests/service/slurm/run.sh

test-compose: env  ## Run the tests of docker-compose.yml on a real engine (as root on Debian: installs one if there is none)
	tests/service/compose/run.sh

bench-coarse: env  ## Measure how often real sections are found again after random turns and shifts (SEED=…, DRAWS=…)
	$(BIN)/python -m benchmarks.coarse --seed $(SEED) --draws $(DRAWS) --json coarse.json

bench-gpu: env  ## Rates of pair solver, features and window on one GPU, beside plain PyTorch (BENCH="--side 4096")
	$(BIN)/python -m benchmarks.gpu $(BENCH)

bench-e2e: env  ## A whole run beside a plain copy with pyramid, on one GPU (BENCH="--sections 104 --side 4096")
	$(BIN)/python -m benchmarks.e2e --dir bench/e2e --gpus 1 --json bench/e2e.json $(BENCH)

bench-multi-gpu: env  ## The same on 1 and on all GPUs of this machine (GPUS="1 2 4")
	$(BIN)/python -m benchmarks.e2e --dir bench/e2e --gpus $(GPUS) --json bench/multi-gpu.json $(BENCH)

bench-cpu: env  ## The same on the cores of this machine: 20 sections of 1024² at 5 nm
	$(BIN)/python -m benchmarks.e2e --dir bench/cpu --gpus 0 --sections 20 --side 1024 --pixel-size 5 \
	  --json bench/cpu.json $(BENCH)

lint: env  ## Check style, types and layers, as CI does
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

words: env  ## Report wording of docs/words.txt, long lines of documents and misspelt words (PATHS="docs ssem_dask/cli")
	-$(BIN)/python tools/check_words.py $(PATHS)
	-$(BIN)/codespell $(PATHS)

bench-sequence: env  ## Jitter, drift and label overlap against the number of sections (BENCH="--sections 20 200 --modes default")
	$(BIN)/python -m benchmarks.sequence $(BENCH)

# Options: METHODS="default sift-dis" SEEDS=3 JOBS=1 TABLES="comparison ablation claims" BENCH=--docs; see docs/accuracy.md.
SEEDS ?= 3
GPUS ?= 1 2
JOBS ?= 1
TABLES ?= comparison
METHODS ?=
BENCH ?=
bench-scale: env  ## A petabyte through plan, ledger and driver on simulated workers (BENCH="--sections 25000" for all of it)
	$(BIN)/python -m benchmarks.scale $(BENCH)

bench-accuracy: env $(BENCH_STAMP)  ## Our modes beside other aligners on real sections; needs SSEM_DATA_DIR, hours the first time
	$(BIN)/python -m benchmarks.accuracy --work bench --seeds $(SEEDS) --jobs $(JOBS) --tables $(TABLES) \
	  $(if $(METHODS),--methods $(METHODS)) $(BENCH)

# A peer that cannot be installed does not stop the others: the table says "not installed".
$(BENCH_STAMP): $(STAMP)
	@for peer in stackreg opencv elastix feabas; do \
	  $(BIN)/uv pip install --quiet --python $(BIN)/python $(TORCH_SOURCE_$(TORCH)) --editable ".[bench-$$peer]" \
	    || echo "bench-$$peer could not be installed; its rows will say so"; \
	done
	@touch $@

docs: env  ## Make docs/configuration.md and the figure of layers in docs/architecture.md
	$(BIN)/python -m ssem_dask.cli.configuration_page > docs/configuration.md
	$(BIN)/python tools/layer_figure.py

pictures: env  ## Make the pictures of the README (needs chromium)
	$(BIN)/python docs/images/make.py

format: env  ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## Remove the environment and everything that is made
	rm -rf $(VENV) demo bench .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage*
