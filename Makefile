# Every task of the project, named once. `make` lists them.
#
#   PYTHON=/path/to/python3.12    another Python (3.10 or newer) for the virtual environment
#   ARGS='-k broadcast -x'        arguments for pytest, or for the demo
#   CC=clang                      another compiler for the native tests
#   WERROR=-Werror                a compiler's warning in them is an error (as in CI)
#   WHOLE=1                       the whole suite on emulated CPUs, not a part; tens of minutes each

.DEFAULT_GOAL := help
# a step at a time, but for -j where nothing but native tests is asked for
ifneq ($(or $(filter-out build/native/%,$(MAKECMDGOALS)),$(if $(MAKECMDGOALS),,help)),)
.NOTPARALLEL:
endif
.DELETE_ON_ERROR:
.SECONDARY:

PYTHON ?= python3
ARGS   ?=
WERROR ?=

VENV   := .venv
PY     := $(VENV)/bin/python
PIP    := $(PY) -m pip -qq --disable-pip-version-check --no-input
C_CODE := $(wildcard csrc/*/*.[ch] csrc/arch/*/*.[ch] csrc/include/aiospin/*.h)

.PHONY: help
help: ## list the tasks
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{ printf "%-20s %s\n", $$1, $$2 }'

# ---- the virtual environment: each step is a stamp file, and is done again when what it depends on changes ----

# A Python that is asked for is the one that is used, also when there is an environment of another already.
ifneq ($(origin PYTHON),file)
ifneq ($(shell cat $(VENV)/.created 2> /dev/null),$(PYTHON))
$(VENV)/.created: FORCE
endif
endif
.PHONY: FORCE
FORCE:

$(VENV)/.created:
	@command -v $(PYTHON) > /dev/null || { \
	    echo "error: there is no $(PYTHON); name a Python 3.10 or newer: make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	    echo "error: aiospin needs Python 3.10 or newer, $(PYTHON) is $$($(PYTHON) -V 2>&1);" \
	         "name another: make PYTHON=/path/to/python3"; exit 1; }
	@echo "setting up $(VENV) with $$($(PYTHON) -V)"
	@$(PYTHON) -m venv --clear $(VENV)
	@echo "$(PYTHON)" > $@

$(VENV)/.run: $(VENV)/.created pyproject.toml
	@echo "installing what aiospin runs with"
	@$(PIP) install --upgrade pip setuptools
	@AIOSPIN_NO_EXT=1 $(PIP) install --no-build-isolation --editable '.[cli,trio,uvloop]'
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	@echo "installing what the tests and checks need"
	@AIOSPIN_NO_EXT=1 $(PIP) install --no-build-isolation --editable '.[dev]'
	@touch $@

$(VENV)/.built: $(VENV)/.run setup.py $(C_CODE)
	@echo "compiling the core"
	@$(PY) setup.py --quiet build_ext --inplace --force
	@touch $@

.PHONY: build debug demo
build: $(VENV)/.built ## compile the core in place, for work in the source tree

debug: $(VENV)/.run ## the same with assertions and without optimisation
	@rm -f $(VENV)/.built
	@AIOSPIN_DEBUG=1 $(PY) setup.py --quiet build_ext --inplace --force

demo: build ## an engine broadcasts to asyncio, uvloop and trio programs, live
	@$(PY) -m aiospin demo $(ARGS)

.PHONY: bench
bench: build ## what waiting costs on this machine, in time and in CPU, beside what else there is; an hour
	@AIOSPIN_NO_EXT=1 $(PIP) install --no-build-isolation --editable '.[bench]' || echo "the peers that are not installed are named below"
	@$(PY) benchmarks/wake_latency.py
	@$(PY) benchmarks/idle_cost.py
	@$(PY) benchmarks/loop_health.py
	@$(PY) benchmarks/many_waits.py
	@$(PY) benchmarks/throughput.py
	@$(PY) benchmarks/peers.py
	@$(PY) benchmarks/predict_simulation.py

.PHONY: soak
soak: build ## ten million messages, their writers and readers killed at random; half an hour
	@$(PY) tests/soak/soak.py $(ARGS)

# ---- checks ----

.PHONY: test lint typecheck
test: lint typecheck native-test conformance litmus check-wheels emulated-bochs ## everything that CI runs

lint: $(VENV)/.dev ## style, and the layers of the C code
	@$(VENV)/bin/ruff check --quiet .
	@$(VENV)/bin/ruff format --quiet --check .
	@! grep -rnE '#include *[<"]Python\.h' csrc/core csrc/arch || { \
	    echo "error: Python.h belongs to csrc/python"; exit 1; }
	@! grep -rnE '__x86_64__|__aarch64__|__riscv' csrc --exclude-dir=arch || { \
	    echo "error: what depends on the architecture belongs to csrc/arch"; exit 1; }
	@! grep -rnE '__atomic_|__sync_|stdatomic\.h' csrc --exclude=atomics.h --exclude-dir=include || { \
	    echo "error: atomic operations belong to csrc/core/atomics.h"; exit 1; }

typecheck: $(VENV)/.dev ## mypy, strict
	@$(VENV)/bin/mypy --no-error-summary

# ---- native tests: tests/native/test_*.c and tests/conformance/test_*.c, each a program linked with the core;
# ---- exit status 77 is a skip

NATIVE_TESTS  := $(wildcard tests/native/test_*.c tests/conformance/test_*.c)
NATIVE_CORE   := $(wildcard csrc/core/*.c csrc/arch/*.c csrc/arch/*/*.c)
NATIVE_CFLAGS := -std=gnu11 -g -pthread -Icsrc/core -Icsrc/arch -Icsrc/include -Itests/native \
                 -Wall -Wextra -Wshadow -Wconversion $(WERROR)

# $(1): the name of a flavour, a folder of build/native; $(2): its compiler flags
define flavour
$(1)_DIR := build/native/$(notdir $(firstword $(CC)))-$(1)

$$($(1)_DIR)/%.o: %.c Makefile
	@mkdir -p $$(@D)
	@$$(CC) $$(NATIVE_CFLAGS) $(2) -MMD -MP -c $$< -o $$@

$$($(1)_DIR)/libcore.a: $$(NATIVE_CORE:%.c=$$($(1)_DIR)/%.o)
	@rm -f $$@
	@$$(AR) rcs $$@ $$^

$$($(1)_DIR)/test_%: $$($(1)_DIR)/tests/native/test_%.o $$($(1)_DIR)/libcore.a
	@$$(CC) $(2) -pthread $$^ -o $$@

$$($(1)_DIR)/test_%: $$($(1)_DIR)/tests/conformance/test_%.o $$($(1)_DIR)/tests/conformance/contract.o $$($(1)_DIR)/libcore.a
	@$$(CC) $(2) -pthread $$^ -o $$@

# the short form of the soak is a native test too
$$($(1)_DIR)/soak_%: $$($(1)_DIR)/tests/soak/%.o $$($(1)_DIR)/libcore.a
	@$$(CC) $(2) -pthread $$^ -o $$@

.PHONY: native-$(1)
native-$(1): $$(patsubst %.c,$$($(1)_DIR)/%,$$(notdir $$(NATIVE_TESTS))) $$($(1)_DIR)/soak_park
	@tools/run_native.sh $$^

-include $$(wildcard $$($(1)_DIR)/*/*/*.d $$($(1)_DIR)/*/*/*/*.d)
endef
comma := ,
$(eval $(call flavour,test,-O2))
$(eval $(call flavour,asan,-O1 -fno-omit-frame-pointer -fsanitize=address$(comma)undefined -fno-sanitize-recover=all))
$(eval $(call flavour,tsan,-O1 -fno-omit-frame-pointer -fsanitize=thread))
$(eval $(call flavour,static,-O2 -static))
$(eval $(call flavour,coverage,-O0 --coverage))

.PHONY: asan tsan
native-test: ## the C tests of the core

tsan: native-tsan ## the C tests under ThreadSanitizer

asan: native-asan $(VENV)/.dev ## the C tests and the suite under AddressSanitizer and UndefinedBehaviorSanitizer
	@$(PY) tools/wheels.py build build/asan --sanitize address,undefined
	@$(PY) tools/wheels.py test build/asan --sanitize address,undefined $(ARGS)

# ---- litmus programs: tests/litmus, what memory models make of every word that two sides share ----

.PHONY: litmus
litmus: $(VENV)/.created ## what C11, Armv8 and RISC-V allow two sides that share a word, by herd7; half a minute
	@$(PY) tests/litmus/run.py || [ $$? -eq 77 ]

# ---- fuzzing: tests/fuzz, guided by coverage; what it finds is kept in tests/fuzz/corpus and run by the native tests ----

FUZZ_SECONDS ?= 60
FUZZ_FLAGS   := -std=gnu11 -g -O1 -fno-sanitize-recover=all -fsanitize=fuzzer,address,undefined

build/fuzz/fuzz_%: tests/fuzz/fuzz_%.c $(C_CODE)
	@command -v clang > /dev/null || { echo "error: the fuzzer is part of clang: install it"; exit 1; }
	@mkdir -p build/fuzz/found
	@clang $(FUZZ_FLAGS) -Icsrc/core -Icsrc/arch $< $(NATIVE_CORE) -pthread -o $@

.PHONY: fuzz
fuzz: build/fuzz/fuzz_ring ## attach, read and write of a segment that somebody scribbles over; FUZZ_SECONDS=60
	@$< -max_total_time=$(FUZZ_SECONDS) -timeout=10 -print_final_stats=1 -verbosity=0 -artifact_prefix=build/fuzz/ \
	    build/fuzz/found tests/fuzz/corpus/ring

# ---- wheels ----

.PHONY: wheels check-wheels test-next
wheels: dist/.built ## the sdist and the wheels, for every machine and every Python of this one, in dist/

# folders too, so that a deleted file counts
PACKAGED := $(shell find aiospin benchmarks csrc docs examples tests tools ! -path '*/__pycache__*' ! -name '*.so' 2> /dev/null)
dist/.built: $(VENV)/.dev pyproject.toml setup.py MANIFEST.in README.md CHANGELOG.md LICENSE $(PACKAGED)
	@$(PY) tools/wheels.py build dist
	@touch $@

check-wheels: dist/.built ## audit the wheels, and run the suite from them on every Python of this machine
	@$(PY) tools/wheels.py audit dist
	@$(PY) tools/wheels.py test dist $(ARGS)

test-next: dist/.built ## the suite on Pythons newer than any here: those of Debian's next release
	@$(PY) tools/wheels.py test-next dist $(ARGS) || [ $$? -eq 77 ]

# ---- executed where: the conformance programs, here and on emulated hardware (tests/emulated/README.md) ----

CONFORMANCE := $(static_DIR)/test_backend $(static_DIR)/test_fallback

EMULATED_QEMU := emulated-aarch64 emulated-riscv64

.PHONY: emulated emulated-bochs conformance $(EMULATED_QEMU) platforms
emulated: emulated-bochs $(EMULATED_QEMU) ## every wait instruction that this machine lacks, on emulated CPUs; minutes

emulated-bochs: dist/.built $(CONFORMANCE)
	@$(PY) tests/emulated/bochs.py --wheels dist $(static_DIR) || [ $$? -eq 77 ]

$(EMULATED_QEMU): dist/.built
	@$(PY) tests/emulated/qemu_user.py --wheels dist $(if $(WHOLE),--whole) $(@:emulated-%=%) || [ $$? -eq 77 ]

conformance: $(VENV)/.created ## the C programs that try each wait instruction of AArch64 and RISC-V, on emulated CPUs; a minute
	@for machine in $(EMULATED_QEMU:emulated-%=%); do \
	    $(PY) tests/emulated/qemu_user.py --brief $$machine || [ $$? -eq 77 ] || exit 1; done

platforms: $(VENV)/.built $(CONFORMANCE) ## run the conformance programs here, and write what was executed where into docs/platforms.md
	@mkdir -p build/platforms
	@for program in $(CONFORMANCE) "$(PY) tests/conformance/api_program.py"; do \
	    $$program > build/platforms/output && $(PY) tools/platforms.py record < build/platforms/output || exit 1; done
	@$(PY) tools/platforms.py tables

# ---- proof that the checks can fail, and all of them together ----

SOAK_PARKS ?= 100000000
CHECKS     := lint typecheck native-test litmus tsan asan fuzz mutants check-wheels test-next emulated platforms

.PHONY: mutants soak-park check coverage
mutants: $(VENV)/.dev ## break the core by hand, in one place at a time: every breakage must be noticed; ten minutes
	@CC="$(CC)" $(PY) tools/mutants.py $(ARGS)

soak-park: $(test_DIR)/soak_park ## parks against publishes without a lost wake; SOAK_PARKS=100000000, half an hour
	@$< $(SOAK_PARKS)

check: $(VENV)/.dev ## everything: tests, sanitizers, fuzzer, mutants, emulators; says what was skipped and why; hours
	@$(PY) tools/check.py $(CHECKS)

# without the test that steps through every instruction: counting the lines makes that many more
COVERED  := $(wildcard csrc/core/*.c csrc/arch/*.c)
COVERING := $(patsubst %.c,$(coverage_DIR)/%,$(notdir $(filter-out %/test_ring_kill.c,$(NATIVE_TESTS)))) $(coverage_DIR)/soak_park
coverage: $(COVERING) $(VENV)/.built $(VENV)/.dev ## what the native tests and the suite execute, in lines; not a gate
	@find $(coverage_DIR) -name '*.gcda' -delete
	@tools/run_native.sh $(COVERING)
	@gcov --no-output $(COVERED:%.c=$(coverage_DIR)/%.gcda) | awk -F"[':% ]" '/^File/ { file = $$3 } \
	    /^Lines/ { if (file !~ /\.h$$/) printf "%6.1f %%  %s\n", $$3, file; file = "all of it" }'
	@if $(PY) -c 'import coverage' 2> /dev/null; then \
	    $(PY) -m coverage run --data-file build/coverage --source aiospin -m pytest -q $(ARGS); \
	    $(PY) -m coverage report --data-file build/coverage --skip-covered --sort cover; \
	else echo "skipped: the Python half: coverage.py is not installed: $(PY) -m pip install coverage"; fi

.PHONY: clean distclean
clean: ## remove what was built
	@rm -rf build dist *.egg-info aiospin/*.so $(VENV)/.built
	@find aiospin benchmarks examples tests tools -name __pycache__ -prune -exec rm -rf {} + 2> /dev/null || true

distclean: clean ## and the virtual environment and the tools' caches
	@rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache
