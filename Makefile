# Set-up and the main jobs; `make` lists them. Programs are in scripts/, the workflow in Snakefile.

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
export PYTHONUNBUFFERED := 1
export HF_HUB_DISABLE_TELEMETRY := 1
unexport PYTHONDONTWRITEBYTECODE

CONFIG ?= config.yaml

.PHONY: help install demo controls schemes calibration test lint plan status envs test-cluster bench

help:  ## list what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

install: $(VENV)/.installed  ## install the pinned packages into .venv, and let `snakemake --profile slurm` find its profile

$(VENV)/.installed: envs/train.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and "Python 3.11 is needed; name it with make PYTHON=…")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile -r envs/train.txt
	@# each job is a process of its own: compiled once, its imports take a third of the time
	$(BIN)/python -c 'import bitsandbytes, pandas, peft, snakemake.cli, transformers.trainer'
	ln -sfn profiles/slurm slurm
	@touch $@

demo: install  ## run the main job on a small model trained here, then print its table and where the report is
	$(BIN)/snakemake --profile profiles/demo --report-after-run --report results/demo/report.html
	$(BIN)/python -m scripts.summary --tables results/demo --report results/demo/report.html

controls: install  ## which ingredient makes unlearning survive quantization: the control grid (under an hour on 2 cores; start again to go on)
	$(BIN)/snakemake --profile profiles/demo --configfile profiles/demo/sweep.yaml profiles/presets/controls.yaml --report-after-run --report results/controls/report.html
	$(BIN)/python -m scripts.summary --tables results/controls --report results/controls/report.html
	mkdir -p docs/measurements
	cp results/controls/recovery.csv docs/measurements/controls.csv
	cp results/controls/figures/ingredients.svg docs/measurements/controls.svg

schemes: install envs  ## every scheme that runs on a CPU, on the demo's model, in one table
	$(BIN)/snakemake --profile profiles/demo --configfile profiles/demo/sweep.yaml profiles/presets/schemes.yaml
	$(BIN)/python -m scripts.schemes --tables results/schemes

calibration: install envs  ## does calibrating GPTQ and AWQ on the forget set bring more back: three sets, three seeds
	$(BIN)/snakemake --profile profiles/demo --configfile profiles/demo/sweep.yaml profiles/presets/calibration.yaml
	$(BIN)/python -m scripts.schemes --tables results/calibration

test: install  ## run the unit and workflow tests
	$(BIN)/pytest tests/unit -n 2 --dist loadfile
	$(BIN)/pytest tests/workflow

lint: install  ## check style: ruff, snakefmt, snakemake --lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint

plan: install  ## what the sweep of CONFIG (one file, or several laid over one another) will cost: cells, trainings, disk, hours
	$(BIN)/python -m scripts.plan --config $(CONFIG)

status: install  ## how far the sweep of CONFIG is, per axis, and the disk it takes
	$(BIN)/python -m scripts.status --config $(CONFIG)

envs: install  ## build the environments of the schemes that need their own (GPTQ, …), each from its pins
	$(BIN)/python -m scripts.environments --make all

test-cluster: install  ## run the tests on a real Slurm, started on this machine (Debian packages: tests/cluster/packages.txt)
	$(BIN)/pytest tests/cluster -v -rs --durations=0

bench: install  ## how much faster and smaller than the published code's way, side by side (some minutes on 2 cores)
	$(BIN)/python -m benchmarks
