# Two commands do everything on a fresh machine: `make demo` and `make test`.
.DEFAULT_GOAL := help
SHELL := /bin/bash
BIN := .venv/bin

.PHONY: help setup demo airflow test test-airflow test-container test-optional test-oracles test-long fuzz benchmarks docs check format lock audit clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-15s %s\n", $$1, $$2}' Makefile

setup: ## make .venv: locked dependencies, airflow, airflow-batch-ros, ros-to-parquet
	@./scripts/setup

demo: setup ## run the main job on this machine; BAGS=folder takes your drives, ALL=1 shows all tables
	@$(BIN)/python -m demo $(if $(BAGS),--bags "$(BAGS)") $(if $(ALL),--all)

airflow: setup ## Airflow with its web pages over the embedded AWS, until Ctrl-C; ARGS=--containers and others
	@exec $(BIN)/airflow-batch-ros local airflow $(ARGS)

test: setup check ## format, lint, types, import rules and all tests
	$(BIN)/pytest -n 2 --dist loadfile $(PYTEST_ARGS)

test-airflow: setup ## the provider's tests on Airflow 2.11 and 3.0 too
	@./scripts/test-airflows -q

test-optional: setup ## the tests that need OpenLineage's and Slack's providers, polars or pandas
	@./scripts/test-optional -q

test-oracles: setup ## hold the engine against other people's readers; ROS's own if apt-get can install it
	@./scripts/test-oracles $(PYTEST_ARGS)

test-long: setup ## whole sweeps (every byte of every format) and large counts: minutes to an hour
	$(BIN)/pytest -m long $(PYTEST_ARGS)

fuzz: setup ## fuzz the bag readers and the definition compiler; TARGET=mcap FOR=600 (seconds each)
	@./scripts/fuzz $(or $(TARGET),all) $(or $(FOR),60)

test-container: ## build and check the image, then docker-compose.yaml; needs a Docker engine
	@./scripts/test-container

benchmarks: setup ## speed, CPU and memory beside peers; ARGS=--quick for a first look
	@$(BIN)/python -m benchmarks $(ARGS)

docs: setup ## the site of docs/, in .local/site; ARGS=serve shows it and follows changes
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs $(or $(ARGS),build)

check: setup ## format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: setup ## reformat and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: ## resolve requirements.lock anew
	@./scripts/lock

audit: ## known vulnerabilities of what the locks name; exit code 69 where the service cannot be reached
	@./scripts/audit $(ARGS)

clean: ## remove what setup, demo and tests made
	rm -rf .venv .demo .local .mypy_cache .ruff_cache .pytest_cache .hypothesis
