"""Rows 13 and 40: run directories with parts missing or damaged, by every entry that reads one."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from gpt2 import evaluate, export, sample
from gpt2.checkpoint import store
from gpt2.config.errors import Exit, UserError
from gpt2.session import exactness
from tests.support import tiny

ENTRIES: tuple[tuple[Any, ...], ...] = (
    (sample.main, "--tokens", "3"),
    (evaluate.main,),
    (export.main, "--format", "dense"),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "run"
    assert tiny.train(data, path, "--max-steps", "4", "--checkpoint-interval", "1") == Exit.OK
    return path


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def newest(run: Path) -> Path:
    return max((run / "checkpoints").glob("step-*"))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def refused(run: Path, more: Sequence[str] = ()) -> set[tuple[Exit, str]]:
    """What the entries say, each with its code; none writes anything."""
    before = sorted(path for path in run.rglob("*") if path.name != "log.txt")
    found = set()
    for entry, *flags in ENTRIES:
        with pytest.raises(UserError) as caught:
            entry(["--run", str(run), *flags, *more])
        (message,) = caught.value.messages
        found.add((caught.value.code, message))
    assert sorted(path for path in run.rglob("*") if path.name != "log.txt") == before
    return found


@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        ("config", remove, "is not a run directory: it has no config"),
        ("config", to_folder, "is not a run directory: it has no config"),
        ("config", lambda path: path.write_bytes(b"\xff\xfe"), "config: cannot be read: it is not"),
        ("run.json", remove, "is not a run directory: it has no run.json"),
        ("run.json", to_folder, "run.json cannot be read: "),
        ("run.json", lambda path: path.write_text('{"data": '), "run.json cannot be read: "),
        ("run.json", lambda path: path.write_bytes(b"\xff"), "run.json cannot be read: "),
    ],
)
def test_what_a_run_says_of_itself(
    name: str, damage: Callable[[Path], Any], said: str, run: Path
) -> None:
    """Row 13: one line that names file or folder, the same of all entries, and code 2."""
    damage(run / name)
    ((code, message),) = refused(run)
    assert code == Exit.CONFIG
    assert said in message
    assert str(run) in message


@pytest.mark.parametrize("content", ["", "{", "\0"])
def test_results_that_cannot_be_read_hide_the_best(content: str, run: Path) -> None:
    """Row 13: --best is found by summary.json; the last checkpoint needs none of it."""
    (run / "summary.json").write_text(content)
    ((code, message),) = refused(run, ["--best"])
    assert code == Exit.CONFIG
    assert f"{run / 'summary.json'} cannot be read" in message
    assert sample.main(["--run", str(run), "--tokens", "3"]) == Exit.OK


@pytest.mark.parametrize("name", ["model.safetensors", "optim.safetensors", "state.json"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    name: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Row 4, for readers: the file is named on the error stream; of the last one left, code 4."""
    flip(newest(run) / name)
    assert evaluate.main(["--run", str(run)]) == Exit.OK
    shown = capsys.readouterr()
    assert shown.out.startswith("step 3, val: loss ")
    line, used = shown.err.splitlines()
    assert str(newest(run) / name) in line
    assert line.endswith("going back to the checkpoint before it")
    assert used.endswith("step 3")
    for step in store.steps(run / "checkpoints"):
        remove(store.folder_of(run / "checkpoints", step) / name)
    ((code, message),) = refused(run)
    assert code == Exit.CHECKPOINT
    assert f"no checkpoint in {run / 'checkpoints'} can be used" in message


@pytest.mark.parametrize("damage", [remove, lambda path: (remove(path), path.write_text("x"))])
def test_a_run_without_checkpoints(damage: Callable[[Path], Any], run: Path) -> None:
    """Row 6, for readers."""
    damage(run / "checkpoints")
    assert refused(run) == {(Exit.CHECKPOINT, f"{run} holds no checkpoint yet")}


def test_a_precision_that_is_none(run: Path) -> None:
    """Row 13: what auto means to evaluate.py is what the run says, if it says something."""
    path = run / "run.json"
    path.write_text(path.read_text().replace('"precision": "fp32"', '"precision": "fp31"'))
    with pytest.raises(
        UserError, match=r"run\.json: precision 'fp31', not one of fp32, "
    ) as caught:
        evaluate.main(["--run", str(run)])
    assert caught.value.code == Exit.CONFIG
    assert evaluate.main(["--run", str(run), "--precision", "fp32"]) == Exit.OK


@pytest.mark.parametrize("value", [None, 3, [], "x", {"torch": 1}])
def test_versions_that_are_none(value: object) -> None:
    """Row 13: what an edited run.json says of them is no reason to fail, at most to warn."""
    now = {"versions": {"torch": "2.13.0"}, "code": "a"} | dict.fromkeys(exactness._SAME, "same")
    said = ["torch 2.13.0, not 1"] if isinstance(value, dict) else []
    assert exactness.changed_conditions({"versions": value}, now) == said


def test_the_same_card_under_another_number_is_no_change() -> None:
    now = dict.fromkeys(exactness._SAME, "same") | {"versions": {}, "code": "a"}
    now["device"] = "cuda:1"
    assert exactness.changed_conditions({"device": "cuda", "device_name": "same"}, now) == []
    found = exactness.changed_conditions({"device": "cpu", "device_name": "other"}, now)
    assert found == ["device cuda, not cpu", "device name same, not other"]


def test_data_that_are_gone(run: Path, data: Path, tmp_path: Path) -> None:
    """Row 26, for evaluate.py: the folder, and the command that makes the data."""
    with pytest.raises(
        UserError, match=r"meta\.json is missing \(no data\): name the folder .*, or make it"
    ) as caught:
        evaluate.main(["--run", str(run), "--data-dir", str(tmp_path / "none")])
    assert caught.value.code == Exit.DATA
    copied = Path(shutil.copytree(data, tmp_path / "data"))
    flip(copied / "text" / "val.bin")
    with pytest.raises(UserError, match=r"val\.bin") as caught:
        evaluate.main(["--run", str(run), "--data-dir", str(copied)])
    assert caught.value.code == Exit.DATA
