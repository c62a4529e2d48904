# GPT-2 Training Module. `make` trains, `make check` tests, `make help` lists every target.

PYTHON ?= python3
# These count only when they stand on the command line: a TIME in the environment is not meant for us.
ONLY_TYPED := TIME ARGS OPTION NPROC SEED FRAGMENTS A B
$(foreach name,$(ONLY_TYPED),$(if $(findstring command,$(origin $(name))),,$(eval override $(name) :=)))

export ARGS OPTION TORCH_INDEX SEED FRAGMENTS A B
LIMIT := $(if $(TIME), --max-time $(TIME))
MORE  := $${ARGS:+ $$ARGS}
RANKS := $(if $(NPROC), -m torch.distributed.run --standalone --nproc-per-node $(NPROC))

# py: a Python with all packages, quoted for the shell; a recipe stops where none can be had.
PY    := py="$$($(PYTHON) scripts/environment.py runtime)"
DEVPY := py="$$($(PYTHON) scripts/environment.py development)"
# Becomes a command, so that it gets the signals; SHOW also prints it as it can be pasted.
EXEC  := run() { eval "exec $$1"; }; run
SHOW  := run() { printf '%s\n' "$$1"; eval "exec $$1"; }; run

.DEFAULT_GOAL := all
.NOTPARALLEL:
.PHONY: all train prepare resume sample evaluate menuconfig guiconfig oldconfig olddefconfig \
        savedefconfig listnewconfig diffconfig merge randconfig allyesconfig allnoconfig alldefconfig \
        list-defconfigs explain doctor bench check lint types test test-fast clean distclean help

all: train                 ## prepare the data, train, evaluate, show a sample (the default)

train: prepare             ## train as .config says; ARGS="--max-steps 20" adds flags, TIME=60 seconds, NPROC=2 ranks
	@$(PY) && flags="$$(eval "$$py scripts/flags.py --quiet")" && $(SHOW) "$$py$(RANKS) gpt2/train.py $$flags$(LIMIT)$(MORE)"

prepare:                   ## turn the corpus into tokens, if that is not done yet
	@$(PY) && flags="$$(eval "$$py scripts/flags.py --data")" && $(SHOW) "$$py gpt2/prepare_data.py $$flags$(if $(filter prepare,$(MAKECMDGOALS)),$(MORE))"

resume:                    ## go on with the newest unfinished run
	@$(PY) && flags="$$(eval "$$py scripts/flags.py --unfinished runs")" && $(SHOW) "$$py$(RANKS) gpt2/train.py $$flags$(MORE)"

sample:                    ## write text with the newest run; ARGS='--prompt "ROMEO:"'
	@$(PY) && $(SHOW) "$$py gpt2/sample.py --run runs/latest$(MORE)"

evaluate:                  ## measure the newest run over the whole validation split
	@$(PY) && $(SHOW) "$$py gpt2/evaluate.py --run runs/latest$(MORE)"

menuconfig:                ## change .config in a menu
	@$(PY) && $(EXEC) "$$py scripts/kconf.py menuconfig"

guiconfig:                 ## change .config in a menu in a window
	@$(PY) && $(EXEC) "$$py scripts/kconf.py guiconfig"

defconfig-%:               ## make .config what defconfigs/NAME says
	@$(PY) && $(EXEC) "$$py scripts/kconf.py defconfig $*"

oldconfig:                 ## ask about the options that .config does not mention
	@$(PY) && $(EXEC) "$$py scripts/kconf.py oldconfig"

olddefconfig:              ## bring an edited or older .config up to date
	@$(PY) && $(EXEC) "$$py scripts/kconf.py olddefconfig"

savedefconfig:             ## write the minimal form of .config to the file defconfig
	@$(PY) && $(EXEC) "$$py scripts/kconf.py savedefconfig"

listnewconfig:             ## list the options that .config does not mention, with their defaults
	@$(PY) && $(EXEC) "$$py scripts/kconf.py listnewconfig"

diffconfig:                ## what differs between A=.config.old and B=.config, or others
	@$(PY) && $(EXEC) "$$py scripts/kconf.py diffconfig -- \"\$$A\" \"\$$B\""

merge:                     ## apply files to .config in order, and say what each overrode: FRAGMENTS="a b"
	@$(PY) && $(EXEC) "$$py scripts/kconf.py merge -- \$$FRAGMENTS"

randconfig:                ## make .config a random one; SEED=1 makes the same one again
	@$(PY) && $(EXEC) "$$py scripts/kconf.py randconfig -- \"\$$SEED\""

allyesconfig:              ## make .config the defaults with every y that can be
	@$(PY) && $(EXEC) "$$py scripts/kconf.py allyesconfig"

allnoconfig:               ## make .config the defaults with every n that can be
	@$(PY) && $(EXEC) "$$py scripts/kconf.py allnoconfig"

alldefconfig:              ## make .config the defaults
	@$(PY) && $(EXEC) "$$py scripts/kconf.py alldefconfig"

list-defconfigs:           ## list the defconfigs, a line each
	@$(PY) && $(EXEC) "$$py scripts/kconf.py list-defconfigs"

explain:                   ## say all about an option: OPTION=learning-rate
	@$(PY) && $(EXEC) "$$py scripts/kconf.py explain \"\$$OPTION\""

doctor:                    ## what this machine has, and what each lack costs; it installs nothing
	@$(EXEC) "$(PYTHON) scripts/doctor.py"

bench:                     ## measure speed and memory for .config; ARGS="--against plain -- --model gpt2-mini"
	@$(DEVPY) && $(SHOW) "$$py scripts/bench.py --config .config$(MORE)"

check: lint types test     ## everything a change must pass

lint:                      ## style (ruff)
	@$(DEVPY) && eval "$$py -m ruff check ." && $(EXEC) "$$py -m ruff format --check ."

types:                     ## types (mypy, strict)
	@$(DEVPY) && $(EXEC) "$$py -m mypy"

test:                      ## all tests
	@$(DEVPY) && $(EXEC) "$$py -m pytest"

test-fast:                 ## the tests for between two edits
	@$(DEVPY) && $(EXEC) "$$py -m pytest -m 'not slow'"

clean:                     ## remove caches
	@find gpt2 scripts tests -name __pycache__ -type d -prune -exec rm -rf {} +; rm -rf .mypy_cache .pytest_cache .ruff_cache

distclean: clean           ## remove caches, .venv and .config; never data/ or runs/
	@rm -rf .venv .config .config.old defconfig

help:                      ## this list
	@awk -F ':.*## ' '/^[a-z%-]+:.*## / {printf "make %-18s %s\n", $$1, $$2}' Makefile
