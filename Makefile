# The list of verbs is the manual:
#
#   make run       a node on this machine, and a demo that streams this source tree through it (DEMO=0: no demo)
#   make cluster   the same over one nameserver and two brokers, each a process of its own
#   make test      all tests                  make lint    ruff: rules and format        make types   mypy, strict
#   make format    have ruff put it right     make proto   generated code, anew          make install all of .venv
#   make bench     side by side with other message queues (installs them; takes long)    make profile where time goes
#   make bench-official    the official API beside RocketMQ's own proxy (needs Java and Go)
#   make bench-failover    how long clients can't send when a server goes, beside others (needs etcd; more with Java and Go)
#   make bench-timers      ten million delayed messages      make bench-lite      a million lite topics (ARGS='--topics 100000')
#   make compat    the official RocketMQ clients against our server (Python; with Node, Java, Go where they are installed)
#   make sim       ten thousand simulated runs of a broker group, with faults (SEEDS=500: fewer), and bugs it has to find
#   make chaos     real processes on hosts of their own, cut off, killed, with bad disks: FAULTS=200 SEED=… ARGS='--only ring'
#   make chaos-docker    the cluster of deploy/docker-compose.yml, containers killed, paused, cut off (needs Docker): FAULTS=40
#   make test-machine    deploy/vm/install.sh and the units on a Debian of their own, booted with systemd (needs root, debootstrap)
#   make soak      these clients and our own for ten minutes, servers killed meanwhile (ARGS='--minutes 2': shorter)
#   make clean     remove what was made (data directories stay)
#
# Only Python 3.11 or newer is needed: PYTHON=/path/to/python3.12 make run. ARGS='…' is passed on: make test ARGS='-k wire'.

PYTHON ?= python3
VENV ?= .venv
DEMO ?= 1
DATA ?= kourou-data
SEEDS ?= 10000
FAULTS ?= 200
SEED ?=
ARGS ?=

BIN := $(VENV)/bin
VENV_MADE := $(VENV)/.made
SERVER_INSTALLED := $(VENV)/.server-installed
DEV_INSTALLED := $(VENV)/.dev-installed

.PHONY: run cluster test lint types format proto compat sim chaos chaos-docker test-machine soak bench bench-official bench-failover bench-timers bench-lite bench-inflight profile install clean
.DEFAULT_GOAL := run

run: $(SERVER_INSTALLED)
	$(BIN)/kourou standalone --data $(DATA) $(if $(filter 0,$(DEMO)),,--demo) $(ARGS)

cluster: $(SERVER_INSTALLED)
	$(BIN)/kourou cluster up --groups 2 --data $(DATA)/cluster $(if $(filter 0,$(DEMO)),,--demo) $(ARGS)

test: $(DEV_INSTALLED)
	$(BIN)/python -m pytest -rs $(ARGS)

lint: $(DEV_INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(DEV_INSTALLED)
	$(BIN)/mypy

format: $(DEV_INSTALLED)
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

proto: $(DEV_INSTALLED)
	$(BIN)/python proto/generate.py

compat: $(DEV_INSTALLED)
	$(BIN)/python -m tests.compat.run $(ARGS)

sim: $(DEV_INSTALLED)
	$(BIN)/python -m tests.sim.run --seeds $(SEEDS) $(ARGS)

chaos: $(DEV_INSTALLED)
	$(BIN)/python -m tests.chaos.run --faults $(FAULTS) $(if $(SEED),--seed $(SEED)) $(ARGS)

chaos-docker: $(DEV_INSTALLED)
	$(BIN)/python -m tests.docker.run $(if $(SEED),--seed $(SEED)) $(if $(filter command line,$(origin FAULTS)),--faults $(FAULTS)) $(ARGS)

test-machine: $(DEV_INSTALLED)
	$(BIN)/python -m tests.deploy.run $(ARGS)

soak: $(DEV_INSTALLED)
	$(BIN)/python -m tests.compat.soak.run $(ARGS)

bench: $(DEV_INSTALLED)
	bench/run.sh $(ARGS)

bench-official: $(DEV_INSTALLED)
	bench/run.sh official $(ARGS)

bench-failover: $(DEV_INSTALLED)
	bench/run.sh failover $(ARGS)

bench-timers: $(DEV_INSTALLED)
	$(BIN)/python bench/timers.py $(ARGS)

bench-lite: $(DEV_INSTALLED)
	$(BIN)/python bench/lite.py $(ARGS)

bench-inflight: $(DEV_INSTALLED)
	$(BIN)/python bench/inflight.py $(ARGS)

profile: $(DEV_INSTALLED)
	$(BIN)/python bench/profile.py $(ARGS)

install: $(DEV_INSTALLED)

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# ---- the environment; stamps keep the second time quick

$(VENV_MADE):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "error: Kourou needs Python 3.11 or newer, and '$(PYTHON)' is $$($(PYTHON) --version 2>&1 || true);" \
		     "say which one to use: make PYTHON=/path/to/python3.11 …" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
		echo "error: '$(PYTHON) -m venv' failed; on Debian and Ubuntu it is in the package python3-venv" >&2; exit 1; }
	@touch $@

$(SERVER_INSTALLED): pyproject.toml | $(VENV_MADE)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[server]'
	@touch $@

$(DEV_INSTALLED): pyproject.toml | $(VENV_MADE)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ $(SERVER_INSTALLED)
