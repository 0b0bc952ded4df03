# clusterd. `make run` serves the example; `make test` runs everything. As root (or by sudo) each installs what it lacks.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DELETE_ON_ERROR:
.SUFFIXES:

BUILD := build
VENV := $(BUILD)/venv
HELLO := $(BUILD)/hello-venv
PYTEST := $(VENV)/bin/python -m pytest
# Tests start thousands of processes of it, and those that are to leave nothing behind write no bytecode.
COMPILE := $(VENV)/bin/python -m compileall -q service
# Most of a test on a machine is waiting, so more than there are cores. tests/conftest.py shares them out.
SHARED := -n 4 --dist loadscope
LISTEN ?= 127.0.0.1:8000

# What the daemon needs from Debian, and what building and testing it need besides.
RUNTIME := python3 python3-venv python3-systemd python3-sdnotify python3-click python3-rich
TOOLS := $(RUNTIME) build-essential debhelper dh-python lintian shellcheck \
	mmdebstrap debian-archive-keyring systemd-container util-linux iproute2 procps wrk apache2-utils nodejs redis-server man-db curl strace zsh fish faketime

.PHONY: help run test proof soak lint deb bench clean distclean

help:
	@cat <<'END'
	make run        serve examples/hello on $(LISTEN) with a worker per core, in the foreground
	make test       everything, in booted Debian 12 and 13 containers too (those need root)
	make proof      the long matrices
	make soak       random faults under load: MINUTES=60, and SEED= of a run to be repeated
	make lint       ruff, mypy, shellcheck, systemd-analyze verify
	make deb        $(BUILD)/clusterd_VERSION_all.deb
	make bench      clusterd beside its peers, into docs/benchmarks.md
	make clean      remove what was made, but for the containers' roots; make distclean: those too
	END

run: $(HELLO)/ready $(BUILD)/clusterd
	@exec packaging/foreground $(BUILD)/clusterd run hello:app \
		--directory examples/hello --python $(HELLO)/bin/python --listen $(LISTEN)

test: $(VENV)/ready $(HELLO)/ready $(BUILD)/tools
	$(COMPILE)
	$(PYTEST) $(SHARED)

proof: $(VENV)/ready $(BUILD)/tools
	$(COMPILE)
	status=0; $(PYTEST) $(SHARED) -m proof || status=$$?
	[ $$status -eq 5 ] || exit $$status  # 5: there is none

soak: $(VENV)/ready $(BUILD)/tools
	$(COMPILE)
	PYTHONPATH=service $(VENV)/bin/python -m tests.soak --minutes $(or $(MINUTES),60) $(if $(SEED),--seed $(SEED))

lint: $(VENV)/ready $(BUILD)/tools
	$(PYTEST) tests/test_linters.py tests/test_layers.py

deb: $(BUILD)/tools
	packaging/build-deb

# npm is for PM2 alone, and may be there by another package than Debian's.
bench: $(BUILD)/tools
	command -v npm >/dev/null || packaging/need npm
	/usr/bin/python3 tests/bench/bench.py --output docs/benchmarks.md

clean:
	[ ! -d $(BUILD) ] || find $(BUILD) -mindepth 1 -maxdepth 1 ! -name images -exec rm -rf {} +
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find service tests -name __pycache__ -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(BUILD)

$(BUILD)/runtime: Makefile packaging/need
	mkdir -p $(BUILD)
	packaging/need $(RUNTIME)
	touch $@

$(BUILD)/tools: Makefile packaging/need
	mkdir -p $(BUILD)
	packaging/need $(TOOLS)
	touch $@

# The installed program but for where its modules are: the application's environment gets no PYTHONPATH of ours.
$(BUILD)/clusterd: packaging/bin/clusterd Makefile
	mkdir -p $(BUILD)
	sed 's|-IB|-I|; s|/usr/share/clusterd|$(CURDIR)/service|' packaging/bin/clusterd >$@
	chmod +x $@

# Debian's own interpreter with Debian's packages, as the daemon runs, and the tests' tools on top of them.
$(VENV)/ready: pyproject.toml | $(BUILD)/runtime
	/usr/bin/python3 -m venv --system-site-packages $(VENV)
	/usr/bin/python3 -c 'import tomllib; [print(r) for r in tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["test"]]' |
		$(VENV)/bin/pip install --quiet --disable-pip-version-check --requirement /dev/stdin
	touch $@

# The application's environment is its own: the daemon and it share no package.
$(HELLO)/ready: | $(BUILD)/runtime
	/usr/bin/python3 -m venv $(HELLO)
	$(HELLO)/bin/pip install --quiet --disable-pip-version-check 'uvicorn[standard]'
	touch $@
