# GPT-2 Training Module. `make` trains, `make check` tests, `make help` lists every target.

PYTHON ?= python3
$(if $(wildcard Makefile),,$(error this Makefile works in its own folder: make -C $(dir $(lastword $(MAKEFILE_LIST)))))
# These count only when they stand on the command line: a TIME in the environment is not meant for us.
ONLY_TYPED := TIME ARGS OPTION NPROC NNODES NODE_RANK RDZV SEED FRAGMENTS A B CELLS JOBS GPUS SPEC OUT RUNS RUN MATRIX OPTIMIZERS METHODS SPARSITIES SEEDS RUNNER PARTITION TIME_LIMIT ARRAY PORT PART DRY V YES
$(foreach name,$(ONLY_TYPED),$(if $(findstring command,$(origin $(name))),,$(eval override $(name) :=)))

# A variable that nobody reads is refused, as a flag is; a make above this one may hand down its own.
KNOWN := PYTHON TORCH_INDEX $(ONLY_TYPED)
TYPED := $(foreach name,$(.VARIABLES),$(if $(filter command,$(origin $(name))),$(name)))
UNKNOWN := $(if $(filter 0,$(MAKELEVEL)),$(filter-out $(KNOWN),$(TYPED)))
HINT := an option of a run is a flag, for example ARGS="--batch-size 8"; make reads $(KNOWN)
HINT_O := no output folder is needed; ARGS="--run-dir DIR" and ARGS="--data-dir DIR" name folders
HINT_ARG := it is ARGS
HINT_KCONFIG_SEED := it is SEED
HINT_KCONFIG_ALLCONFIG := values come from files, in order: make merge FRAGMENTS="a b"
HINT_KCONFIG_CONFIG := the configuration is .config; copy another file there
$(foreach name,$(firstword $(UNKNOWN)),$(error $(name)= has no effect: $(or $(HINT_$(name)),$(HINT))))
$(if $(and $(filter 0,$(MAKELEVEL)),$(KCONFIG_CONFIG)),$(error KCONFIG_CONFIG in the environment has no effect: $(HINT_KCONFIG_CONFIG), and unset the variable))

export ARGS OPTION RDZV TORCH_INDEX SEED FRAGMENTS A B CELLS JOBS GPUS SPEC OUT RUNS RUN MATRIX OPTIMIZERS METHODS SPARSITIES SEEDS RUNNER PARTITION TIME_LIMIT ARRAY PORT PART DRY V YES
LIMIT := $(if $(TIME), --max-time $(TIME))
NO_DIGITS = $(subst 0,,$(subst 1,,$(subst 2,,$(subst 3,,$(subst 4,,$(subst 5,,$(subst 6,,$(subst 7,,$(subst 8,,$(subst 9,,$1))))))))))
$(if $(filter-out s m h,$(call NO_DIGITS,$(TIME))),$(error TIME=$(TIME) is not a time: write 90, 90s, 5m or 1h))
$(if $(filter s m h,$(TIME)),$(error TIME=$(TIME) is not a time: write 90, 90s, 5m or 1h))
MORE  := $${ARGS:+ $$ARGS}
RANK_COUNT := $(and $(filter 1,$(words $(NPROC))),$(if $(NPROC),$(filter $(shell seq 1 1024),$(NPROC))))
$(if $(NPROC),$(if $(RANK_COUNT),,$(error NPROC=$(NPROC) is not a number of ranks from 1 to 1024; NPROC=2 starts two)))
NODE_COUNT := $(and $(filter 1,$(words $(NNODES))),$(if $(NNODES),$(filter $(shell seq 2 1024),$(NNODES))))
$(if $(NNODES),$(if $(NODE_COUNT),,$(error NNODES=$(NNODES) is no number of nodes from 2 to 1024; one node needs no NNODES)))
$(foreach name,NODE_RANK RDZV,$(if $(NNODES),$(if $($(name)),,$(error NNODES=$(NNODES) needs $(name): NODE_RANK=0 on the node that RDZV=host:port names, 1 and so on for the others)),$(if $($(name)),$(error $(name)=$($(name)) has no effect without NNODES=2, the number of nodes))))
PLACES := $(if $(NODE_COUNT),$(shell seq 0 $$(($(NODE_COUNT) - 1))))
$(if $(NODE_RANK),$(if $(and $(filter 1,$(words $(NODE_RANK))),$(filter $(PLACES),$(NODE_RANK))),,$(error NODE_RANK=$(NODE_RANK) is no node of NNODES=$(NNODES): they are 0 to $(lastword $(PLACES)))))
RDZV_PORT := $(lastword $(subst :, ,$(RDZV)))
$(if $(RDZV),$(if $(and $(filter 1,$(words $(RDZV))),$(filter 2,$(words $(subst :, ,$(RDZV)))),$(if $(call NO_DIGITS,$(RDZV_PORT)),,yes)),,$(error RDZV=$(RDZV) is no host:port such as node0:29500)))
# On one machine: no look-up of its name. Under nohup torchrun must leave SIGHUP alone, as one process does.
RANKS := $(if $(NNODES), scripts/nodes.py --nnodes $(NODE_COUNT) --node-rank $(NODE_RANK) --nproc $(or $(RANK_COUNT),1) --rdzv$$(quoted "$$RDZV")$$hup,$(if $(NPROC), -m torch.distributed.run$$hup --standalone --local-addr 127.0.0.1 --nproc-per-node $(RANK_COUNT)))
NOHUP = $(if $(NPROC)$(NNODES),hup="$$($(PYTHON) -c 'import signal as s; print(" --signals-to-handle SIGTERM,SIGINT,SIGQUIT" * (s.getsignal(s.SIGHUP) == s.SIG_IGN), end="")')" &&)

# The targets of `make help`, by what they are for, the usual first.
HELP_TRAIN := Train
TRAIN := all train resume list-runs prune-runs sample evaluate export prepare plan plan-table doctor help
HELP_CONFIGURE := Configure
CONFIGURE := menuconfig defconfig-NAME list-defconfigs list-optimizers explain guiconfig oldconfig olddefconfig \
             savedefconfig listnewconfig diffconfig merge randconfig alldefconfig
HELP_COMPARE := Compare
COMPARE := compare test-matrix matrix-plan matrix-status matrix-rerun watch report
HELP_DEVELOP := Develop
DEVELOP := test test-fast check check-all check-optimizers check-gpu check-slurm lint types bench torture options-page clean distclean

# The matrix's own flags, and ARGS for every cell; expanded by the shell, so that no value is executed.
STUDY := scripts/matrix.py$${SPEC:+ --spec \"\$$SPEC\"}$${OUT:+ --out \"\$$OUT\"}$${JOBS:+ --jobs \"\$$JOBS\"}$${GPUS:+ --gpus \"\$$GPUS\"}
# How it is run: here, or by Slurm.
STUDY_RUN := $(STUDY)$${RUNNER:+ --runner \"\$$RUNNER\"}$${PARTITION:+ --partition \"\$$PARTITION\"}$${TIME_LIMIT:+ --time-limit \"\$$TIME_LIMIT\"}$${ARRAY:+ --array \"\$$ARRAY\"}
CELL_FLAGS := $${ARGS:+ -- $$ARGS}

# py: a Python with all packages, quoted for the shell; a recipe stops where none can be had.
# NEW_ENOUGH is what every Python 3 can read, and 2.7: the program itself is a SyntaxError to an old one.
NEW_ENOUGH = $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, $1))' || \
             { echo "make: PYTHON=$(PYTHON) is not there or older than 3.11: name one that is newer, make PYTHON=python3.11" >&2; exit 2; };
PY    := $(call NEW_ENOUGH,11) py="$$($(PYTHON) scripts/environment.py runtime)"
REPORTPY := $(call NEW_ENOUGH,11) py="$$($(PYTHON) scripts/environment.py report)"
DEVPY := $(call NEW_ENOUGH,11) py="$$($(PYTHON) scripts/environment.py development)"
# become: turn into a command, so that it gets the signals. show: print it first, to be pasted.
# quoted: words as the shell reads them back, so that none is executed.
SH    := become() { eval "exec $$1"; }; show() { printf '%s\n' "$$1"; become "$$1"; }; \
         quoted() { for word; do printf " '%s'" "$$(printf '%s' "$$word" | sed "s/'/'\\\\''/g")"; done; };

DEFCONFIGS := $(addprefix defconfig-,$(notdir $(wildcard defconfigs/*)))

.DEFAULT_GOAL := all
.NOTPARALLEL:
.PHONY: $(DEFCONFIGS) defconfig-NAME defconfig nconfig config xconfig gconfig mrproper
.PHONY: all train prepare plan plan-table options-page resume sample evaluate export menuconfig guiconfig oldconfig olddefconfig \
        savedefconfig listnewconfig diffconfig merge randconfig alldefconfig \
        compare test-matrix matrix-plan matrix-status matrix-rerun watch \
        list-defconfigs list-optimizers list-runs prune-runs report explain doctor bench check check-all check-optimizers check-gpu check-slurm torture lint types test test-fast clean distclean help

all: train                 ## prepare the data, train, evaluate, show a sample (the default)

train: prepare             ## train as .config says; ARGS="--max-steps 20" adds flags, TIME=5m, NPROC=2 ranks, NNODES=2 NODE_RANK=0 RDZV=host:port
	@$(SH) $(PY) && $(NOHUP) flags="$$(eval "$$py scripts/flags.py --quiet --$(LIMIT)$(MORE)")" && show "$$py$(RANKS) gpt2/train.py $$flags"

# So that a run that was stopped can say what make's own last line means.
train resume: export GPT2_STARTED_BY := make

# ARGS is prepare_data.py's where nothing else is made; else it is another's, whose --data-dir counts
# here, too. That of train is checked here, before anything takes time; that of cells is theirs to check.
PREPARE_ALONE := $(if $(filter-out prepare,$(or $(MAKECMDGOALS),all)),,yes)
TRAINS := $(filter all train,$(or $(MAKECMDGOALS),all))
TYPED_FOR_DATA := $(if $(PREPARE_ALONE),$${ARGS:+ --quiet},$(if $(TRAINS), --$(LIMIT)$(MORE), --unchecked --$(MORE)))
prepare:                   ## tokenize the corpus, unless that is done
	@$(SH) $(PY) && flags="$$(eval "$$py scripts/flags.py --data$(TYPED_FOR_DATA)")" && show "$$py gpt2/prepare_data.py $$flags$(if $(PREPARE_ALONE),$(MORE))"

plan:                      ## estimate memory, disk and time, and whether it fits; ARGS="--plan-for 24G"
	@$(SH) $(PY) && flags="$$(eval "$$py scripts/flags.py --$(LIMIT)$(MORE)")" && show "$$py gpt2/train.py --plan $$flags"

options-page:              ## regenerate docs/options.md from the Kconfig files
	@$(SH) $(PY) && become "$$py scripts/options_page.py --write docs/options.md"

plan-table:                ## memory of all four sizes by batch, as in docs/memory.md
	@$(SH) $(PY) && become "$$py scripts/plan_table.py"

resume:                    ## continue the newest unfinished run
	@$(SH) $(PY) && $(NOHUP) flags="$$(eval "$$py scripts/flags.py --unfinished runs --$(MORE)")" && show "$$py$(RANKS) gpt2/train.py $$flags"

sample:                    ## write text with the newest run; ARGS='--prompt "ROMEO:"'
	@$(SH) $(PY) && show "$$py gpt2/sample.py$(MORE)"

evaluate:                  ## evaluate the newest run on the whole validation split
	@$(SH) $(PY) && show "$$py gpt2/evaluate.py$(MORE)"

export:                    ## export the newest run (Hugging Face; ARGS="--format sparse" or dense)
	@$(SH) $(PY) && show "$$py gpt2/export.py$(MORE)"

menuconfig:                ## change .config in a menu
	@$(SH) $(PY) && become "$$py scripts/kconf.py menuconfig"

guiconfig:                 ## change .config in a window
	@$(SH) $(PY) && become "$$py scripts/kconf.py guiconfig"

defconfig-NAME:            ## write .config from defconfigs/NAME; make list-defconfigs lists the names
	@echo "write a name from defconfigs/ in place of NAME, such as: make $(firstword $(DEFCONFIGS))" >&2; exit 2

# A static pattern: the shell completes the names.
$(DEFCONFIGS): defconfig-%:
	@$(SH) $(PY) && become "$$py scripts/kconf.py defconfig $*"

# A name that no file has, which the tool answers with the nearest.
defconfig-%:
	@$(SH) $(PY) && become "$$py scripts/kconf.py defconfig $*"

# The kernel's habits.
%_defconfig:
	@$(SH) $(PY) && become "$$py scripts/kconf.py defconfig $*"

defconfig:                 # what the bare `make` would take
	@$(SH) $(PY) && become "$$py scripts/kconf.py olddefconfig"

nconfig: menuconfig

config: oldconfig

xconfig gconfig: guiconfig

mrproper: distclean

# Targets of the kernel's Makefile that are others here.
HERE_localmodconfig := 'make' without a .config, which takes what fits the machine
HERE_tinyconfig := 'make alldefconfig', all defaults, or a small one of 'make list-defconfigs'
HERE_allnoconfig := $(HERE_tinyconfig)
HERE_allyesconfig := $(HERE_tinyconfig)
HERE_allmodconfig := $(HERE_tinyconfig)
HERE_helpnewconfig := 'make listnewconfig', and 'make explain OPTION=NAME'
KERNEL := localmodconfig tinyconfig allnoconfig allyesconfig allmodconfig helpnewconfig
.PHONY: $(KERNEL)
$(KERNEL):
	@printf '%s\n' "make $@: here it is $(HERE_$@)" >&2; exit 2

oldconfig:                 ## ask about the options that .config lacks
	@$(SH) $(PY) && become "$$py scripts/kconf.py oldconfig"

olddefconfig:              ## bring an edited or older .config up to date
	@$(SH) $(PY) && become "$$py scripts/kconf.py olddefconfig"

savedefconfig:             ## write the minimal form of .config to the file defconfig
	@$(SH) $(PY) && become "$$py scripts/kconf.py savedefconfig"

listnewconfig:             ## list the options that .config lacks, with their defaults
	@$(SH) $(PY) && become "$$py scripts/kconf.py listnewconfig"

diffconfig:                ## compare A=.config.old with B=.config, or other files
	@$(SH) $(PY) && become "$$py scripts/kconf.py diffconfig -- \"\$$A\" \"\$$B\""

merge:                     ## apply files to .config in order, and report what each overrode: FRAGMENTS="a b"
	@$(SH) $(PY) && become "$$py scripts/kconf.py merge -- \$$FRAGMENTS"

randconfig:                ## write a random .config; SEED=1 repeats it
	@$(SH) $(PY) && become "$$py scripts/kconf.py randconfig -- \"\$$SEED\""

alldefconfig:              ## reset .config to the defaults
	@$(SH) $(PY) && become "$$py scripts/kconf.py alldefconfig"

report:                    ## compare runs: a page with statistics and plots, of the newest matrix or RUNS="runs/a runs/b"
	@$(SH) $(PY) && eval "$$py scripts/report.py --check$(if $(RUNS), --runs$$(quoted $$RUNS))$(MORE)" && $(REPORTPY) && show "$$py scripts/report.py$(if $(RUNS), --runs$$(quoted $$RUNS))$(MORE)"

list-defconfigs:           ## list the defconfigs, a line each
	@$(SH) $(PY) && become "$$py scripts/kconf.py list-defconfigs"

list-optimizers:           ## list the optimizers with the size of their state, and why others are unavailable
	@$(SH) $(PY) && become "$$py gpt2/train.py --list-optimizers"

compare: prepare           ## the quick answer within a time: OPTIMIZERS="adamw muon" METHODS="none magnitude" SPARSITIES=0.5 TIME=10m SEEDS=3
	@$(SH) $(REPORTPY) && become "$$py scripts/compare.py --quiet$(if $(TIME), --time $(TIME))$${SEEDS:+ --seeds \"\$$SEEDS\"}$${OPTIMIZERS:+ --optimizers \"\$$OPTIMIZERS\"}$${METHODS:+ --methods \"\$$METHODS\"}$${SPARSITIES:+ --sparsities \"\$$SPARSITIES\"}$${OUT:+ --out \"\$$OUT\"}$${JOBS:+ --jobs \"\$$JOBS\"}$${GPUS:+ --gpus \"\$$GPUS\"}$(CELL_FLAGS)"

test-matrix: $(if $(SPEC),,$(if $(wildcard .config),prepare)) ## run the matrix of .config, or resume it; SPEC=FILE OUT=DIR JOBS=2 GPUS=0,1 V=1 RUNNER=slurm
	@$(SH) $(REPORTPY) && become "$$py $(STUDY_RUN)$(CELL_FLAGS)"

matrix-plan: $(if $(SPEC),,$(if $(wildcard .config),prepare)) ## show what the matrix would run: cells, order, exclusions, time, memory, disk
	@$(SH) $(PY) && become "$$py $(STUDY_RUN) --plan$(CELL_FLAGS)"

matrix-status:             ## progress of the matrix of .config, or else of the newest: done, running, failed, left
	@$(SH) $(PY) && become "$$py $(STUDY) --status"

matrix-rerun:              ## mark cells to run again in the next test-matrix: CELLS=failed, or a pattern of names
	@$(SH) $(PY) && become "$$py $(STUDY) --rerun \"\$$CELLS\""

watch:                     ## a page in the browser: what runs now, or RUN=DIR, MATRIX=DIR; PORT=8000
	@$(SH) $(PY) && become "$$py scripts/watch.py$${RUN:+ --run \"\$$RUN\"}$${MATRIX:+ --matrix \"\$$MATRIX\"}$${PORT:+ --port \"\$$PORT\"}"

list-runs:                 ## list the runs in runs/: when, optimizer, steps, loss, status, what is special
	@$(SH) $(PY) && become "$$py scripts/list_runs.py"

prune-runs:                ## list dead runs, extra checkpoints and empty matrices in runs/; YES=1 removes them
	@$(SH) $(PY) && become "$$py scripts/prune_runs.py$${YES:+ --yes}"

explain:                   ## explain one option: OPTION=learning-rate; ARGS="--optimizer lion" counts flags; OPTION=/oom finds a word
	@$(SH) $(PY) && case "$$OPTION" in /*) become "$$py scripts/find_option.py -- \"\$$OPTION\"" ;; *) become "$$py scripts/kconf.py explain -- \"\$$OPTION\"$(CELL_FLAGS)" ;; esac

doctor:                    ## check this machine: what is missing, and what that costs; installs nothing
	@$(call NEW_ENOUGH,9) $(PYTHON) scripts/doctor.py

bench:                     ## measure speed and memory for .config; ARGS="--against plain -- --model gpt2-mini"
	@$(SH) $(DEVPY) && show "$$py scripts/bench.py --config .config$(MORE)"

check: lint types test     ## everything a change must pass

check-all:                 ## the long tests, which check leaves out
	@$(SH) $(DEVPY) && become "$$py -m pytest -n auto --dist loadfile -m long"

check-optimizers:          ## test every optimizer of the libraries that are installed; writes docs/optimizers.md
	@$(SH) $(DEVPY) && become "$$py -m pytest tests/optim/check_optimizers.py"

check-gpu:                 ## check a CUDA or ROCm card, six minutes a part: PART=right or PART=fast, DRY=1 on a CPU
	@$(call NEW_ENOUGH,11) py=$(PYTHON); [ ! -x .venv/bin/python ] || py=.venv/bin/python; exec "$$py" tests/cuda/check_gpu.py $$PART

check-slurm:               ## a matrix under a real Slurm, started here for six minutes: needs root, slurm-wlm and munge
	@$(SH) $(DEVPY) && become "$$py -m pytest -n 0 -rs -m slurm tests/faults/test_slurm.py"

torture:                   ## random kills and damage, for minutes: ARGS="--seed 7" repeats them
	@$(SH) $(DEVPY) && become "$$py tests/faults/torture.py$(MORE)"

lint:                      ## style (ruff)
	@$(SH) $(DEVPY) && eval "$$py -m ruff check ." && become "$$py -m ruff format --check ."

types:                     ## types (mypy, strict)
	@$(SH) $(DEVPY) && become "$$py -m mypy"

test:                      ## the tests, except those of check-all
	@$(SH) $(DEVPY) && become "$$py -m pytest -n auto --dist loadfile -m 'not long and not slurm'"

test-fast:                 ## the fast tests, for use between edits
	@$(SH) $(DEVPY) && become "$$py -m pytest -n auto --dist loadfile -m 'not slow and not long and not slurm'"

clean:                     ## remove caches
	@find gpt2 scripts tests -name __pycache__ -type d -prune -exec rm -rf {} +; rm -rf .mypy_cache .pytest_cache .ruff_cache

distclean: clean           ## remove caches, .venv and .config; never data/ or runs/
	@rm -rf .venv .venv-3.* .config .config.old defconfig

help:                      ## this list
	@$(foreach group,TRAIN CONFIGURE COMPARE DEVELOP,printf '%s\n' '$(HELP_$(group))'; \
	    for target in $($(group)); do \
	        awk -F ':.*## ' -v name="$$target" '$$1 == name && /^[a-zA-Z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' Makefile; \
	    done;)
