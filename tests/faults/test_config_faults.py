"""Row 36: configurations that are none. Single mistakes: config/test_options.py, test_bind.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpt2.config.errors import Exit, UserError
from scripts import flags
from tests.conftest import RunScript, WriteConfig

#: Every kind of mistake, the line it is on, and what is said of it.
LINES = {
    "CONFIG_GONE=y": "CONFIG_GONE is unknown",
    'CONFIG_LEARNING_RATE="-3e-4"': "CONFIG_LEARNING_RATE: -3e-4 is outside [0, inf)",
    "CONFIG_MODEL_GPT2=y": "",
    "CONFIG_BLOCK_SIZE=2048": "CONFIG_BLOCK_SIZE: 2048 is out of range 1..1024",
    'CONFIG_DROPOUT="high"': "CONFIG_DROPOUT: 'high' is not a number",
    "CONFIG_BIAS=maybe": "CONFIG_BIAS: 'maybe' is not y or n",
    'CONFIG_DATA_DIR="a" # mine': "has a comment after the value",
    "CONFIG_SEED=1 2": "CONFIG_SEED: '1 2' is not a whole number",
    "LEARNING_RATE=1": "is not a CONFIG_NAME=value line",
    "CONFIG_BATCH_SIZE=99999999999999999999": "is out of range",
    "CONFIG_MUON_MOMENTUM=0.9": "has missing quotes",
    "CONFIG_OPTIMIZER_ADAMW=y": "",
    "CONFIG_OPTIMIZER_MUON=y": "contradicts CONFIG_OPTIMIZER_ADAMW=y: choose one",
    'CONFIG_WSD_DECAY="0.5"': "has no effect here: it needs LR_SCHEDULE_WSD",
}


def test_all_that_is_wrong_is_said_at_once_and_before_torch(
    without_torch: RunScript, write_config: WriteConfig
) -> None:
    """Row 36: a line for each, with its file and line; nothing that make would run."""
    path = write_config(*LINES)
    done = without_torch("scripts/flags.py", str(path))
    assert (done.returncode, done.stdout) == (Exit.CONFIG, "")
    said = done.stderr.splitlines()
    wrong = {number: text for number, text in enumerate(LINES.values(), 1) if text}
    assert len(said) == len(wrong)
    for number, text in wrong.items():
        (line,) = [line for line in said if line.startswith(f"flags.py: error: {path}:{number}: ")]
        assert text in line


def test_flags_that_are_wrong_are_said_at_once_and_before_torch(
    without_torch: RunScript, tmp_path: Path
) -> None:
    """Row 36: the same of train.py itself; no run directory is made."""
    done = without_torch(
        "gpt2/train.py", "--run-dir", str(tmp_path / "run"), "--gone", "--learning-rate", "-1",
        "--model", "custom", "--n-head", "5", "--n-embd", "64",
        "--optimizer", "adamx", "--pruning-end", "0.5",
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (Exit.CONFIG, "")
    for text in (
        "unknown flag --gone",
        "--learning-rate: -1 is outside",
        "--n-embd 64 cannot be shared by --n-head 5",
        "--optimizer 'adamx' is unknown; did you mean",
        "--pruning-end has no effect here",
    ):
        assert text in done.stderr
    assert all(line.startswith("train.py: error: ") for line in done.stderr.splitlines())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"\0" * 4096,
        b"\x7fELF\x02\x01\x01",
        "CONFIG_SEED=3\n".encode("utf-16"),
        b"CONFIG_SEED=\xff\n",
        b'CONFIG_DATA_DIR="' + b"a" * 100_000 + b"\n",
        b"CONFIG_SEED=" + b"9" * 5000 + b"\n",
        b"CONFIG_\n" * 3,
        b"{}\n",
    ],
    ids=["zeroes", "program", "utf-16", "bytes", "open", "long", "empty names", "json"],
)
def test_what_is_no_text_of_options(content: bytes, tmp_path: Path) -> None:
    """Row 36: files that no editor of ours wrote."""
    path = tmp_path / ".config"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        flags.flags(path)
    assert caught.value.code == Exit.CONFIG
    assert all(message.startswith(f"{path}:") for message in caught.value.messages)


def test_a_folder_is_no_config(tmp_path: Path) -> None:
    """Row 36: nor is what cannot be read."""
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        flags.flags(tmp_path)
