"""Every remedy that a message names is run to its success, here or by the test of its row."""

from __future__ import annotations

import ast
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt2 import evaluate, export, prepare_data, sample, train
from gpt2.config.errors import Exit, UserError
from gpt2.data.tokenizer import CharTokenizer
from gpt2.machine import device
from gpt2.run_dir import resume
from gpt2.session import session
from scripts import kconf, report
from tests.conftest import Arm
from tests.run_dir.test_resume import train_killed
from tests.support import tiny
from tests.support.messages import names_in, remedies

pytestmark = pytest.mark.slow

TABLE = Path(__file__).with_name("remedies.txt")


def table() -> list[tuple[str, str, str]]:
    """Room, names and test of every row; what is behind the test are the first words."""
    lines = TABLE.read_text(encoding="utf-8").splitlines()
    rows = [line.split(" | ") for line in lines if not line.startswith("#")]
    return [(row[0], row[1], row[2]) for row in rows]


def test_every_remedy_has_a_row_and_every_row_a_remedy() -> None:
    said = Counter((one.room, one.names) for one in remedies())
    rows = Counter((room, names) for room, names, _ in table())
    without = [o.text for o in remedies() if (o.room, o.names) in said - rows]
    assert said - rows == Counter(), f"name the test that runs it in {TABLE.name}: {without}"
    assert rows - said == Counter(), f"nothing says this any more: remove it from {TABLE.name}"


def test_the_tests_of_the_table_exist_and_the_others_have_a_reason() -> None:
    functions: dict[str, set[str]] = {}
    for room, names, test in table():
        if test.startswith("outside: "):
            assert len(test.split()) > 3, (room, names)
            continue
        path, _, name = test.partition("::")
        if path not in functions:
            tree = ast.parse((tiny.REPOSITORY / path).read_text(encoding="utf-8"))
            functions[path] = {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}
        assert name in functions[path], test


def test_names_are_those_of_the_way_out_alone() -> None:
    assert names_in("--out \0 is there; use --force") == "--force"
    assert names_in("--seed \0: it is no number") == ""
    assert names_in("no run yet: 'make' trains one") == "make"


Run = Callable[[], object]


def refused(run: Run, *names: str, code: Exit = Exit.CONFIG) -> str:
    """Return the message that `run` ends with; it names all of `names`."""
    with pytest.raises(UserError) as caught:
        run()
    assert caught.value.code == code
    message = "\n".join(caught.value.messages)
    for name in names:
        assert name in message, message
    return message


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "finished"
    assert tiny.train(data, run, "--max-steps", "2") == Exit.OK
    return run


@pytest.mark.parametrize(
    ("wrong", "names", "right"),
    [
        ("--min-lr 1", "auto", "--min-lr auto"),
        ("--optimizer po:soap", "--learning-rate", "--optimizer po:soap --learning-rate 1e-3"),
        (
            "--pruning-method magnitude --pruning-start 0.9",
            "--pruning-end",
            "--pruning-method magnitude --pruning-start 0.9 --pruning-end 1",
        ),
        (
            "--pruning-method magnitude --sparsity-pattern 2:4 --target-sparsity 0.9",
            "--target-sparsity",
            "--pruning-method magnitude --sparsity-pattern 2:4 --target-sparsity 0.5",
        ),
        ("--num-epochs 0", "--max-steps", "--num-epochs 0 --max-steps 3"),
        ("--num-epochs 0", "--max-time", "--num-epochs 0 --max-time 60"),
        ("--optimizer po:soap --learning-rate 1e-3 --opt-arg x", "--opt-args", "--learning-rate 1"),
        ("--host-memory-limit 1M", "auto", "--host-memory-limit auto"),
    ],
)
def test_options(wrong: str, names: str, right: str) -> None:
    check = "--check-config"
    refused(lambda: train.main([check, *wrong.split()]), names)
    assert train.main([check, *right.split()]) == Exit.OK


def test_a_folder_whose_name_is_not_utf_8(data: Path, tmp_path: Path) -> None:
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/lat\xe9")
    shutil.copytree(data, odd)
    said = refused(lambda: train.main(["--check-config", "--data-dir", odd]), "ln -s")
    assert "UTF-8" in said
    os.symlink(odd, tmp_path / "plain")
    assert tiny.train(tmp_path / "plain", tmp_path / "run", "--max-steps", "1") == Exit.OK


@pytest.fixture
def prepared(tmp_path: Path) -> Callable[..., int]:
    """Prepare into a folder of the test: flags in one text, where TEXT is a file of a text."""
    text = tmp_path / "text.txt"
    text.write_text("".join(f"line {n} of a text, café.\n" for n in range(400)), "utf-8")

    def prepare(flags: str, to: str = "data") -> int:
        words = [word.replace("TEXT", str(text)) for word in shlex.split(flags)]
        return prepare_data.main([*words, "--data-dir", str(tmp_path / to)])

    return prepare


OWN = "--dataset text --input TEXT"


@pytest.mark.parametrize(
    ("wrong", "names", "right"),
    [
        ("--dataset shakespeare --tokenizer char", "--dataset", "--dataset shakespeare-char"),
        ("--dataset shakespeare-char --tokenizer gpt2", "--dataset", "--dataset shakespeare"),
        ("--dataset text", "--input", OWN),
        (
            f"{OWN} --tokenizer char --end-of-text token",
            "--tokenizer gpt2",
            f"{OWN} --tokenizer gpt2 --end-of-text token",
        ),
        ("--dataset tinystories --tokenizer char", "--dataset text", f"{OWN} --tokenizer char"),
        ("--dataset tinystories --input FOLDER", "--dataset text", "--dataset text --input FOLDER"),
        ("--dataset shakespeare-char --input TEXT", "--dataset text --input", OWN),
        ("--dataset shakespeare --input FOLDER --force", "--dataset text", OWN),
        (f"{OWN} --adopt FOLDER", "give one", OWN),
        (f"{OWN} --tokenizer-backend gigatoken", "tiktoken", f"{OWN} --tokenizer-backend tiktoken"),
        ("--dataset text --adopt FOLDER --max-tokens 9", "--max-tokens", f"{OWN} --max-tokens 500"),
        ("--dataset text --input -", "FILE.txt", OWN),
    ],
)
def test_a_preparation(
    wrong: str, names: str, right: str, prepared: Callable[..., int], tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    shutil.copy(tmp_path / "text.txt", folder)
    wrong, right = (flags.replace("FOLDER", str(folder)) for flags in (wrong, right))
    with pytest.raises(UserError, match=re.escape(names)):
        prepared(wrong)
    assert prepared(right) == Exit.OK


def test_characters_of_nanogpt_are_prepared_as_text(
    prepared: Callable[..., int], tmp_path: Path
) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir()
    ids = np.random.default_rng(0).integers(0, 65, 2000).astype(np.uint16)
    for name in ("train.bin", "val.bin"):
        ids.tofile(folder / name)
    (folder / "meta.pkl").write_bytes(b"never opened")
    tokens = ("--dataset text", "--tokenizer char")
    for corpus in ("text --tokenizer gpt2", "shakespeare-char"):
        wrong = f"--dataset {corpus} --adopt {folder}"
        refused(lambda wrong=wrong: prepared(wrong), *tokens, code=Exit.DATA)  # type: ignore[misc]
    assert prepared(f"{OWN} --tokenizer char") == Exit.OK


def test_another_text_needs_force(prepared: Callable[..., int], tmp_path: Path) -> None:
    assert prepared(f"{OWN} --tokenizer char") == Exit.OK
    names = ("add --tokenizer char to use it", "--force")
    refused(lambda: prepared(f"{OWN} --tokenizer gpt2"), *names, code=Exit.DATA)
    assert prepared(f"{OWN} --tokenizer char") == Exit.OK
    assert prepared(f"{OWN} --tokenizer gpt2 --force") == Exit.OK


def test_a_place_for_data(
    prepared: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("a file", "utf-8")
    wrong = lambda: prepared(OWN, to="file/data")  # noqa: E731
    refused(wrong, "--data-dir", code=Exit.DATA)
    with monkeypatch.context() as patch:
        usage = shutil.disk_usage(tmp_path)
        patch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=4000))
        names = ("--max-tokens", "--data-dir")
        refused(lambda: prepared(f"{OWN} --tokenizer char"), *names, code=Exit.DATA)
        assert prepared(f"{OWN} --tokenizer char --max-tokens 500") == Exit.OK
    assert prepared(f"{OWN} --tokenizer char", to="another") == Exit.OK


def test_characters_a_tokenizer_cannot_have(prepared: Callable[..., int], tmp_path: Path) -> None:
    every = "".join(map(chr, [*range(0x20, 0xD800), *range(0xE000, 0x13000)]))
    (tmp_path / "text.txt").write_text(every + every, "utf-8")
    refused(lambda: prepared(f"{OWN} --tokenizer char"), "--tokenizer gpt2", code=Exit.DATA)
    assert prepared(f"{OWN} --tokenizer gpt2") == Exit.OK
    refused(lambda: CharTokenizer("abc").encode("abd"), "leave it out", code=Exit.DATA)
    assert len(CharTokenizer("abc").encode("ab")) == 2


def test_files_of_the_repository_come_back_from_it(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    git = ["git", "-c", "safe.directory=*"]
    subprocess.run([*git, "clone", "-q", "--shared", str(tiny.REPOSITORY), str(clone)], check=True)
    for folder in ("gpt2/data/vocabulary", "gpt2/data/shakespeare"):
        file = max((clone / folder).iterdir(), key=lambda path: path.stat().st_size)
        before = file.read_bytes()
        file.write_bytes(b"damaged")
        subprocess.run([*git, "-C", str(clone), "checkout", "--", folder], check=True)
        assert file.read_bytes() == before


def test_a_context_longer_than_the_text(data: Path, tmp_path: Path) -> None:
    more = ("--max-steps", "1", "--block-size")
    wrong = lambda: tiny.train(data, tmp_path / "run", *more, "2000")  # noqa: E731
    refused(wrong, "--block-size", code=Exit.DATA)
    assert tiny.train(data, tmp_path / "run", *more, "8") == Exit.OK


def test_a_text_shorter_than_a_context_is_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in.txt").write_text("to be or not to be. " * 20)
    given = ["--input", str(tmp_path / "in.txt"), "--data-dir", str(tmp_path), "--force"]
    assert prepare_data.main([*given, "--tokenizer", "char"]) == Exit.OK
    (line,) = capsys.readouterr().err.splitlines()
    tokens = re.search(r"warning: (\d+) training tokens, and one sequence of the default", line)
    assert tokens, line
    below = ("--max-steps", "1", "--block-size", str(int(tokens[1]) - 1), "--batch-size", "1")
    assert tiny.train(tmp_path, tmp_path / "run", *below) == Exit.OK
    (tmp_path / "in.txt").write_text("to be or not to be. " * 100)
    assert prepare_data.main([*given, "--tokenizer", "char"]) == Exit.OK
    assert "warning" not in capsys.readouterr().err


def command_in(message: str, before: str) -> list[str]:
    """The command that a message names after the word `before`."""
    return shlex.split(message.partition(before)[2])


@pytest.mark.parametrize("damage", ["truncated", "changed", "format", "missing"])
def test_damaged_data_are_made_anew_by_the_command_that_is_named(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny.REPOSITORY)
    folder = tmp_path / "shakespeare-char"
    assert prepare_data.main(["--dataset", folder.name, "--data-dir", str(tmp_path)]) == Exit.OK
    file, meta = folder / "train.bin", folder / "meta.json"
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:-2])
    elif damage == "changed":
        np.fromfile(file, "<u2")[::-1].tofile(file)
    elif damage == "format":
        meta.write_text(json.dumps(json.loads(meta.read_text("utf-8")) | {"format": 99}))
    else:
        meta.unlink()
    flags = ["--dataset", folder.name, *tiny.flags(tmp_path, tmp_path / "run", "--max-steps", "1")]
    at = flags.index("--dataset", 1)
    flags = [*flags[:at], *flags[at + 4 :]]
    said = refused(lambda: train.main(flags), code=Exit.DATA)
    words = command_in(said, "again with: ") or command_in(said, "by --data-dir, or make it with: ")
    if damage == "format":
        assert "prepare the data again with --force" in said
        words = [sys.executable, "gpt2/prepare_data.py", "--dataset", folder.name]
        words += ["--data-dir", str(tmp_path), "--force"]
    assert subprocess.run(words, capture_output=True, check=False).returncode == 0, said
    assert train.main(flags) == Exit.OK


def test_evaluations_find_their_data_and_precision(
    data: Path, finished: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    other = tiny.make_data(tmp_path / "other", characters=700)
    given = ["--run", str(run), "--device", "cpu"]
    refused(lambda: evaluate.main([*given, "--data-dir", str(other)]), "--data-dir", code=Exit.DATA)
    assert evaluate.main([*given, "--data-dir", str(data)]) == Exit.OK
    record = json.loads((run / "run.json").read_text("utf-8"))
    (run / "run.json").write_text(json.dumps(record | {"precision": "fp9"}), "utf-8")
    refused(lambda: evaluate.main(given), "--precision")
    assert evaluate.main([*given, "--precision", "fp32"]) == Exit.OK


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_a_device_that_is_not_there(
    name: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in (device.torch.cuda, device.torch.backends.mps):
        monkeypatch.setattr(kind, "is_available", lambda: False)
    more = ("--max-steps", "1", "--device")
    refused(lambda: tiny.train(data, tmp_path / "run", *more, name), "--device auto")
    assert tiny.train(data, tmp_path / "run", *more, "auto") == Exit.OK


@pytest.mark.parametrize(
    "smaller",
    [
        "--block-size 4",
        "--n-layer 1",
        "--loss chunked",
        "--precision fp32",
        "--batch-size 2 --gradient-accumulation 2",
        "--weight-decay 0",
    ],
)
def test_what_needs_less_or_always_works(smaller: str, data: Path, tmp_path: Path) -> None:
    more = ("--max-steps", "1", *smaller.split())
    assert tiny.train(data, tmp_path / "run", *more) == Exit.OK


@pytest.mark.parametrize("fault", ["step.loss:nan:*", "step.grad:inf:*"])
def test_a_run_that_diverged(fault: str, arm: Arm, data: Path, tmp_path: Path) -> None:
    names = ("--learning-rate", "--warmup-steps", "--run-dir")
    arm(fault)
    more = ("--max-steps", "3", "--nonfinite", "abort")
    wrong = lambda: tiny.train(data, tmp_path / "run", *more)  # noqa: E731
    refused(wrong, *names, code=Exit.DIVERGED)
    arm("")
    lower = ("--learning-rate", "1e-4", "--warmup-steps", "2")
    assert tiny.train(data, tmp_path / "new", *more, *lower) == Exit.OK


def test_plans(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = tiny.flags(data, tmp_path / "run", "--max-steps", "1", "--plan", "--device", "auto")
    assert train.main(flags) == Exit.OK
    assert "--plan-for 24G" in capsys.readouterr().out
    assert train.main([*flags, "--plan-for", "24G"]) == Exit.OK
    huge = [*flags, "--n-embd", "65536", "--n-layer", "1000", "--plan-for", "1G"]
    train.main(huge)
    assert "smaller --model" in capsys.readouterr().out
    assert train.main([*flags, "--plan-for", "1G"]) == Exit.OK
    assert not (tmp_path / "run").exists()


def test_batches_that_a_run_keeps(finished: Path) -> None:
    config = resume.load_config(finished)
    wrong = lambda: resume.keep_effective_batch(config, finished, ranks=2)  # noqa: E731
    assert "give --batch-size 2" in refused(wrong, "--batch-size")
    kept = resume.keep_effective_batch(resume.with_batch(config, 2), finished, ranks=2)
    assert kept.train.batch_size * kept.train.gradient_accumulation * 2 == 4


def test_folders_of_runs(
    data: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, new = ("--max-steps", "1"), str(tmp_path / "new")
    run = Path(shutil.copytree(finished, tmp_path / "run"))

    def begun(run_dir: Path | str, *more: str) -> int:
        return tiny.train(data, Path(run_dir), *one, *more)

    assert f"--init-from {run}" in refused(lambda: begun(run), "--init-from")
    assert begun(new, "--init-from", str(run)) == Exit.OK
    refused(lambda: begun(run, "--no-resume"), "--run-dir")
    assert begun(tmp_path / "b", "--no-resume") == Exit.OK
    without = [w for w in tiny.flags(data, run, *one) if w not in ("--run-dir", str(run))]
    refused(lambda: train.main([*without, "--resume"]), "--run-dir")
    unfinished = tmp_path / "unfinished"
    train_killed(monkeypatch, 1, data, unfinished, "--max-steps", "3")
    refused(lambda: tiny.train(data, unfinished, "--max-steps", "9"), "--run-dir")
    assert tiny.train(data, tmp_path / "c", "--max-steps", "2") == Exit.OK
    other = tiny.make_data(tmp_path / "other", characters=700)
    refused(lambda: tiny.train(other, unfinished, "--max-steps", "3"), "--run-dir")
    assert tiny.train(other, tmp_path / "d", "--max-steps", "2") == Exit.OK
    assert tiny.train(data, unfinished, "--max-steps", "3", "--resume") == Exit.OK


def test_a_run_of_another_corpus_says_its_whole_command(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny.REPOSITORY)
    run = tmp_path / "run"
    killed = tiny.train_process(data, run, "--max-steps", "3", fault="step.begin:kill:2")
    assert killed.returncode == -9
    begun = (run / "command").read_text("utf-8")
    (run / "command").write_text(begun.replace(f"--run-dir {run}", ""), "utf-8")
    wrong = ["--run-dir", str(run), "--dataset", "tinystories", "--data-dir", str(tmp_path)]
    words = command_in(refused(lambda: train.main(wrong), "--dataset", code=Exit.DATA), "flags: ")
    assert subprocess.run(words, capture_output=True, check=False).returncode == 0
    assert (run / "summary.json").exists()


def test_what_a_finished_or_equal_run_says_next(
    data: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    given = ["--run", str(finished), "--device", "cpu"]
    assert evaluate.main(given) == Exit.OK
    assert sample.main([*given, "--tokens", "2", "--prompt", "to"]) == Exit.OK
    runs = tmp_path / "runs"
    for module in (resume, session):
        monkeypatch.setattr(module, "RUNS", runs)
    more = ("--max-steps", "3", "--checkpoint-interval", "1")
    train_killed(monkeypatch, 1, data, runs / "begun", *more)
    capsys.readouterr()
    assert tiny.train(data, tmp_path / "second", *more) == Exit.OK
    (line,) = [x for x in capsys.readouterr().out.splitlines() if "an unfinished run" in x]
    path = line.partition("--run-dir ")[2].split()[0]
    assert tiny.train(data, Path(path), *more) == Exit.OK


def test_data_of_another_tokenizer(data: Path, tmp_path: Path) -> None:
    more = ("--max-steps", "1", "--tokenizer")
    wrong = lambda: tiny.train(data, tmp_path / "run", *more, "gpt2")  # noqa: E731
    refused(wrong, "--tokenizer char", "--force", code=Exit.DATA)
    assert tiny.train(data, tmp_path / "run", *more, "char") == Exit.OK


@pytest.mark.parametrize(
    ("wrong", "names", "right"),
    [
        ("--sparsity-pattern 2:4 --n-embd 18", "choose another", "--sparsity-pattern layer"),
        ("--pruning-interval 50", "auto", "--pruning-interval auto"),
    ],
)
def test_pruning(wrong: str, names: str, right: str, data: Path, tmp_path: Path) -> None:
    more = ("--max-steps", "4", "--pruning-method", "magnitude")
    refused(lambda: tiny.train(data, tmp_path / "run", *more, *wrong.split()), names)
    assert tiny.train(data, tmp_path / "run", *more, *right.split()) == Exit.OK


def test_exports(finished: Path, tmp_path: Path, data: Path) -> None:
    out = ["--run", str(finished), "--format", "dense", "--out", str(tmp_path / "out")]
    assert export.main(out) == Exit.OK
    refused(lambda: export.main(out), "--force")
    assert export.main([*out, "--force"]) == Exit.OK


def test_an_export_of_an_unfinished_run_is_made_again(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, more = tmp_path / "run", ("--max-steps", "3", "--checkpoint-interval", "1")
    train_killed(monkeypatch, 2, data, run, *more)
    out = ["--run", str(run), "--format", "dense"]
    assert export.main(out) == Exit.OK
    assert "--force exports it again" in capsys.readouterr().out
    assert tiny.train(data, run, *more) == Exit.OK
    assert export.main([*out, "--force"]) == Exit.OK


def flags_named(message: str, before: str) -> list[str]:
    """The flags with values that follow the words `before` in a message."""
    return re.findall(r"--[a-z-]+|\b\d+\b|\bcustom\b", message.partition(before)[2])


def test_weights_that_do_not_fit(data: Path, finished: Path, tmp_path: Path) -> None:
    start = ("--max-steps", "1", "--init-from", str(finished))

    def begun(*more: str, to: str = "run") -> Any:
        return tiny.train(data, tmp_path / to, *start, *more)

    said = refused(lambda: begun("--n-layer", "3"), "--model custom")
    named = flags_named(said, "or --model custom")
    assert begun("--model", "custom", *named) == Exit.OK
    said = refused(lambda: begun("--block-size", "16", to="b"), "--block-size 8")
    assert begun("--block-size", "8", to="b") == Exit.OK
    refused(lambda: begun("--no-bias", to="c"), "give --bias")
    assert begun("--bias", to="c") == Exit.OK
    bare = tmp_path / "bare"
    assert tiny.train(data, bare, "--max-steps", "1", "--no-bias") == Exit.OK
    start = ("--max-steps", "1", "--init-from", str(bare))
    refused(lambda: begun(to="d"), "give --no-bias")
    assert begun("--no-bias", to="d") == Exit.OK


def test_a_record_of_weights_that_is_damaged(
    data: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = ("--max-steps", "3", "--init-from", str(finished))
    run = tmp_path / "run"
    train_killed(monkeypatch, 1, data, run, *more)
    whole = (run / "run.json").read_text("utf-8")
    (run / "run.json").write_text(json.dumps(json.loads(whole) | {"init_from": {}}), "utf-8")
    refused(lambda: tiny.train(data, run, *more), "restore it, or start again")
    (run / "run.json").write_text(whole, "utf-8")
    assert tiny.train(data, run, *more) == Exit.OK


def tool(monkeypatch: pytest.MonkeyPatch, config: Path, *words: str) -> int:
    """Run a tool of make as make does."""
    monkeypatch.setattr(sys, "argv", ["kconf.py", "--config", str(config), *words])
    return kconf.main()


def test_tools_of_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config, small = tmp_path / ".config", tmp_path / "small"
    small.write_text("CONFIG_BATCH_SIZE=3\n", "utf-8")

    def run(*words: str) -> int:
        return tool(monkeypatch, config, *words)

    refused(lambda: run("savedefconfig"), "make menuconfig")
    refused(lambda: run("menuconfig"), "make list-defconfigs", "make olddefconfig")
    refused(lambda: run("merge"), "make merge FRAGMENTS=")
    refused(lambda: run("diffconfig"), "make diffconfig A=FILE B=FILE")
    refused(lambda: run("randconfig", "x"), "make randconfig SEED=1")
    assert run("list-defconfigs") == Exit.OK
    assert run("olddefconfig") == Exit.OK
    assert run("savedefconfig") == Exit.OK
    assert run("merge", str(small)) == Exit.OK
    assert run("diffconfig", str(small), str(config)) == Exit.OK
    assert run("randconfig", "1") == Exit.OK
    assert "make randconfig SEED=1" in capsys.readouterr().out
    assert run("defconfig", "gpt2-shakespeare-char-cpu") == Exit.OK
    config.write_text(config.read_text("utf-8").replace("NUM_EPOCHS=", "NO_SUCH_THING="), "utf-8")
    assert run("olddefconfig") == Exit.OK  # drops what it does not know
    refused(lambda: run("merge", str(config), "/no/such/file"))
    config.write_text("CONFIG_BATCH_SIZE=3\n", "utf-8")
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    refused(lambda: run("oldconfig"), "make olddefconfig")
    assert run("olddefconfig") == Exit.OK


def test_reports(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "no-matrix"
    folder.mkdir()
    refused(lambda: report.main(["--out", str(folder)]), "--runs")
    assert report.main(["--runs", str(finished), "--to", str(tmp_path / "page")]) == Exit.OK
    (tmp_path / "file").write_text("a file", "utf-8")
    wrong = ["--runs", str(finished), "--to", str(tmp_path / "file" / "page")]
    refused(lambda: report.main(wrong), "--to")
