# Every command a person or a machine needs. Only Python 3.11, make and bash are assumed.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
# `make -j` must not install, check and test at once.
.NOTPARALLEL:

VENV := .venv
PY := $(VENV)/bin/python
MANAGE := $(PY) manage.py
PIP_INSTALL := $(PY) -m pip install --quiet --no-input --disable-pip-version-check --require-hashes

HOST ?= 127.0.0.1
PORT ?= 8000
PYTEST_WORKERS ?= 2
PYTEST_ARGS ?=
BENCH_ARGS ?=
# `make lock LOCK_ARGS=--upgrade` takes newer versions; without it the pins that still fit stay.
LOCK_ARGS ?=

# The embedded default is a development server; production starts `manage.py serve` itself, without DEBUG.
DEBUG ?= 1
export DEBUG
# Debian puts nginx where only root looks.
export PATH := $(PATH):/usr/sbin

# What decides a result is in the repository: a key or a database URL in someone's shell must not.
HERMETIC := env -u ANTHROPIC_API_KEY -u ANTHROPIC_BASE_URL -u DATABASE_URL -u REDIS_URL -u CHAT_PROVIDER
# Nothing connects to these: a system check only looks at the settings.
LIKE_PRODUCTION := env DEBUG=0 HTTPS=1 BEHIND_PROXY=1 \
	ALLOWED_HOSTS=chat.example.org ALLOWED_ORIGINS=https://chat.example.org \
	DATABASE_URL=postgres://chat@database.example.org/chat REDIS_URL=redis://redis.example.org:6379/0 \
	CHAT_PROVIDER=claude ANTHROPIC_API_KEY=looked-at-but-never-sent

# What a database or a layer could change, on PostgreSQL and Redis; everything else runs once. No test of the files left
# out has a database.
ON_BACKENDS := -m 'not browser and not process and not sqlite and not over_http' $(patsubst %,--ignore=tests/test_%.py, \
	architecture chat_command checks claude client deploy fault_proxy protocol readme scripted settings_doc static toolchain)

# In long runs of tests, so that few modules need their server in both workers; who is done first takes from the other.
SPREAD := -n $(PYTEST_WORKERS) --dist worksteal

# Runs what it finds: a pyenv shim can exist for a version that is not installed.
FIND_PYTHON = for python in python3.11 python3; do \
		if "$$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then break; fi; python=; \
	done

.PHONY: help run run-cluster test contract ci check bench lock format clean packages seeds

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

run: $(VENV)/.runtime ## install what is locked, migrate, seed the demo, serve on HOST:PORT (127.0.0.1:8000)
	@$(MANAGE) migrate --verbosity 0
	@$(MANAGE) seed_demo
	@exec $(MANAGE) serve --host "$(HOST)" --port "$(PORT)"

run-cluster: FOR_TESTS := no
run-cluster: packages $(VENV)/.runtime ## the same as two web servers and two workers on PostgreSQL and Redis, behind nginx
	@HOST="$(HOST)" PORT="$(PORT)" exec $(PY) -m bench.cluster

test: $(VENV)/.dev ## the tests, in random order; those whose server or browser is missing are skipped
	$(PY) -m pytest $(SPREAD) $(PYTEST_ARGS)

contract: $(VENV)/.dev ## every story again by every door, through a real daphne and then a real uvicorn
	$(PY) -m pytest $(SPREAD) --under daphne $(PYTEST_ARGS)
	$(PY) -m pytest $(SPREAD) --under uvicorn $(PYTEST_ARGS)

check: $(VENV)/.dev ## the quick checks: format, lint, types, settings, migrations
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(HERMETIC) $(MANAGE) check --fail-level WARNING
	@echo 'manage.py check --deploy, with settings as in production'
	@SECRET_KEY="$$($(PY) -c 'import secrets; print(secrets.token_urlsafe(50))')" \
		$(LIKE_PRODUCTION) $(MANAGE) check --deploy --fail-level WARNING
	$(HERMETIC) $(MANAGE) makemigrations --check --dry-run

# pytest comes last, so that its closing line is among the last ones printed.
ci: packages check seeds ## everything, with the Debian packages it needs and no test skipped
	$(HERMETIC) CI_STRICT=1 $(PY) -m tests.backends pytest $(SPREAD) $(ON_BACKENDS) $(PYTEST_ARGS)
	$(HERMETIC) CI_STRICT=1 $(PY) -m pytest $(SPREAD) -m 'not postgresql' $(PYTEST_ARGS)

bench: $(VENV)/.dev ## measure; BENCH_ARGS go to it
	$(PY) -m bench $(BENCH_ARGS)

format: $(VENV)/.dev ## rewrite the code in the house format
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

# The second file is held to the pins of the first: what is tested is what runs.
lock: $(VENV)/.dev ## pin pyproject.toml's dependencies, with hashes (LOCK_ARGS=--upgrade for newer ones)
	@compile="$(VENV)/bin/uv pip compile --quiet --no-config --system-certs --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-emit-find-links $(LOCK_ARGS)"; \
	export UV_CUSTOM_COMPILE_COMMAND='make lock'; \
	$$compile pyproject.toml --output-file requirements.txt && \
	$$compile pyproject.toml --group dev --constraint requirements.txt --output-file requirements-dev.txt

clean: ## remove the environment and the caches; var/, with its database, stays
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Twice: `make run` seeds at every start.
seeds: $(VENV)/.runtime
	@echo 'manage.py migrate, seed_demo and seed_demo again, in a fresh database'
	@VAR_DIR="$$(mktemp -d)"; export VAR_DIR; trap 'rm -rf "$$VAR_DIR"' EXIT; \
	$(HERMETIC) $(MANAGE) migrate --verbosity 0 && \
	$(HERMETIC) $(MANAGE) seed_demo && $(HERMETIC) $(MANAGE) seed_demo

packages:
	@missing=(); \
	[ "$(FOR_TESTS)" = no ] || command -v chromium >/dev/null || missing+=(chromium); \
	[ "$(FOR_TESTS)" = no ] || command -v faketime >/dev/null || missing+=(faketime); \
	compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null || missing+=(postgresql); \
	command -v redis-server >/dev/null || missing+=(redis-server); \
	command -v nginx >/dev/null || missing+=(nginx); \
	$(FIND_PYTHON); \
	if [ -z "$$python" ]; then missing+=(python3.11 python3.11-venv); \
	elif ! "$$python" -c 'import ensurepip' 2>/dev/null; then missing+=(python3.11-venv); fi; \
	if [ "$${#missing[@]}" = 0 ]; then exit 0; fi; \
	command -v apt-get >/dev/null || { echo "Install these, then try again: $${missing[*]}" >&2; exit 1; }; \
	as_root=(); [ "$$(id -u)" = 0 ] || as_root=(sudo); \
	echo "Installing $${missing[*]}"; \
	"$${as_root[@]}" apt-get -qq -o Acquire::Retries=3 update; \
	"$${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
		apt-get -qq -o Acquire::Retries=3 install --yes --no-install-recommends "$${missing[@]}"

# A half-made environment has a python but no pip, so a stamp says when it is whole.
$(VENV)/.made:
	@$(FIND_PYTHON); \
	[ -n "$$python" ] || { echo 'Python 3.11 is needed: no python3.11, and python3 is another version.' >&2; exit 1; }; \
	"$$python" -c 'import ensurepip' 2>/dev/null || { \
		echo "$$python cannot make virtual environments. On Debian: apt-get install python3.11-venv" >&2; exit 1; }; \
	"$$python" -m venv --clear $(VENV) && touch $@

$(VENV)/.runtime: requirements.txt | $(VENV)/.made
	@echo 'Installing requirements.txt'
	@$(PIP_INSTALL) -r requirements.txt
	@touch $@

# Also what `run` needs: the same pins and more.
$(VENV)/.dev: requirements-dev.txt | $(VENV)/.made
	@echo 'Installing requirements-dev.txt (about a minute)'
	@$(PIP_INSTALL) -r requirements-dev.txt
	@touch $@ $(VENV)/.runtime
