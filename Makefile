# make run    set everything up and run S0-S4 on the dev pack, ending in a sealed PASS
# make test   set everything up and pass all tests
# make soak   the long campaigns: kills, full disks, every forgery, fuzzing
# make replay build the dev pack, run, promote to a local store, run again from the stamp, compare: the last line is EQUAL
# make docs   build the documentation site into _docs/, without a network; open _docs/index.html
# make lock   resolve the dependencies again and write requirements/lock.txt
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.ready

# Compiled modules are kept, whatever the environment says: hundreds of interpreters start in the tests.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: run test soak replay docs lock sync wheel clean

run: $(STAMP)
	@$(BIN)/seg1a run --output-dir runs/dev --seed 1

# Tests wait half of their time for processes and for the disk: two for each core.
test: $(STAMP) sync
	@$(BIN)/python tools/test_notebooks.py nbs
	@$(BIN)/python -m pytest tests -n $$($(BIN)/python -c 'import os; print(2 * os.cpu_count())')

soak: $(STAMP)
	@$(BIN)/python -m pytest tests -n auto -m slow

# The same path as in production, on a folder: stage, run, promote, replay. runs/replay is made anew each time.
REPLAY := runs/replay
replay: $(STAMP)
	@rm -rf $(REPLAY)
	@$(BIN)/seg1a pack build $(REPLAY)/artifacts/dev --merchants 10000
	@$(BIN)/seg1a stage $(REPLAY)/artifacts/dev $(REPLAY)/inputs
	@$(BIN)/seg1a run --pack $(REPLAY)/inputs/dev --output-dir $(REPLAY)/runs --seed 1
	@$(BIN)/seg1a promote $(REPLAY)/runs/latest $(REPLAY)/promoted
	@$(BIN)/seg1a replay $(REPLAY)/promoted/manifest_fingerprint=*/seed=1/run_id=* --pack $(REPLAY)/artifacts/dev

# Notebooks that did not change since the last time are not run again; DOCS=--no-execute runs none.
docs: $(STAMP)
	@$(BIN)/python tools/build_docs.py $(DOCS)

sync: $(STAMP)
	@$(BIN)/python tools/strip_notebooks.py --check nbs
	@$(BIN)/python tools/check_sync.py

lock: $(STAMP)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --no-cache --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --extra dev --extra s3 --extra sign --extra dask setup.py -o requirements/lock.txt
	printf '# Of requirements/lock.txt; `make lock` writes both.\nlock_sha256: "%s"\n' "$$(sha256sum requirements/lock.txt | cut -d' ' -f1)" > seg1a/core/contracts/lock.yaml

wheel: $(STAMP)
	@$(BIN)/python -m build --no-isolation --outdir dist .

# The environment is made anew when the lock or the package's own settings change.
$(STAMP): requirements/lock.txt settings.ini setup.py
	@echo "setting up $(VENV) (once) ..." >&2
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/lock.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info _docs _docs_cache
