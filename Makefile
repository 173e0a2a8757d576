# Two commands do everything on a fresh machine: `make demo` and `make test`.
.DEFAULT_GOAL := help
SHELL := /bin/bash
BIN := .venv/bin

.PHONY: help setup demo test check format lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' Makefile

setup: ## make .venv: locked dependencies, airflow, airflow-batch-ros, ros-to-parquet
	@./scripts/setup

lock: ## resolve requirements.lock anew
	@./scripts/lock

clean: ## remove what setup, demo and tests made
	rm -rf .venv .demo .local .mypy_cache .ruff_cache .pytest_cache .hypothesis
