# Everything is done through make. `make` alone lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON := .venv/bin/python
PYTEST := $(PYTHON) -m pytest -q
# Test levels, in the order they run: what fails fast comes first.
LEVELS := config unit contract integration e2e

.PHONY: help setup convert-env run test check fmt bench load perf-analyzer kube-schemas docs proto lock clean eval \
	$(addprefix test-,$(LEVELS))

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Make .venv with everything for development
	@scripts/bootstrap dev

convert-env: ## Make .venv/convert, which turns language models' checkpoints into what the engine takes
	@scripts/bootstrap convert

run: export TIDEGATE_WATCH := $(or $(WATCH),$(TIDEGATE_WATCH),0)
run: ## Start the whole service; sets itself up from nothing; WATCH=1 starts Prometheus beside it
	@scripts/bootstrap serve
	@if [ -n "$$TIDEGATE_CHECKPOINT$$TIDEGATE_TIERS_FILE" ] && $(PYTHON) -m gateway.supervise.conversion; then \
		scripts/bootstrap convert; fi
	@exec $(PYTHON) -m gateway up

test: setup convert-env ## Run every test level in order; skips are listed with their reasons
	@status=0; times=; for level in $(LEVELS); do \
		echo "== $$level"; from=$$SECONDS; \
		$(PYTEST) "tests/$$level" || { echo "== $$level FAILED (exit $$?; 5 means that no test was found)"; status=1; }; \
		times="$$times $$level $$((SECONDS - from)) s;"; \
	done; echo "==$$times all $$SECONDS s"; exit $$status

test-config: setup ## Configuration files against the code and the real binaries
	$(PYTEST) tests/config

test-unit: setup ## Pure code: no sockets, no sleeping
	$(PYTEST) tests/unit

test-contract: setup convert-env ## One suite per port, over every implementation
	$(PYTEST) tests/contract

test-integration: setup convert-env ## Real sockets, parts in the test's process
	$(PYTEST) tests/integration

test-e2e: setup convert-env ## The whole service as real processes
	$(PYTEST) tests/e2e

check: setup ## Format, lint, types, configuration, import layers
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy
	$(PYTEST) tests/config

fmt: setup ## Format the code and fix what can be fixed
	$(PYTHON) -m ruff format .
	$(PYTHON) -m ruff check --fix .

bench: setup ## Measure against the floors (perf/), some minutes; SCENARIOS="relay --quick" for a part
	@scripts/bootstrap convert
	@scripts/tools litellm
	@scripts/tools gptcache
	$(PYTHON) -m perf.bench $(SCENARIOS)

load: setup ## Open-loop load beside peers; SCENARIOS="overload surge", OPTIONS="--quick"; perf/load/scenarios has all
	@scripts/tools litellm
	$(PYTHON) -m perf.load $(or $(SCENARIOS),overload priorities surge flood rejection) $(OPTIONS)

perf-analyzer: setup ## NVIDIA's perf_analyzer over every model, through Envoy; draws the curves
	@scripts/bootstrap convert
	@scripts/tools perf-analyzer
	$(PYTHON) -m perf.perf_analyzer

eval: setup ## Measure answers on labelled questions; FILE="questions.json" OPTIONS="--model deep --show-failures 20"
	$(PYTHON) -m perf.evaluate $(FILE) -- $(OPTIONS)

kube-schemas: setup ## Fetch the Kubernetes API's schemas, which tests/config/k8s holds every object to
	@scripts/tools kubernetes-validate

docs: setup ## Write docs/settings.md from the settings table
	$(PYTHON) -m gateway settings --markdown > docs/settings.md

proto: setup ## Generate the gRPC stubs from gateway/proto/chat.proto
	$(PYTHON) -m grpc_tools.protoc -I. --python_out=. --pyi_out=. --grpc_python_out=. gateway/proto/chat.proto

lock: setup ## Pin the dependencies anew (needs the network)
	@scripts/lock

clean: ## Remove .venv and caches; state in var/ stays
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
