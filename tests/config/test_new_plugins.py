"""Two files add a plug-in of each kind, and nothing else: it runs, resumes, is planned and tested.

The plug-ins in tests/support/added are laid into a copy of the program, each beside the others of
its kind.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gpt2.config.errors import Exit
from gpt2.config.typed import PLUGIN_PACKAGES
from tests.support.repository import REPOSITORY

ADDED = REPOSITORY / "tests" / "support" / "added"
SMALL = (
    "--model", "custom", "--n-layer", "2", "--n-head", "2", "--n-embd", "16", "--batch-size", "4",
    "--device", "cpu", "--num-threads", "1", "--sample-tokens", "0", "--data-dir", "data",
)  # fmt: skip
CHOSEN = (
    "--dataset", "counting", "--optimizer", "signum", "--pruning-method", "relative",
    "--tracker", "csv-lines",
)  # fmt: skip
RUN = (
    *SMALL, *CHOSEN, "--max-steps", "8", "--log-interval", "1", "--eval-interval", "4",
    "--checkpoint-interval", "2",
)  # fmt: skip
#: In one process: the run in `killed` goes on, that in `whole` is never disturbed; then a plan.
GOES_ON = """
import sys
from gpt2.train import main
flags = sys.argv[1:]
assert main([*flags, "--run-dir", "killed"]) == 0
assert main([*flags, "--run-dir", "whole"]) == 0
assert main([*flags, "--plan-json"]) == 0
"""


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the program with one plug-in more of each kind."""
    root = tmp_path_factory.mktemp("extended")
    ignored = shutil.ignore_patterns("__pycache__", "vocabulary", ".memory.json")
    for name in ("gpt2", "scripts", "tests"):
        shutil.copytree(REPOSITORY / name, root / name, ignore=ignored)
    for name in ("Kconfig", ".pytest.ini"):
        shutil.copy(REPOSITORY / name, root)
    for choice, package in PLUGIN_PACKAGES.items():
        for path in (ADDED / choice.lower()).glob("*.*"):
            shutil.copy(path, root.joinpath(*package.split(".")))
    return root


def python(
    root: Path, *arguments: str, code: int = 0, **variables: str
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=root,
        env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def test_there_are_two_files_of_each_kind() -> None:
    for choice in PLUGIN_PACKAGES:
        files = [path for path in (ADDED / choice.lower()).iterdir() if path.is_file()]
        assert sorted(path.suffix for path in files) == [".Kconfig", ".py"]
        assert len({path.stem for path in files}) == 1


def test_names_options_and_defaults_are_flags(extended: Path) -> None:
    text = " ".join(python(extended, "gpt2/train.py", "--help-all").stdout.split())
    for choice, name in zip(CHOSEN[::2], CHOSEN[1::2], strict=True):
        values = re.search(rf"\n?  ?{choice} {{([^}}]*)}}", text)
        assert values, choice
        assert name in values[1].split(",")[1:]  # the default is still first
    assert re.search(r"--signum-momentum X [^()]*\(with --optimizer signum\)", text)
    assert "--relative-power X" in text


def values(root: Path, *flags: str) -> dict[str, str]:
    """The options of a configuration as a full .config has them."""
    code = (
        "import sys\n"
        "from gpt2.config.actions import TrainActions\n"
        "from gpt2.config.bind import bind\n"
        "from gpt2.config.cli import parse\n"
        "options = parse('train.py', '', sys.argv[1:], TrainActions)[0]\n"
        "bind(options)\n"
        "print(options.full_text())\n"
    )
    lines = python(root, "-c", code, *flags).stdout.splitlines()
    return dict(re.findall(r'^CONFIG_(\w+)="?([^"]*)', line)[0] for line in lines if "=" in line)


def test_each_brings_its_own_defaults(extended: Path) -> None:
    found = values(extended, *CHOSEN)
    wanted = {
        "BLOCK_SIZE": "12", "DROPOUT": "0.2", "LEARNING_RATE": "1e-4", "WEIGHT_DECAY": "0.05",
        "PRUNING_END": "0.5", "SPARSITY_PATTERN_LAYER": "y", "SIGNUM_MOMENTUM": "0.9",
    }  # fmt: skip
    assert {name: found[name] for name in wanted} == wanted
    # What the run's other choices close stays closed, and the other plug-ins keep their own.
    assert "PRUNING_END" not in values(extended, *CHOSEN, "--pruning-schedule", "step")
    assert values(extended, *SMALL, *CHOSEN)["LEARNING_RATE"] == "2e-3"
    assert values(extended, "--optimizer", "sgd")["LEARNING_RATE"] == "0.1"
    assert values(extended)["BLOCK_SIZE"] == "256"
    refused = python(
        extended, "gpt2/train.py", "--check-config", *CHOSEN, "--shard", "fsdp",
        "--relative-power", "2", code=Exit.CONFIG,
    ).stderr  # fmt: skip
    assert "--shard: 'fsdp' cannot be chosen here: it needs --optimizer adagrad, adam, " in refused
    assert "--relative-power: 2 is outside [0, 1]" in refused


def metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without what depends on the clock."""
    clock = ("elapsed", "time", "tokens_per_second", "peak_host_bytes", "mfu")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in clock} for line in lines]


@pytest.mark.slow
def test_they_run_resume_and_are_planned(extended: Path) -> None:
    train = ("gpt2/train.py", *RUN)
    unprepared = python(extended, *train, "--plan", code=Exit.DATA).stderr
    assert "the vocabulary of counting is known once its text is prepared" in unprepared
    prepare = ("gpt2/prepare_data.py", "--dataset", "counting", "--data-dir", "data")
    assert "(char, 11 ids)" in python(extended, *prepare).stdout
    # Killed in its sixth step, after half of the pruning.
    python(extended, *train, "--run-dir", "killed", code=-9, GPT2_FAULT="step.begin:kill:6")
    out = python(extended, "-c", GOES_ON, *RUN).stdout
    plan = json.loads(out[out.index("\n{\n") :])
    assert (plan["optimizer"], plan["block_size"], plan["steps"]) == ("signum", 12, 8)
    assert plan["fits"]
    assert plan["held"]["optimizer state"] == 4 * plan["parameters"]
    killed, whole = (extended / name for name in ("killed", "whole"))
    assert metrics(killed) == metrics(whole)
    results = json.loads((whole / "summary.json").read_text())
    assert results["steps"] == 8
    assert results["sparsity_reached"] == pytest.approx(0.5, abs=1e-3)
    for run in (killed, whole):
        with (run / "tracker" / "lines.csv").open(newline="", encoding="utf-8") as file:
            tracked = [(int(step), name) for step, name, _ in csv.reader(file)]
        assert {step for step, name in tracked if name == "train/loss"} == set(range(1, 9))


@pytest.mark.long
def test_the_batteries_find_them(extended: Path) -> None:
    """Those of optimizers, pruning methods and corpora, and the checks of every plug-in, pass."""
    names = ("test_conformance", "test_pruned_runs", "test_corpora", "test_plugins")
    files = [str(next((extended / "tests").rglob(f"{name}.py"))) for name in names]
    wanted = "(signum or relative or counting or test_plugins) and not ranks and not precision"
    out = python(
        extended, "-m", "pytest", "-q", "-n", "0", "-rA", "-p", "no:cacheprovider", *files,
        "-k", wanted,
    ).stdout  # fmt: skip
    passed = [line for line in out.splitlines() if line.startswith("PASSED")]
    for test in (
        "test_conforms[resume_is_exact-signum]",
        "test_a_pruned_run_resumes_to_the_same_bits[relative]",
        "test_every_corpus_keeps_the_protocol[counting]",
        "test_every_plugin_is_two_files[gpt2.data.corpora]",
    ):
        assert any(line.endswith(test) for line in passed), test
