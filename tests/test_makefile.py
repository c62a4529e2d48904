"""make as a user types it, in a copy of the tree, with the Python that runs the tests."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support import tiny

pytestmark = pytest.mark.slow

TREE = ("Makefile", "Kconfig", "requirements.txt", "defconfigs", "gpt2", "scripts")


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the tree, with data prepared for the corpus `text`."""
    # A blank and a quote in the path: every recipe must survive them.
    root = tmp_path_factory.mktemp("a user's tree")
    for name in TREE:
        source = tiny.REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, root / name)
    tiny.make_data(root / "data")
    return root


@pytest.fixture
def tree(copy: Path) -> Path:
    """Return the copy without what another test left in it."""
    for name in (".config", ".config.old", "defconfig"):
        (copy / name).unlink(missing_ok=True)
    shutil.rmtree(copy / "runs", ignore_errors=True)
    (copy / "defconfigs" / "tiny").write_text(TINY)
    return copy


TINY = """# a run of three steps, for tests
CONFIG_DATASET_TEXT=y
CONFIG_TOKENIZER_CHAR=y
CONFIG_MODEL_CUSTOM=y
CONFIG_N_LAYER=1
CONFIG_N_HEAD=1
CONFIG_N_EMBD=8
CONFIG_BLOCK_SIZE=8
CONFIG_BATCH_SIZE=4
CONFIG_MAX_STEPS=3
CONFIG_SAMPLE_TOKENS=10
"""


def make(tree: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
    return subprocess.run(
        ["make", f"PYTHON={sys.executable}", *arguments],
        cwd=tree,
        env={**clean, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def test_help_names_every_target(tree: Path) -> None:
    done = make(tree, "help")
    assert done.returncode == 0
    makefile = (tree / "Makefile").read_text()
    phony = makefile.split(".PHONY: all")[1].split("\n\n")[0].replace("\\", " ").split()
    for target in (*phony, "defconfig-NAME"):
        assert f"make {target} " in done.stdout


@pytest.mark.slow
def test_from_defconfig_to_sample(tree: Path) -> None:
    assert make(tree, "defconfig-tiny").returncode == 0
    before = (tree / ".config").read_bytes()
    done = make(tree, "TIME=100", "ARGS=--seed 3 --weight-decay 0.2")
    assert done.returncode == 0, done.stderr
    commands = [line for line in done.stdout.splitlines() if "gpt2/" in line and ".py" in line]
    assert "gpt2/prepare_data.py --dataset text --tokenizer char" in commands[0]
    assert "--max-steps 3" in commands[1]
    assert commands[1].endswith("--max-time 100 --seed 3 --weight-decay 0.2")
    assert "--- sample" in done.stdout
    assert "next: make sample" in done.stdout
    assert "make report RUNS=runs/" in done.stdout
    latest = tree / "runs" / "latest"
    assert (latest / "summary.json").exists()
    assert "CONFIG_SEED=3" in (latest / "config").read_text()
    # The command that was shown can be pasted.
    pasted = subprocess.run(
        ["sh", "-c", commands[1] + " --check-config"],
        cwd=tree, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert pasted.returncode == 0
    assert pasted.stdout.startswith("options are valid; ")
    assert "to be" in make(tree, "sample", "ARGS=--prompt 'to be' --tokens 5").stdout
    assert "perplexity" in make(tree, "evaluate").stdout
    assert (tree / ".config").read_bytes() == before


@pytest.mark.slow
def test_resume_takes_the_newest_unfinished_run(tree: Path) -> None:
    assert make(tree, "defconfig-tiny").returncode == 0
    none = make(tree, "resume")
    assert none.returncode == 2
    assert "no unfinished run" in none.stderr
    assert "not found" not in none.stderr
    args = "ARGS=--checkpoint-interval 1"
    stopped = make(tree, "train", args, GPT2_FAULT="checkpoint.rename:term:1")
    assert stopped.returncode == 2  # make's own; the program's is in run.json
    assert '"exit_code": 75' in (tree / "runs" / "latest" / "run.json").read_text()
    resumed = make(tree, "resume")
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming after step 1" in resumed.stdout
    assert (tree / "runs" / "latest" / "summary.json").exists()


def test_a_broken_config_stops_make(tree: Path) -> None:
    (tree / ".config").write_text("CONFIG_BATCH_SIZE=0\nCONFIG_BATCH_SIZ=3\n")
    done = make(tree, "train")
    assert done.returncode == 2
    assert ".config:1" in done.stderr
    assert ".config:2" in done.stderr
    # Nothing is tried after the error.
    assert "not found" not in done.stderr
    assert done.stderr.splitlines()[-1].endswith("Error 2")
    assert "gpt2/train.py" not in done.stdout
    assert not (tree / "runs").exists()


@pytest.mark.parametrize("target", ["train", "plan", "all", "resume"])
def test_a_wrong_flag_is_answered_before_anything_else(target: str, tree: Path) -> None:
    if target == "resume":
        (tree / "runs" / "one").mkdir(parents=True)
        shutil.copy(tree / "defconfigs" / "tiny", tree / "runs" / "one" / "config")
    done = make(tree, target, "ARGS=--bf16")
    assert (done.returncode, done.stdout) == (2, "")
    first, last = done.stderr.splitlines()
    assert first == "train.py: error: unknown flag --bf16; here it is --precision bf16 (see --help)"
    assert last.startswith("make: *** ")


def test_a_flag_of_the_file_that_is_typed_again_is_shown_once(tree: Path) -> None:
    make(tree, "defconfig-tiny")
    done = make(tree, "plan", "TIME=5m", "ARGS=--max-steps 2 --optimizer muon --device cpu")
    (shown,) = [line for line in done.stdout.splitlines() if "gpt2/train.py" in line]
    assert shown.count("--max-steps") == 1
    assert shown.endswith(" --max-time 5m --max-steps 2 --optimizer muon --device cpu")


@pytest.mark.slow
def test_a_stopped_run_says_what_makes_error_means(tree: Path) -> None:
    make(tree, "defconfig-tiny")
    stopped = make(tree, "train", "ARGS=--device cpu", GPT2_FAULT="step.begin:term:2")
    means = "which only means: stopped early, can be resumed"
    assert stopped.stdout.splitlines()[-1] == f'make adds "Error 75", {means}'
    assert stopped.stderr.splitlines()[-1].endswith("train] Error 75")


@pytest.mark.slow
def test_variables_count_only_when_typed(tree: Path) -> None:
    make(tree, "defconfig-tiny")
    for arguments in ((), ("-e",)):
        shown = make(tree, "-n", "train", *arguments, TIME="5", ARGS="--seed 9").stdout
        assert "--max-time" not in shown
        quiet = make(tree, "-j4", "prepare", *arguments, TIME="5", ARGS="--force")
        assert "--force" not in quiet.stdout
        assert "already prepared" in quiet.stdout


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("BATCH_SIZE=8", 'for example ARGS="--batch-size 8"; make reads PYTHON TORCH_INDEX TIME'),
        ("ARG=--max-steps 3", "it is ARGS"),
        ("O=d", "no output folder is needed"),
        ("KCONFIG_CONFIG=my.config", "the configuration is .config"),
    ],
)
def test_a_variable_that_nobody_reads_is_refused(typed: str, said: str, tree: Path) -> None:
    name = typed.partition("=")[0]
    done = make(tree, "defconfig-tiny", typed)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f"{name}= has no effect: " in line
    assert said in line
    assert not (tree / ".config").exists()
    # What a make above this one was given is that one's.
    (tree.parent / "outer.mk").write_text("all:\n\t+@$(MAKE) -f Makefile -n help PYTHON=x\n")
    nested = subprocess.run(
        ["make", "-f", "../outer.mk", typed], cwd=tree, capture_output=True, text=True, check=False
    )
    assert nested.returncode == 0, nested.stderr


def test_kconfig_config_in_the_environment_is_refused(tree: Path) -> None:
    done = make(tree, "defconfig-tiny", KCONFIG_CONFIG="my.config")
    assert done.returncode == 2
    assert "KCONFIG_CONFIG in the environment has no effect" in done.stderr
    assert not (tree / ".config").exists()


KERNEL = [
    "localmodconfig",
    "tinyconfig",
    "allnoconfig",
    "allyesconfig",
    "allmodconfig",
    "helpnewconfig",
]


@pytest.mark.parametrize("target", KERNEL)
def test_a_target_of_the_kernel_names_what_it_is_here(target: str, tree: Path) -> None:
    done = make(tree, target)
    assert done.returncode == 2
    said = done.stderr.splitlines()[0]
    assert said.startswith(f"make {target}: here it is ")
    named = re.findall(r"'make( [^']*)?'", said)
    assert named
    for words in named:
        arguments = words.replace("NAME", "tiny").split()
        assert make(tree, "-n", *arguments).returncode == 0, words


def test_from_another_folder_the_way_in_is_named(tree: Path, tmp_path: Path) -> None:
    place = tmp_path / "tree"
    place.symlink_to(tree)  # make knows no blanks in the names of makefiles
    command = ["make", "-f", str(place / "Makefile"), "help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    way_in = done.stderr.partition("make -C ")[2].split()[0].rstrip(".")
    assert (
        subprocess.run(["make", "-C", way_in, "help"], capture_output=True, check=False).returncode
        == 0
    )


def test_a_defconfig_may_be_named_as_in_the_kernel(tree: Path) -> None:
    assert make(tree, "tiny_defconfig").returncode == 0
    assert "CONFIG_MAX_STEPS=3" in (tree / ".config").read_text()
    assert "did you mean" in make(tree, "tinny_defconfig").stderr


@pytest.mark.parametrize("python", ["old", "missing"])
def test_a_python_that_is_too_old_or_missing_is_named(python: str, tree: Path) -> None:
    """Stands for Python 3.6, to which the program's syntax is unknown: it knows -c alone."""
    fake = tree.parent / "python-old"
    fake.write_text(
        '#!/bin/sh\n[ "$1" = -c ] || { echo SyntaxError >&2; exit 1; }\n'
        f"exec '{sys.executable}' -c \"import sys; sys.version_info = (3, 6); $2\"\n"
    )
    fake.chmod(0o755)
    name = "../python-old" if python == "old" else "no-such-python"
    for target in ("train", "report", "lint", "doctor"):
        done = make(tree, target, f"PYTHON={name}")
        assert done.returncode == 2
        assert f"PYTHON={name} is not there or older than 3.11" in done.stderr
        assert "make PYTHON=python3.11" in done.stderr
        assert "SyntaxError" not in done.stderr


@pytest.mark.slow
def test_the_preparation_learns_where_the_training_reads(tree: Path, tmp_path: Path) -> None:
    make(tree, "defconfig-tiny")
    text = tmp_path / "in.txt"
    text.write_text("to be or not to be. " * 50)
    there = tmp_path / "there"
    made = make(tree, "prepare", f"ARGS=--data-dir '{there}' --input '{text}'")
    assert made.returncode == 0, made.stderr
    done = make(tree, "prepare", "train", f"ARGS=--data-dir '{there}' --max-steps 2")
    assert done.returncode == 0, done.stderr
    assert f"already prepared in {there}/text" in done.stdout


@pytest.mark.parametrize("value", ["0", "two", "2 3", "-1", "2000"])
def test_a_number_of_ranks_that_is_none_stops_make(value: str, tree: Path) -> None:
    done = make(tree, "train", f"NPROC={value}")
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert f"NPROC={value} is not a number of ranks from 1 to 1024" in line
    assert not (tree / "runs").exists()


def test_a_number_of_ranks_starts_so_many(tree: Path) -> None:
    shown = make(tree, "-n", "train", "NPROC=2").stdout
    assert "--standalone --local-addr 127.0.0.1 --nproc-per-node 2 gpt2/train.py" in shown
    assert "torch.distributed" not in make(tree, "-n", "train", NPROC="2").stdout


NODES = {"NNODES": "2", "NODE_RANK": "1", "RDZV": "node0:29500"}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"NNODES": "1"}, "NNODES=1 is no number of nodes from 2 to 1024"),
        ({"NNODES": "two"}, "NNODES=two is no number of nodes"),
        ({"NNODES": ""}, "NODE_RANK=1 has no effect without NNODES=2"),
        ({"NODE_RANK": ""}, "NNODES=2 needs NODE_RANK"),
        ({"RDZV": ""}, "NNODES=2 needs RDZV"),
        ({"NODE_RANK": "2"}, "NODE_RANK=2 is no node of NNODES=2: they are 0 to 1"),
        ({"NODE_RANK": "0 1"}, "NODE_RANK=0 1 is no node of NNODES=2"),
        ({"RDZV": "node0"}, "RDZV=node0 is no host:port such as node0:29500"),
        ({"RDZV": "node0:x1"}, "RDZV=node0:x1 is no host:port"),
        ({"RDZV": "a b:1"}, "RDZV=a b:1 is no host:port"),
    ],
)
def test_settings_of_nodes_that_are_none_stop_make(
    wrong: dict[str, str], said: str, tree: Path
) -> None:
    values = [f"{name}={value}" for name, value in {**NODES, **wrong}.items() if value]
    done = make(tree, "train", *values)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert said in line


def test_settings_of_nodes_start_torchrun_on_this_one(tree: Path) -> None:
    values = [f"{name}={value}" for name, value in NODES.items()]
    shown = make(tree, "-n", "train", "NPROC=8", *values).stdout
    assert "scripts/nodes.py --nnodes 2 --node-rank 1 --nproc 8 --rdzv" in shown
    assert (
        "scripts/nodes.py --nnodes 2 --node-rank 1 --nproc 1 --rdzv"
        in make(tree, "-n", "train", *values).stdout
    )
    assert "nodes.py" not in make(tree, "-n", "train", **NODES).stdout  # of the environment


def started(tree: Path, *before: str) -> subprocess.Popen[str]:
    """make with two ranks, until their first steps are recorded; `before` starts it."""
    assert make(tree, "defconfig-tiny").returncode == 0
    args = "ARGS=--device cpu --max-steps 100000 --checkpoint-interval 0 --log-interval 1"
    process = subprocess.Popen(
        [*before, "make", f"PYTHON={sys.executable}", "NPROC=2", args],
        cwd=tree, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, start_new_session=True,
        env={k: v for k, v in os.environ.items() if not k.startswith("MAKE")},
    )  # fmt: skip
    deadline = time.monotonic() + 90
    while not list(tree.glob("runs/2*/metrics.jsonl")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "no step after 90 s"
        time.sleep(0.1)
    return process


def lines(tree: Path) -> int:
    (path,) = tree.glob("runs/2*/metrics.jsonl")
    return path.read_bytes().count(b"\n")


@pytest.mark.long
def test_ranks_under_nohup_outlive_their_terminal(tree: Path) -> None:
    process = started(tree, "nohup")
    try:
        os.killpg(process.pid, signal.SIGHUP)  # as a terminal that is closed
        time.sleep(1)
        before = lines(tree)
        time.sleep(2)
        assert process.poll() is None
        assert lines(tree) > before
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        said = process.communicate(timeout=60)[0]
    assert '"exit_code": 75' in next(tree.glob("runs/2*/run.json")).read_text(), said


@pytest.mark.long
def test_ranks_start_where_the_host_has_no_name(tree: Path) -> None:
    alone = [
        "unshare",
        "-n",
        "-u",
        "sh",
        "-c",
        'ip link set lo up && hostname no-such-host && "$@"',
    ]
    probe = subprocess.run([*alone, "sh", "true"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip("no rights for a network of its own")
    process = started(tree, *alone, "sh")
    os.killpg(process.pid, signal.SIGTERM)
    process.communicate(timeout=60)


@pytest.mark.slow
def test_without_a_config_a_fitting_one_is_taken_and_none_written(tree: Path) -> None:
    done = make(tree, "train", "ARGS=--check-config")
    # Shakespeare is not prepared in the copy; without a network this is where it may stop.
    assert "no .config: taking defconfigs/gpt2-shakespeare-" in done.stderr
    assert not (tree / ".config").exists()


@pytest.mark.parametrize(
    "value", ["grad-clip", "$(touch owned)", "`touch owned`", "a'b\"c", "; touch owned"]
)
def test_a_value_is_never_executed(value: str, tree: Path) -> None:
    done = make(tree, "explain", "OPTION=" + value.replace("$", "$$"))
    assert not (tree / "owned").exists()
    assert done.returncode == (0 if value == "grad-clip" else 2)


def test_cleaning_spares_data_and_runs(tree: Path) -> None:
    make(tree, "defconfig-tiny")
    (tree / "runs" / "one").mkdir(parents=True)
    assert make(tree, "distclean").returncode == 0
    assert not (tree / ".config").exists()
    assert (tree / "runs" / "one").exists()
    assert (tree / "data" / "text" / "meta.json").exists()


def test_menuconfig_without_a_terminal_names_the_way_out(tree: Path) -> None:
    done = make(tree, "menuconfig")
    assert done.returncode == 2
    assert len([line for line in done.stderr.splitlines() if "error:" in line]) == 1
    assert "make list-defconfigs" in done.stderr


@pytest.mark.slow
def test_the_tools_of_config_run_from_make(tree: Path) -> None:
    assert make(tree, "randconfig", "SEED=3").returncode == 0
    first = (tree / ".config").read_bytes()
    assert make(tree, "alldefconfig").returncode == 0
    assert make(tree, "merge", "FRAGMENTS=defconfigs/tiny").returncode == 0
    assert " N_LAYER 12 -> 1\n" in make(tree, "diffconfig").stdout
    assert make(tree, "alldefconfig").returncode == 0
    assert make(tree, "diffconfig", "A=.config", "B=.config").stdout == ""
    assert make(tree, "randconfig", "SEED=3").returncode == 0
    assert (tree / ".config").read_bytes() == first
    assert make(tree, "alldefconfig").returncode == 0
    merged = make(tree, "merge", "FRAGMENTS=defconfigs/tiny defconfigs/tiny")
    assert (merged.returncode, merged.stderr) == (0, "")
    assert "N_LAYER 12 -> 1 (defconfigs/tiny:5)" in merged.stdout
    assert make(tree, "listnewconfig").stdout == ""
    (tree / ".config").write_text("CONFIG_SEED=1\n")
    asked = make(tree, "oldconfig")  # its input is at its end
    assert asked.returncode == 2
    assert "make olddefconfig" in asked.stderr
    assert (tree / ".config").read_text() == "CONFIG_SEED=1\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    "typed",
    [
        ["randconfig", "SEED={}"],
        ["merge", "FRAGMENTS={}"],
        ["diffconfig", "A={}", "B={}"],
    ],
    ids=lambda typed: typed[0],
)
def test_what_the_tools_are_given_is_never_executed(typed: list[str], tree: Path) -> None:
    for value in ("$(touch owned)", "`touch owned`", "; touch owned", "a'b\"c", "--help"):
        done = make(tree, *(word.replace("{}", value.replace("$", "$$")) for word in typed))
        assert done.returncode == 2, value
        assert "kconf.py: error: " in done.stderr
        assert not (tree / "owned").exists()
        assert not (tree / ".config").exists()


MATRIX = """CONFIG_MATRIX_OPTIMIZERS="adamw"
CONFIG_MATRIX_PRUNING_METHODS="none"
CONFIG_MATRIX_SEEDS="1"
"""


@pytest.mark.slow
def test_a_matrix_from_make(tree: Path) -> None:
    without = make(tree, "matrix-plan")
    assert "no .config: 'make defconfig-gpt2-shakespeare-matrix-cpu'" in without.stderr
    (tree / "defconfigs" / "tiny").write_text(TINY + MATRIX)
    assert make(tree, "defconfig-tiny").returncode == 0
    done = make(tree, "test-matrix", "ARGS=--device cpu --num-threads 1", JOBS="9", OUT="/nowhere")
    assert done.returncode == 0, done.stderr
    assert re.search(r"\[ *1/[0-9]+\] adamw-none-seed1  loss [0-9.]+  [0-9]+ s", done.stdout)
    assert "gpt2/train.py" not in done.stdout  # with V=1
    out = tree / "runs" / "matrix-study"
    assert (out / "cells" / "adamw-none-seed1" / "summary.json").exists()
    assert "1 finished" in make(tree, "matrix-status").stdout
    for value in ("$(touch owned)", "`touch owned`", "; touch owned", "a'b\"c", "--help", ""):
        again = make(tree, "matrix-rerun", "CELLS=" + value.replace("$", "$$"))
        assert again.returncode == 2, value
        assert not (tree / "owned").exists()
    assert make(tree, "matrix-rerun", "CELLS=*").returncode == 0
    assert "1 left" in make(tree, "matrix-status", f"OUT={out}").stdout


@pytest.mark.slow
def test_the_tools_do_not_read_the_environment(tree: Path) -> None:
    names = {"SEED": "x", "FRAGMENTS": "defconfigs/tiny", "A": "none", "B": "none"}
    assert make(tree, "randconfig", **names).returncode == 0
    assert "needs files" in make(tree, "merge", **names).stderr
    assert make(tree, "alldefconfig", **names).returncode == 0
    assert make(tree, "diffconfig", **names).returncode == 0


@pytest.mark.slow
def test_doctor_installs_nothing(tree: Path) -> None:
    done = make(tree, "doctor")
    assert done.returncode == 0, done.stdout
    assert "torch" in done.stdout
    bare = make(tree, "doctor", f"PYTHON={sys.executable} -S")  # no package can be seen
    assert bare.returncode == 2
    assert "MISSING" in bare.stdout
    assert not (tree / ".venv").exists()


def test_habits_from_the_kernel_and_completion(tree: Path) -> None:
    made = make(tree, "tiny_defconfig")
    assert made.returncode == 0, made.stderr
    assert "CONFIG_MAX_STEPS=3" in (tree / ".config").read_text()
    # A shell completes what make knows as a target, which a pattern alone is not.
    assert "\ndefconfig-tiny:" in make(tree, "-qp").stdout
    unknown = make(tree, "defconfig-tinny")
    assert "did you mean tiny" in unknown.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sample"], "sample.py: error: no run yet: 'make' trains one"),
        (["export"], "export.py: error: no run yet: 'make' trains one"),
        (["explain"], "which option? make explain OPTION=learning-rate"),
        (["matrix-plan"], "no .config: 'make defconfig-gpt2-shakespeare-matrix-cpu'"),
        (["report"], "holds no matrix: 'make test-matrix' runs one"),
        (["train", "TIME=5x"], "TIME=5x is not a time: write 90, 90s, 5m or 1h"),
    ],
)
def test_first_errors_say_what_to_do(arguments: list[str], said: str, tree: Path) -> None:
    done = make(tree, *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert "installing" not in done.stderr


def test_the_reader_of_a_pipe_may_leave(tree: Path) -> None:
    command = f"make -s PYTHON='{sys.executable}' list-defconfigs | true"
    done = subprocess.run(
        ["bash", "-c", command], cwd=tree, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stderr == ""


def test_compare_is_given_what_was_typed(tree: Path) -> None:
    make(tree, "defconfig-tiny")
    for typed, words in (
        (("OPTIMIZERS=adamw it's;touch",), 'OPTIMIZERS: no optimizer "it\'s;touch"'),
        (("METHODS=none magnitude", "SPARSITIES=2"), "--target-sparsity: 2 is outside"),
        (("OPTIMIZERS=adamw muon", "SEEDS=1"), "SEEDS=1: give 2 to 100 seeds"),
        (("OPTIMIZERS=adamw muon", "ARGS=--optimizer sgd"), "set the same option: leave one out"),
        (("OPTIMIZERS=adamw muon", "TIME=soon"), "TIME=soon is not a time: write 90"),
        ((), "nothing to compare: OPTIMIZERS="),
    ):
        done = make(tree, "compare", *typed)
        assert done.returncode != 0
        assert words in done.stderr, done.stderr
    assert not list(tree.glob("runs/*"))


def test_watch_is_given_what_was_typed(tree: Path) -> None:
    done = make(tree, "watch", "RUN=it's $(HOME); touch x", "PORT=0")
    assert done.returncode != 0
    assert "RUN=it's " in done.stderr
    assert "; touch x: not a run directory" in done.stderr
    assert not (tree / "x").exists()
    assert "nothing to watch yet" in make(tree, "watch").stderr
    assert "not allowed with argument --run" in make(tree, "watch", "RUN=a", "MATRIX=b").stderr
    assert "x is not a port" in make(tree, "watch", "PORT=x").stderr
