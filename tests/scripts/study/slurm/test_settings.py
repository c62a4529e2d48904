"""Settings of Slurm: what they become, and what is refused with the place that gave it."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpt2.config.errors import UserError
from gpt2.config.options import Options
from gpt2.config.schema import ROOT_TREE
from scripts.study.slurm.settings import SlurmSettings, seconds_of, settings_of
from scripts.study.spec import SLURM_KEYS, from_options
from scripts.study.spec_yaml import from_yaml


def settings(**given: str) -> SlurmSettings:
    raw = from_options(Options(ROOT_TREE))
    raw.texts |= {"RUNNER": "slurm", **{f"SLURM_{key}": value for key, value in given.items()}}
    found = settings_of(raw)
    assert found
    return found


def test_a_matrix_runs_here_unless_it_is_said() -> None:
    assert settings_of(from_options(Options(ROOT_TREE))) is None


def test_every_entry_of_the_menu_is_a_setting() -> None:
    menu = [name for name in Options(ROOT_TREE).names() if name.startswith("MATRIX_SLURM_")]
    assert sorted(menu) == sorted(f"MATRIX_SLURM_{key}" for key in SLURM_KEYS)
    assert sorted(key.lower() for key in SLURM_KEYS) == sorted(SlurmSettings.__annotations__)


def test_the_defaults_are_right() -> None:
    found = settings()
    assert (found.time_limit, found.array, found.gpus, found.signal) == (14400, 16, 1, 180)
    assert (found.partition, found.lines) == ("", ())


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90m", 5400), ("4h", 14400), ("2d", 172800), ("4:30", 16200), ("1:02:03", 3723),
        ("1-12:00:00", 129600), ("2-00:00", 172800), ("4", None), ("4 h", None), ("1:75", None),
        ("", None), ("-1h", None),
    ],
)  # fmt: skip
def test_times(text: str, seconds: int | None) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"TIME_LIMIT": "4"}, "MATRIX_SLURM_TIME_LIMIT: '4' is not a time such as 90m, 4h"),
        ({"TIME_LIMIT": "0h"}, "'0h' is not a time"),
        ({"TIME_LIMIT": "5m"}, "5m is too short: the signal to save comes 180 s .* 9m or more"),
        ({"ARRAY": "0"}, "MATRIX_SLURM_ARRAY: '0' is not a whole number of at least 1"),
        ({"PARTITION": "a b; rm"}, "'a b; rm' is not like a partition of 'sinfo'"),
        ({"MEMORY": "lots"}, "MATRIX_SLURM_MEMORY: 'lots' is not like 32G"),
        ({"CONSTRAINT": "a100\n"}, "is not like a100"),
        ({"SIGNAL": "5"}, "MATRIX_SLURM_SIGNAL: '5' is not a whole number of at least 10"),
        ({"LINES": "/nowhere/x"}, "/nowhere/x cannot be read: No such file"),
    ],
)
def test_what_is_wrong_is_named(given: dict[str, str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        settings(**given)


def test_an_unknown_runner() -> None:
    raw = from_options(Options(ROOT_TREE))
    raw.texts["RUNNER"], raw.where["RUNNER"] = "slrum", "--runner"
    with pytest.raises(UserError, match="--runner: 'slrum' is unknown; there are local, slurm"):
        settings_of(raw)


def test_lines_of_the_site(tmp_path: Path) -> None:
    path = tmp_path / "site"
    path.write_text("# ours\n#SBATCH --mail-type=FAIL\n\n#SBATCH --reservation=x  \n")
    assert settings(LINES=str(path)).lines == (
        "#SBATCH --mail-type=FAIL",
        "#SBATCH --reservation=x",
    )
    path.write_text("#SBATCH --x\nmodule load cuda\n")
    with pytest.raises(UserError, match="no #SBATCH line: 'module load cuda'"):
        settings(LINES=str(path))


def test_a_study_in_a_file_has_them_all(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    keys = "".join(f"slurm-{key.lower().replace('_', '-')}: ''\n" for key in SLURM_KEYS[6:9])
    path.write_text(
        "axes: {optimizer: [adamw]}\nseeds: 1\nrunner: slurm\nslurm-partition: gpu\n"
        f"slurm-time-limit: 2h\nslurm-array: 3\n{keys}"
    )
    found = settings_of(from_yaml(path))
    assert found
    assert (found.partition, found.time_limit, found.array) == ("gpu", 7200, 3)
    path.write_text("axes: {optimizer: [adamw]}\nseeds: 1\nrunner: slurm\nslurm-array: no\n")
    with pytest.raises(UserError, match=r"study.yaml:4: 'no' is not a whole number"):
        settings_of(from_yaml(path))
