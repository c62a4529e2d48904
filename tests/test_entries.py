"""sample.py and evaluate.py over a run."""

from __future__ import annotations

import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from gpt2 import evaluate, prepare_data, sample
from gpt2.config.bind import bind
from gpt2.config.errors import Exit, UserError
from gpt2.config.options import Options
from gpt2.model import generate
from gpt2.session import attempt
from gpt2.train import main
from gpt2.weights.trained import load_trained
from tests.support import tiny


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tiny.make_data(tmp_path_factory.mktemp("data"))
    path = tmp_path_factory.mktemp("runs") / "run"
    # A rate that grows the loss again, so that the best checkpoint is not the last.
    more = (
        "--max-steps",
        "12",
        "--eval-interval",
        "3",
        "--learning-rate",
        "0.3",
        "--save-every-best",
    )
    assert tiny.train(data, path, *more, "--lr-schedule", "constant") == Exit.OK
    return path


@pytest.mark.parametrize("entry", [evaluate, sample])
def test_the_run_that_is_taken_is_named_beside_the_text(
    entry: ModuleType, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "latest").symlink_to(run)
    monkeypatch.chdir(run.parents[1])
    more = ["--prompt", "to", "--tokens", "2"] if entry is sample else []
    assert entry.main(["--run", str(tmp_path / "latest"), *more]) == Exit.OK
    shown = capsys.readouterr()
    name = f"{run.parent.name}/run, step 12"
    assert shown.err.splitlines()[0] == name
    assert name not in shown.out


def test_evaluate_repeats_the_result(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = json.loads((run / "summary.json").read_text())
    assert evaluate.main(["--run", str(run)]) == Exit.OK
    out = capsys.readouterr().out
    assert f"step 12, val: loss {summary['val_loss']:.6f}" in out
    assert f"{summary['bits_per_byte']:.6f} bits per byte" in out
    assert evaluate.main(["--run", str(run), "--best"]) == Exit.OK
    best = summary["best"]
    assert f"step {best['step']}, val: loss {best['val_loss']:.6f}" in capsys.readouterr().out
    assert evaluate.main(["--run", str(run), "--split", "train"]) == Exit.OK
    assert "train: loss" in capsys.readouterr().out


@pytest.mark.parametrize("split", ["test", "val+test"])
def test_every_token_of_a_split_counts_once(
    split: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = load_trained(run, False, bind(Options()).machine)
    folder = trained.config.data.data_dir / "text"
    ids = [
        int(token)
        for name in split.split("+")
        for token in np.fromfile(folder / f"{name}.bin", "<u2").astype(int)
    ]
    nats = 0.0
    for start in range(0, len(ids) - 1, tiny.BLOCK):
        window = torch.tensor(ids[start : start + tiny.BLOCK + 1])
        with torch.no_grad():
            nats += float(trained.model(window[None, :-1], window[None, 1:])) * (len(window) - 1)
    assert evaluate.main(["--run", str(run), "--split", split, "--device", "cpu"]) == Exit.OK
    out = capsys.readouterr().out
    said, units = out.splitlines()
    found = re.fullmatch(r"step 12, (.+): loss ([\d.]+) nats .*, ([\d.]+) bits per byte .*", said)
    assert units.startswith("lower is better; loss: -log(probability of the right token)")
    assert found, out
    assert found[1] == split
    assert float(found[2]) == pytest.approx(nats / (len(ids) - 1), abs=2e-6)
    # A character of this text is a byte.
    assert float(found[3]) == pytest.approx(nats / math.log(2) / len(ids), abs=2e-6)


def test_sample_is_fixed_by_its_seed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = []
    for seed in ("1", "1", "2"):
        arguments = ["--run", str(run), "--prompt", "to be", "--tokens", "40", "--seed", seed]
        assert sample.main(arguments) == Exit.OK
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]
    assert texts[0].startswith("to be")
    assert len(texts[0]) == len("to be") + 40 + 1


def test_train_and_sample_compute_a_text_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In fp32 that is not rounded to TF32, after training in 16 bits, too."""
    seen: list[str] = []

    def stream(*_: object) -> Iterator[list[int]]:
        seen.append(torch.get_float32_matmul_precision())
        yield [1]

    monkeypatch.setattr(attempt, "stream", stream)
    monkeypatch.setattr(generate, "stream", stream)
    data, run = tiny.make_data(tmp_path / "data"), tmp_path / "run"
    flags = ["--max-steps", "1", "--precision", "bf16", "--sample-tokens", "1"]
    assert tiny.train(data, run, *flags) == Exit.OK
    assert torch.get_float32_matmul_precision() == "high"
    torch.set_float32_matmul_precision("highest")  # as in a process of its own
    assert sample.main(["--run", str(run), "--prompt", "to be"]) == Exit.OK
    assert seen == ["highest", "highest"]


def test_several_samples_are_those_of_several_seeds(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--run", str(run), "--prompt", "to be", "--tokens", "30", "--top-p", "0.9"]
    texts = []
    for seed in ("4", "5"):
        sample.main([*common, "--seed", seed])
        texts.append(capsys.readouterr().out)
    sample.main([*common, "--seed", "4", "--samples", "2"])
    blocks = re.split(r"--- sample \d of 2 -+\n", capsys.readouterr().out)
    assert blocks == ["", *texts]
    sample.main([*common, "--seed", "4", "--top-p", "0.01"])
    assert capsys.readouterr().out != texts[0]


class Terminal(io.StringIO):
    """A standard output that is a terminal, and remembers every piece it got."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.pieces += [text] if text else []
        return super().write(text)


def test_a_terminal_gets_the_text_as_it_comes(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["--run", str(run), "--prompt", "to be", "--tokens", "30"]
    sample.main(arguments)
    whole = capsys.readouterr().out
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    assert sample.main(arguments) == Exit.OK
    assert terminal.getvalue() == whole
    assert terminal.pieces == ["to be", *whole[len("to be") :]]


@pytest.mark.parametrize(
    ("arguments", "said", "code"),
    [
        (["--prompt", "Zoë"], "'Z'", Exit.DATA),
        (["--prompt", ""], "--prompt is empty", Exit.CONFIG),
        (["--tokens", "0"], "--tokens: 0 is outside", Exit.CONFIG),
        (["--temperature", "-1"], "--temperature: -1 is outside", Exit.CONFIG),
        (["--temperature", "hot"], "'hot' is not a number", Exit.CONFIG),
        (["--top-k", "1.5"], "'1.5' is not a whole number", Exit.CONFIG),
        (["--top-p", "0"], "--top-p: 0 is outside (0, 1]", Exit.CONFIG),
        (["--top-p", "1.01"], "--top-p: 1.01 is outside", Exit.CONFIG),
        (["--samples", "0"], "--samples: 0 is outside", Exit.CONFIG),
    ],
)
def test_bad_input_to_sample(run: Path, arguments: list[str], said: str, code: Exit) -> None:
    with pytest.raises(UserError) as error:
        sample.main(["--run", str(run), *arguments])
    assert said in str(error.value)
    assert error.value.code == code


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    for entry in (sample.main, evaluate.main):
        with pytest.raises(UserError, match="is not a run directory"):
            entry(["--run", str(tmp_path)])


def test_a_run_without_a_checkpoint(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    with pytest.raises(UserError, match="no checkpoint") as error:
        sample.main(["--run", str(tmp_path / "run")])
    assert error.value.code == Exit.CHECKPOINT


def test_other_data_are_refused(run: Path, tmp_path: Path) -> None:
    other = tiny.make_data(tmp_path / "data", characters=900)
    with pytest.raises(UserError, match="not those the run was trained on") as error:
        evaluate.main(["--run", str(run), "--data-dir", str(other)])
    assert error.value.code == Exit.DATA


def test_a_split_that_is_not_there(run: Path) -> None:
    with pytest.raises(UserError, match=r"--split valid: .* have train, val, test") as error:
        evaluate.main(["--run", str(run), "--split", "valid"])
    assert error.value.code == Exit.DATA


@pytest.fixture(scope="module")
def tokens_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a step on GPT-2's tokens."""
    folder = tmp_path_factory.mktemp("tokens")
    text = folder / "in.txt"
    text.write_text("to be or not to be, that is the question. " * 40, encoding="utf-8")
    assert prepare_data.main(["--input", str(text), "--data-dir", str(folder)]) == Exit.OK
    flags = tiny.flags(folder, folder / "run", "--tokenizer", "gpt2", "--max-steps", "1")
    assert main(flags) == Exit.OK
    return folder / "run"


def sampled(run: Path, prompt: str, capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    capsys.readouterr()
    assert sample.main(["--run", str(run), "--prompt", prompt, "--tokens", "5"]) == Exit.OK
    shown = capsys.readouterr()
    return shown.out, shown.err


def test_an_empty_prompt_starts_a_document(
    tokens_run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[int]] = []
    real = generate.stream

    def stream(model: Any, prompt: list[int], *more: Any) -> Any:
        started.append(prompt)
        return real(model, prompt, *more)

    monkeypatch.setattr(generate, "stream", stream)
    sampled(tokens_run, "", capsys)
    out, err = sampled(tokens_run, "<|endoftext|>", capsys)
    assert started[0] == [50256]
    assert len(started[1]) == 7
    assert out.startswith("<|endoftext|>")
    assert "an empty --prompt starts" in err


def test_a_prompt_is_text_whatever_the_locale_made_of_it(
    tokens_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # As Python gives UTF-8 in a locale without those characters.
    out, _ = sampled(tokens_run, "caf\udcc3\udca9", capsys)
    assert out.startswith("caf\xe9")
    for prompt, place in (("caf\udce9", "byte 3 of"), ("caf\ud83d", "half a character at 3")):
        with pytest.raises(UserError, match=f"--prompt: .*{place}") as caught:
            sampled(tokens_run, prompt, capsys)
        assert caught.value.code == Exit.CONFIG


@pytest.mark.slow
def test_bytes_of_a_command_line(tokens_run: Path) -> None:
    base = {**os.environ, "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C", "PYTHONUTF8": "0"}
    command = [sys.executable, "gpt2/sample.py", "--run", str(tokens_run), "--tokens", "1"]
    for prompt, code in (("caf\xe9".encode(), Exit.OK), (b"caf\xe9", Exit.CONFIG)):
        done = subprocess.run(
            [*map(os.fsencode, command), b"--prompt", prompt],
            env=base, cwd=tiny.REPOSITORY, capture_output=True, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
