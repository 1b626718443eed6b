# A door, no more: every verb is one command that also works by hand in an activated .venv.
PYTHON ?= python3.11
# chat, ui, flow and serve look here: make chat WORKSPACE=.smoke
WORKSPACE ?= .
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PYTHONUNBUFFERED := 1
# DVC and our steps keep to this machine.
export DO_NOT_TRACK := 1

.DEFAULT_GOAL := help
.PHONY: help setup run smoke test chat ui flow server deploy serve params clean

help:  ## this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: .venv/ready  ## create .venv from the pinned lock
.venv/ready: requirements.lock
	@command -v $(PYTHON) >/dev/null || { echo "Inkwell needs Python 3.11 ($(PYTHON) was not found): install it, or make PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --requirement requirements.lock
	@echo "byte-compiling once: imports are three times faster with it"
	@env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m compileall -q -j0 .venv/lib >/dev/null || true
	@touch $@

.venv/ready-dev: .venv/ready requirements-dev.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --requirement requirements-dev.lock
	@touch $@

run: setup  ## corpus to chatting model: dvc repro with progress and a summary (params.yaml)
	python -m flows.run

smoke: setup  ## the same pipeline, every stage, minutes, in .smoke/
	python -m flows.workspace .smoke size=smoke
	python -m flows.run --workspace .smoke

test: .venv/ready-dev  ## lint, types and tests
	ruff check .
	ruff format --check .
	mypy components flows benchmarks
	python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

chat: setup  ## talk to the trained model in the terminal
	cd $(WORKSPACE) && python -m components.generate --interactive

ui: setup  ## MLflow on http://127.0.0.1:5000, beside the report card
	python -m flows.review --workspace $(WORKSPACE)

flow: setup  ## the pipeline as a Prefect flow, a task a stage
	python -m flows.pipeline --workspace $(WORKSPACE)

server: setup  ## Prefect's server on http://127.0.0.1:4200, behind its guard
	python -m flows.server

deploy: setup  ## deployments, schedules, limits and automations to the Prefect server of PREFECT_API_URL
	python -m flows.deploy --workspace $(WORKSPACE)

serve: setup  ## the exported model in llama.cpp's server, on loopback
	cd $(WORKSPACE) && python -m components.serve

params: setup  ## compose params.yaml: make params WITH="corpus=mine size=auto"
	python -m flows.parameters $(WITH)

clean:  ## remove the smoke workspace and checkpoints; models and data stay
	rm -rf .smoke .inkwell/work
