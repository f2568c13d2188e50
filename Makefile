# Every target builds .venv first: nothing but Python 3.10+ (with venv) and make is needed.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help run pipelines test check simulate bench chaos hosts head-failure tooz-suite compat compat-ci clean

help: ## what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

run: $(STAMP) ## the main job on an embedded local Ray: agents share out real resources, one is killed
	$(BIN)/python -m jobs.poll --config jobs/poll.yaml --kill 1

pipelines: $(STAMP) ## pipelines split across agents, over 200,000 samples of this machine; one is killed, one stopped, and compared
	rm -rf out/pipelines
	test -d out/recorded || $(BIN)/python -m jobs.record --out out/recorded --samples 200000
	$(BIN)/python -m jobs.pipelines --kill 1 --stop 1 --compare

# Two processes, as many tests wait for Ray most of the time; a module's tests share one cluster.
# Tests of what only some machines have are skipped: `apt-get install redis-server chromium prometheus` (for promtool).
test: $(STAMP) ## every test that CI runs
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

check: $(STAMP) ## lint, format, strict types and the floors of the house
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

simulate: $(STAMP) ## exclusive groups under 20,000 seeds of faults, then every interleaving of a small model (half an hour)
	$(BIN)/python -m partition_actor.testing --seeds 0..20000 --steps 1000 --processes 2
	$(BIN)/python tests/simulation/exhaustive.py

bench: $(STAMP) ## the benchmarks, each against a named peer in the same run
	@for program in benchmarks/[a-z]*.py; do echo "== $$program"; $(BIN)/python $$program || exit 1; done

plot: $(STAMP) ## docs/*.png from the JSON of the last `make bench`
	$(BIN)/python benchmarks/_plot_ring.py

chaos: $(STAMP) ## a quarter of an hour of real kills and stops on a real cluster, judged by a ledger; SECONDS=… for another time
	$(BIN)/python tests/chaos/ledger.py --seconds $(or $(SECONDS),600)
	$(BIN)/python tests/chaos/cut_off.py
	$(BIN)/python tests/chaos/routed.py --calls 100000
	$(BIN)/python tests/chaos/locks.py --holds 10000

# As root: it makes several hosts of this machine. `make test` runs the quick ones of its tests.
hosts: $(STAMP) ## several hosts: `ray up`, cuts of the network, slow and lossy links, a power failure
	HOSTS=all $(BIN)/python -m pytest tests/hosts

# As root, as `make hosts`; needs redis-server.
head-failure: $(STAMP) ## kill the head and start it again, with its GCS in memory, Redis and RocksDB; half an hour
	$(BIN)/python tests/hosts/head_failure.py --rounds $(or $(ROUNDS),3)

tooz-suite: $(STAMP) ## tooz's own tests, as its wheel ships them, on ray://: all must pass and none be skipped
	$(BIN)/python tests/tooz/suite.py

# Each environment is of its own, and is removed: 600 MB at a time.
compat: ## the real-cluster tests, jobs.poll and failovers on old and new Rays and Pythons, then members of two versions
	$(PYTHON) tests/compat/matrix.py

compat-ci: ## what CI runs of `make compat`: a small set on the oldest Ray that has a wheel for this Python
	$(PYTHON) tests/compat/matrix.py --oldest

clean: ## remove what the targets made
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis out
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
