"""The on-disk contract of a data folder: train.bin and val.bin (raw uint16) and their meta.json."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2.config.errors import Exit, UserError

FORMAT = 1
DTYPE = np.dtype("<u2")
SPLITS = ("train", "val")
META = "meta.json"
_SCAN = 1 << 20  # ids of a long file that are looked at together
_DEFAULT_DATA = Path(__file__).resolve().parents[2] / "data"

Ids = NDArray[np.uint16]


@dataclass(frozen=True)
class Split:
    """One .bin file: its tokens, the UTF-8 bytes of the text they stand for, the file's SHA-256."""

    tokens: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Meta:
    """What meta.json says of a data folder.

    `tokenizer` is a Tokenizer.describe(); `source` says where the text came from and its SHA-256.
    """

    dataset: str
    tokenizer: dict[str, Any]
    source: dict[str, Any]
    splits: dict[str, Split]

    @property
    def data_hash(self) -> str:
        """One SHA-256 over the hashes of both splits: equal data, equal hash."""
        return hashlib.sha256("".join(self.splits[s].sha256 for s in SPLITS).encode()).hexdigest()

    @property
    def vocab_size(self) -> int:
        """Ids of the tokenizer that made the data."""
        return int(self.tokenizer["vocab_size"])

    def to_json(self) -> str:
        """Return the content of meta.json."""
        head = {"format": FORMAT, "dtype": "uint16", "data_hash": self.data_hash}
        return json.dumps(head | asdict(self), indent=2) + "\n"

    def summary(self) -> str:
        """Return one line for people: tokens of both splits, tokenizer, source."""
        train, val = (self.splits[split].tokens for split in SPLITS)
        return (
            f"{self.dataset}: {train:,} training and {val:,} validation tokens"
            f" ({self.tokenizer['name']}, {self.vocab_size:,} ids) from {self.source['address']}"
        )


@dataclass(frozen=True)
class TokenFile:
    """One split, opened: `ids` is a read-only memory map (n,), `text_bytes` counts UTF-8 bytes."""

    path: Path
    ids: Ids
    text_bytes: int
    meta: Meta


def read_meta(folder: Path) -> Meta:
    """Read meta.json of a data folder.

    Raises UserError (DATA) when it is missing, broken, of a newer format, or of another dtype.
    """
    path = folder / META
    again = f"make it with: {prepare_command(folder)}"
    if folder.exists() and not folder.is_dir():
        raise _error(f"{folder} is not a folder: move it away, then {again}")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        why = "its preparation was not finished" if (folder / "train.bin").exists() else "no data"
        raise _error(f"{path} is missing ({why}); {again}") from None
    except IsADirectoryError:
        raise _error(f"{path} is a folder: remove it, then {again}") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise _error(f"{path} is not JSON ({error}); {again} --force") from error
    except OSError as error:
        raise _error(f"{path} cannot be read: {error.strerror}") from error
    return _parse_meta(raw, path, again)


def open_split(
    folder: Path, split: str, block_size: int, vocab_size: int | None = None
) -> TokenFile:
    """Open one split of a data folder, checked: size, length, and every id in it.

    `vocab_size` is that of the model; ids must also lie in the tokenizer's own vocabulary.
    Raises UserError (DATA) naming the file and what is wrong with it.
    """
    meta = read_meta(folder)
    path, tokens = folder / f"{split}.bin", meta.splits[split].tokens
    _check_size(path, tokens)
    if tokens == 0:
        raise _error(f"{path} is empty: its text is too short for a {split} split")
    if tokens <= block_size:
        raise _error(
            f"{path} holds {tokens:,} tokens, and a block of --block-size {block_size} needs"
            f" {block_size + 1:,}: lower --block-size or prepare more text"
        )
    ids: Ids = np.memmap(path, dtype=DTYPE, mode="r")
    limit = meta.vocab_size if vocab_size is None else min(vocab_size, meta.vocab_size)
    check_ids(path, ids, limit)
    return TokenFile(path, ids, meta.splits[split].bytes, meta)


def verify_hashes(folder: Path) -> Meta:
    """Check the SHA-256 of both files against meta.json; UserError (DATA) names the file."""
    meta = read_meta(folder)
    for split in SPLITS:
        path = folder / f"{split}.bin"
        _check_size(path, meta.splits[split].tokens)
        with path.open("rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
        if actual != meta.splits[split].sha256:
            raise _error(
                f"{path} has changed since it was made (SHA-256 {actual}, {META} says"
                f" {meta.splits[split].sha256}); make it anew with:"
                f" {prepare_command(folder)} --force"
            )
    return meta


def check_ids(path: Path, ids: Ids, vocab_size: int) -> None:
    """Scan all of `ids` (n,) for one that reaches `vocab_size`.

    Such an id would be a device assert on a GPU, which poisons the process. Raises UserError (DATA)
    naming the file, the token's offset and the id.
    """
    for start, chunk in chunks(ids):
        if int(chunk.max()) >= vocab_size:
            offset = start + int(np.argmax(chunk >= vocab_size))
            raise _error(
                f"{path}: token {offset:,} is {int(ids[offset])}, outside the vocabulary of"
                f" {vocab_size:,} ids: the file is damaged or was made with another tokenizer"
            )


def chunks(ids: Ids) -> Iterator[tuple[int, Ids]]:
    """Yield (offset, ids) pieces of a long array, so that a memory map is never whole in memory."""
    for start in range(0, len(ids), _SCAN):
        yield start, ids[start : start + _SCAN]


def prepare_command(folder: Path) -> str:
    """Return the command that makes a data folder DATA_DIR/DATASET."""
    folder = folder.absolute()
    command = ["python3", "gpt2/prepare_data.py", "--dataset", folder.name]
    if folder.name == "text":
        command += ["--input", "FILE_OR_FOLDER"]
    if folder.parent != _DEFAULT_DATA:
        command += ["--data-dir", str(folder.parent)]
    return shlex.join(command)


def _check_size(path: Path, tokens: int) -> None:
    """Check that a .bin file has exactly the size meta.json says; UserError (DATA) if not."""
    again = f"make it anew with: {prepare_command(path.parent)} --force"
    if not path.exists():
        raise _error(f"{path} is missing; {again}")
    if not path.is_file():
        raise _error(f"{path} is not a file: remove it and {again}")
    expected, actual = tokens * DTYPE.itemsize, path.stat().st_size
    if actual % DTYPE.itemsize:
        raise _error(f"{path} has {actual:,} bytes, which is no number of uint16 tokens; {again}")
    if actual != expected:
        raise _error(f"{path} has {actual:,} bytes, {META} says {expected:,}; {again}")


def _parse_meta(raw: Any, path: Path, again: str) -> Meta:
    """Turn parsed JSON into a Meta, refusing whatever this version cannot read."""
    if not isinstance(raw, dict):
        raise _error(f"{path} holds no JSON object; {again} --force")
    if isinstance(raw.get("format"), int) and raw["format"] > FORMAT:
        raise _error(
            f"{path} has format {raw['format']}, this program knows formats up to {FORMAT}:"
            " use the newer program, or prepare the data again with --force"
        )
    if raw.get("dtype") != "uint16":
        raise _error(f"{path} says dtype {raw.get('dtype')!r}, only 'uint16' can be read; {again}")
    try:
        splits = {name: _parse_split(raw["splits"][name]) for name in SPLITS}
        meta = Meta(str(raw["dataset"]), dict(raw["tokenizer"]), dict(raw["source"]), splits)
        complete = raw["format"] == FORMAT and raw["data_hash"] == meta.data_hash
        complete &= meta.vocab_size > 0 and bool(meta.tokenizer["name"] and meta.source["address"])
    except (KeyError, TypeError, ValueError) as error:
        raise _error(f"{path} is incomplete or damaged ({error}); {again} --force") from error
    if not complete:
        raise _error(f"{path} contradicts itself: it was edited or damaged; {again} --force")
    return meta


def _parse_split(raw: dict[str, Any]) -> Split:
    split = Split(int(raw["tokens"]), int(raw["bytes"]), str(raw["sha256"]))
    if split.tokens < 0 or split.bytes < 0:
        raise ValueError("a negative count")
    return split


def _error(message: str) -> UserError:
    return UserError(message, code=Exit.DATA)
