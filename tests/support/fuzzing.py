"""Every reader of files, given damaged ones: a UserError with a documented code, or nothing."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import random
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gpt2 import evaluate, export, prepare_data, sample, train
from gpt2.config.errors import Exit, UserError
from gpt2.config.names import flag_of
from gpt2.config.options import Options
from gpt2.config.schema import ROOT_TREE
from gpt2.data.prepare.pipeline import already_prepared
from gpt2.data.tokens import open_split, verify_hashes
from gpt2.files.manifest import DamagedError
from gpt2.weights.foreign import open_foreign
from scripts import flags, kconf, matrix, report, watch
from scripts.study.spec import check_spec, from_config
from scripts.study.spec_yaml import from_yaml
from scripts.watching.view import WatchedMatrix, WatchedRun
from tests.support import tiny
from tests.support.mutations import damaged, spliced_line, text_or_bytes
from tests.support.synthetic import write_matrix

Damage = Callable[[random.Random, bytes], bytes]
#: What an error of the user's may end an entry with; nothing here is a bug, a hang or a want of
#: memory, and nothing diverges.
CODES = (Exit.CONFIG, Exit.DATA, Exit.CHECKPOINT, Exit.MEMORY)
SPEC = """name: rates
options: {max-steps: 5, dataset: text, tokenizer: char}
axes:
  optimizer: [adamw, adamwspam]
  learning-rate: [1e-3, 2e-3]
seeds: 1..3
tuning-seeds: 11 12
jobs: 2
"""


@dataclass(frozen=True)
class Target:
    """A folder that is copied for each try, the files in it that are damaged, and who reads it.

    `vouched`: the manifest beside a damaged file is made to fit, so that its reader sees it.
    """

    name: str
    folder: Path
    files: tuple[str, ...]
    damage: Damage
    read: Callable[[Path], object]
    vouched: bool = False


@dataclass(frozen=True)
class Finding:
    """What came out that may not: enough to see it again."""

    target: str
    seed: str
    file: str
    error: str

    def __str__(self) -> str:
        return f"{self.target} ({self.file}, seed {self.seed}): {self.error}"


def fuzz(target: Target, seed: int, count: int, work: Path) -> list[Finding]:
    """Damage the files of a target `count` times; return what came out that may not, each once."""
    found: dict[str, Finding] = {}
    for number in range(count):
        name = f"{seed}.{number}"
        rng = random.Random(f"{target.name} {name}")
        copy = work / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(target.folder, copy, symlinks=True)
        path = rng.choice(sorted(p for pattern in target.files for p in copy.glob(pattern)))
        path.write_bytes(target.damage(rng, path.read_bytes()))
        if target.vouched:
            vouch(path.parent, path.name)
        if wrong := outcome(target.read, copy):
            place = wrong.splitlines()[-1]
            found.setdefault(place, Finding(target.name, name, path.name, wrong))
    return list(found.values())


def outcome(read: Callable[[Any], object], given: object) -> str | None:
    """Say what came out of a reader of `given` that may not; None when all is well."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = read(given)
    except UserError as error:
        if error.code not in CODES or not all(error.messages):
            return f"a UserError with code {error.code!r}: {error.messages}"
        return None
    except DamagedError:
        return None
    except SystemExit as left:
        return None if left.code in (0, 2) else f"left with {left.code!r}"
    except Exception as error:
        places = [
            f"{Path(frame.filename).name}:{frame.lineno}"
            for frame in traceback.extract_tb(error.__traceback__)
        ]
        way = " > ".join(places[-6:])
        return f"{way}\n{type(error).__name__} at {places[-1]}: {str(error)[:150]!r}"
    if isinstance(code, int) and code not in (0, *Exit):
        return f"exit code {code}"
    return None


def vouch(folder: Path, name: str) -> None:
    """Make the manifest of a folder fit a file that has changed."""
    path = folder / "MANIFEST.json"
    manifest = json.loads(path.read_text())
    data = (folder / name).read_bytes()
    manifest["files"][name] = [len(data), hashlib.sha256(data).hexdigest()]
    path.write_text(json.dumps(manifest))


_WORDS = ("y", "n", "", "-1", "0", "7", "1e400", "nan", "inf", "9" * 40, "auto", "../x", "a'b",
          "$(x)", "\u00e4", "po:lion", "a:b", "a=1,b", "--", "-", "none", "--plan-for",
          "x" * 3000)  # fmt: skip


def fuzz_configs(seed: int, count: int, work: Path) -> list[Finding]:
    """Give random .config files to every tool; return what came out that may not."""
    names = sorted(Options(ROOT_TREE).symbols)
    config = work / ".config"
    tools = (
        *(["savedefconfig"], ["olddefconfig"], ["listnewconfig"], ["diffconfig"]),
        *(["explain", "learning-rate"], ["merge", str(config)], ["diffconfig", str(config)]),
    )
    found: list[Finding] = []
    for number in range(count):
        rng = random.Random(f"configs {seed}.{number}")
        lines = [f"CONFIG_{rng.choice(names)}={_value(rng)}" for _ in range(rng.randint(1, 6))]
        data = ("\n".join(lines) + "\n").encode()
        data = damaged(rng, data) if rng.random() < 0.3 else data
        for tool in (*tools, ["flags"], ["matrix"]):
            config.write_bytes(data)
            if wrong := outcome(_tool, (config, tool)):
                found.append(Finding(" ".join(tool), f"{seed}.{number}", ".config", wrong))
    return found


def _value(rng: random.Random) -> str:
    word = rng.choice(_WORDS)
    return rng.choice([word, f'"{word}"', f'"{word}" # x'])


def _tool(given: tuple[Path, list[str]]) -> object:
    config, words = given
    if words == ["flags"]:
        return flags.flags(config)
    if words == ["matrix"]:
        return check_spec(from_config(config))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["kconf.py", "--config", str(config), *words])
        return kconf.main()


def fuzz_flags(seed: int, count: int, work: Path) -> list[Finding]:
    """Give random flags to every program; return what came out that may not.

    train.py only checks them; the others are pointed at folders that are not there.
    """
    absent = str(work / "absent")
    programs: dict[str, tuple[Callable[[list[str]], int], list[str]]] = {
        "train.py": (train.main, ["--check-config"]),
        "sample.py": (sample.main, ["--run", absent]),
        "evaluate.py": (evaluate.main, ["--run", absent]),
        "export.py": (export.main, ["--run", absent, "--format", "hf", "--out", absent]),
        "prepare_data.py": (prepare_data.main, ["--input", absent]),
        "matrix.py": (matrix.main, ["--out", absent, "--status"]),
        "report.py": (report.main, ["--runs", absent]),
    }
    known = [flag_of(name) for name in Options().names()]
    own = ["--run-dir", "--tokens", "--top-p", "--split", "--best", "--workers", "--jobs", "--to",
           "--max-tokens", "--plan-for", "--resume", "--spec", "--help", "--x", "--"]  # fmt: skip
    found: list[Finding] = []
    for number in range(count):
        for program, (main, last) in programs.items():
            rng = random.Random(f"{program} {seed}.{number}")
            words: list[str] = []
            for _ in range(rng.randint(0, 4)):
                words += [rng.choice([*known, *own]), rng.choice(_WORDS)][: rng.randint(1, 2)]
            if wrong := outcome(main, [*words, *last]):
                found.append(Finding(program, f"{seed}.{number}", " ".join(words)[:200], wrong))
    return found


def targets(root: Path) -> Iterator[Target]:
    """Make one of everything in `root`, and yield who reads it."""
    data = tiny.make_data(root / "data")
    run = root / "run"
    more = ("--max-steps", "2", "--pruning-method", "magnitude", "--target-sparsity", "0.5",
            "--eval-interval", "1", "--checkpoint-interval", "1")  # fmt: skip
    assert tiny.train(data, run, *more) == Exit.OK
    yield from of_data(data)
    yield from of_runs(root, data, run, more)
    yield from of_exports(root, data, run)
    yield from of_matrices(root)


def of_data(data: Path) -> Iterator[Target]:
    def opened(folder: Path) -> None:
        verify_hashes(folder / "text")
        for split in ("train", "val"):
            open_split(folder / "text", split, tiny.BLOCK)

    def prepared(folder: Path) -> None:
        already_prepared(folder / "text", "text", "char", None, None, None)

    for name, read in (("open data", opened), ("already prepared", prepared)):
        yield Target(name, data, ("text/meta.json",), text_or_bytes, read)
    yield Target("token ids", data, ("text/*.bin",), damaged, opened)


def of_runs(root: Path, data: Path, run: Path, more: tuple[str, ...]) -> Iterator[Target]:
    step = "checkpoints/step-00000002"
    going_on = root / "going-on"
    shutil.copytree(run, going_on)
    (going_on / "summary.json").unlink()
    words = ("--device", "cpu", "--num-threads", "1")

    def resumed(folder: Path) -> int:
        return tiny.train(data, folder, *more)

    def sampled(folder: Path) -> int:
        flags = ["--run", str(folder), "--prompt", "to be", "--tokens", "2", *words]
        return sample.main(flags)

    def best(folder: Path) -> int:
        return evaluate.main(["--run", str(folder), "--best", *words])

    def exported(folder: Path) -> int:
        return export.main(["--run", str(folder), "--format", "sparse"])

    def reported(folder: Path) -> int:
        return report.main(["--runs", str(folder), "--to", str(folder / "report")])

    def watched_run(folder: Path) -> str:
        return watch.body_of(lambda: WatchedRun(folder), "")

    def from_it(folder: Path) -> int:
        return tiny.train(data, folder / "other", "--init-from", str(folder), "--max-steps", "1")

    records = ("run.json", "summary.json")
    yield Target("resume state", going_on, (f"{step}/state.json",), text_or_bytes, resumed, True)
    yield Target("resume tensors", going_on, (f"{step}/*.safetensors",), damaged, resumed, True)
    yield Target("resume manifest", going_on, (f"{step}/MANIFEST.json",), text_or_bytes, resumed)
    yield Target("resume record", going_on, ("run.json",), text_or_bytes, resumed)
    yield Target("resume metrics", going_on, ("metrics.jsonl",), spliced_line, resumed)
    yield Target("resume texts", going_on, ("config", "log.txt", "command"), damaged, resumed)
    yield Target("sample", run, records, text_or_bytes, sampled)
    yield Target("sample config", run, ("config",), damaged, sampled)
    yield Target("evaluate best", run, records, text_or_bytes, best)
    yield Target("export", run, records, text_or_bytes, exported)
    yield Target("report of a run", run, records, text_or_bytes, reported)
    yield Target("report of metrics", run, ("metrics.jsonl",), spliced_line, reported)
    yield Target("report of config", run, ("config", "command"), damaged, reported)
    yield Target("watch of a run", run, records, text_or_bytes, watched_run)
    yield Target("watch of metrics", run, ("metrics.jsonl",), spliced_line, watched_run)
    yield Target("init from a run", run, ("run.json", "config"), damaged, from_it)


def of_exports(root: Path, data: Path, run: Path) -> Iterator[Target]:
    def sampled(folder: Path) -> int:
        return sample.main(
            ["--run", str(folder), "--tokens", "2", "--device", "cpu", "--num-threads", "1"]
        )

    def foreign(folder: Path) -> object:
        found = open_foreign(folder)
        return [found.tensors[name] for name in found.tensors]

    for form in ("sparse", "dense", "hf"):
        out = root / form
        with contextlib.redirect_stdout(io.StringIO()):
            assert export.main(["--run", str(run), "--format", form, "--out", str(out)]) == 0
        if form == "hf":
            yield Target("foreign config", out, ("config.json",), text_or_bytes, foreign)
            yield Target("foreign weights", out, ("model.safetensors",), damaged, foreign)
            continue
        files = ("export.json", "run.json")
        yield Target(f"{form} record", out, files, text_or_bytes, sampled, True)
        yield Target(f"{form} manifest", out, ("MANIFEST.json",), text_or_bytes, sampled)
        yield Target(f"{form} weights", out, ("*.safetensors",), damaged, sampled, True)


def of_matrices(root: Path) -> Iterator[Target]:
    made = write_matrix(root / "matrix", cells=2, seeds=2)
    (made / ".lock").write_text("")
    names = [cell["name"] for cell in json.loads((made / "matrix.json").read_text())["cells"]]
    spec = {
        "format": 1, "name": "a", "axes": {"optimizer": ["adamw"]}, "seeds": [1, 2], "threads": 1,
        "base": {}, "tuning": None, "left_out": [], "shared": [], "jobs": 1, "gpus": [],
        "timeout": None, "wait": 0, "keep": "last",
        "cells": [
            {"name": name, "label": name[:-2], "kind": name[:-2], "seed": 1, "tuning": False,
             "point": {"optimizer": "adamw"}, "flags": ["--seed", "1"], "batch": [4, 1],
             "steps": 10, "max_time": 0, "eval_interval": 0, "checkpoint_bytes": 1}
            for name in names
        ],
    }  # fmt: skip
    (made / "matrix.json").write_text(json.dumps(spec))
    event = {"cell": names[0], "time": "t", "kind": "diverged", "exit_code": 5, "tail": "a",
             "reason": "b", "retry": False, "seconds": 2.5, "shared": False}  # fmt: skip
    kinds = ("started", "failed", "again", "started", "finished")
    (made / "journal.jsonl").write_text(
        "".join(json.dumps({"event": kind, **event}) + "\n" for kind in kinds)
    )
    probe = {"step_seconds": 1.0, "evaluation_seconds": 1.0, "other_seconds": 1.0,
             "peak_host_bytes": 1, "peak_device_bytes": 0}  # fmt: skip
    (made / "probes.json").write_text(json.dumps({names[0][:-2]: probe}))
    (made / "spec.yaml").write_text(SPEC)
    shutil.rmtree(made / "cells" / names[-1])

    def status(folder: Path) -> int:
        return matrix.main(["--spec", str(root / "matrix" / "spec.yaml"), "--out", str(folder),
                            "--status"])  # fmt: skip

    def rerun(folder: Path) -> int:
        return matrix.main(["--spec", str(root / "matrix" / "spec.yaml"), "--out", str(folder),
                            "--rerun", "*"])  # fmt: skip

    def reported(folder: Path) -> int:
        return report.main(["--out", str(folder)])

    def watched_matrix(folder: Path) -> str:
        return watch.body_of(lambda: WatchedMatrix(folder), names[0])

    def specified(folder: Path) -> object:
        return check_spec(from_yaml(folder / "spec.yaml"))

    results = ("cells/*/summary.json", "cells/*/run.json")
    for name, read in (
        ("status", status),
        ("rerun", rerun),
        ("report", reported),
        ("watch", watched_matrix),
    ):
        yield Target(f"matrix {name}", made, ("matrix.json",), text_or_bytes, read)
        yield Target(f"journal {name}", made, ("journal.jsonl",), spliced_line, read)
    yield Target("probes", made, ("probes.json",), text_or_bytes, status)
    yield Target("cells", made, results, text_or_bytes, status)
    yield Target("report of cells", made, results, text_or_bytes, reported)
    yield Target("spec", made, ("spec.yaml",), damaged, specified)
