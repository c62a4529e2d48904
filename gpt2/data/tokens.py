"""The on-disk contract of a data folder: its .bin files (raw uint16) and their meta.json.

A split is one file, train.bin or val.bin, as other programs read them, too; a large one is shards,
train-00000.bin and so on. Format 1 of meta.json knows no shards, and is what is written where there
are none.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gpt2.config.errors import Exit, UserError
from gpt2.data import hash_cache
from gpt2.data.declaration import needs_input
from gpt2.data.integrity import WatchedFiles, opened, sha256_of
from gpt2.data.memmap import DTYPE, IdArray, Ids, open_files
from gpt2.files.json import parse

FORMAT = 2
MOST_IDS = 1 << 16  # that uint16 tells apart
SPLITS = ("train", "val")  # those that all data have
META = "meta.json"
UNFINISHED = ".unfinished"  # folder of what is being made
_SCAN = 1 << 20  # ids of a long file that are looked at together
_DEFAULT_DATA = Path(__file__).resolve().parents[2] / "data"


@dataclass(frozen=True)
class Shard:
    """One .bin file: its name, tokens, the UTF-8 bytes of their text, the file's SHA-256."""

    file: str
    tokens: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Split:
    """One split: its tokens, the UTF-8 bytes of their text, the SHA-256 of all its tokens.

    `shards` are its files, where it has several. `sha256` is over all of them, one after the other,
    so that it does not depend on where they are cut.
    """

    tokens: int
    bytes: int
    sha256: str
    shards: tuple[Shard, ...] = ()

    def files(self, name: str) -> tuple[Shard, ...]:
        """Return the files of this split, which is called `name`."""
        return self.shards or (Shard(f"{name}.bin", self.tokens, self.bytes, self.sha256),)

    def to_json(self) -> dict[str, Any]:
        """Return what meta.json says of it."""
        raw = asdict(self)
        return raw if self.shards else {key: raw[key] for key in raw if key != "shards"}


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
        """One SHA-256 over the hashes of all splits: equal data, equal hash."""
        hashes = "".join(split.sha256 for split in self.splits.values())
        return hashlib.sha256(hashes.encode()).hexdigest()

    @property
    def vocab_size(self) -> int:
        """Ids of the tokenizer that made the data."""
        return int(self.tokenizer["vocab_size"])

    def to_json(self) -> str:
        """Return the content of meta.json."""
        sharded = any(split.shards for split in self.splits.values())
        raw = {
            "format": 2 if sharded else 1,
            "dtype": "uint16",
            "data_hash": self.data_hash,
            "dataset": self.dataset,
            "tokenizer": self.tokenizer,
            "source": self.source,
            "splits": {name: split.to_json() for name, split in self.splits.items()},
        }
        return json.dumps(raw, indent=2) + "\n"

    def summary(self) -> str:
        """Return one line for people: tokens of both splits, tokenizer, source."""
        train, val = (self.splits[split].tokens for split in SPLITS)
        return (
            f"{self.dataset}: {train:,} training and {val:,} validation tokens"
            f" ({self.tokenizer['name']}, {self.vocab_size:,} ids) from {self.source['address']}"
        )


@dataclass(frozen=True)
class TokenFile:
    """One split, opened: `ids` are read-only (n,), mapped; `text_bytes` counts UTF-8 bytes.

    `path` is its first file, `files` are all; they are checked before ids are read from the map.
    """

    path: Path
    ids: IdArray
    text_bytes: int
    meta: Meta
    files: WatchedFiles = field(default_factory=WatchedFiles)

    def first(self) -> int:
        """Return the first id. Raises UserError (DATA) when its file has changed."""
        self.files.check([0], 1)
        return int(self.ids[0])


def read_meta(folder: Path) -> Meta:
    """Read meta.json of a data folder.

    Raises UserError (DATA) when it is missing, broken, of a newer format, or of another dtype.
    """
    path = folder / META
    again = f"make it with: {prepare_command(folder)}"
    if folder.exists() and not folder.is_dir():
        raise _error(f"{folder} is not a folder: move it away, then {again}")
    try:
        raw = parse(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        begun = any(folder.glob("train*.bin")) or (folder / UNFINISHED).exists()
        why = "its preparation was not finished" if begun else "no data"
        raise _error(f"{path} is missing ({why}); {again}") from None
    except IsADirectoryError:
        raise _error(f"{path} is a folder: remove it, then {again}") from None
    except ValueError as error:  # also of bytes that are no UTF-8
        raise _error(f"{path} is not JSON ({error}); {again} --force") from error
    except OSError as error:
        raise _error(f"{path} cannot be read: {error.strerror}") from error
    return _parse_meta(raw, path, again)


def open_split(
    folder: Path, split: str, block_size: int, vocab_size: int | None = None
) -> TokenFile:
    """Open one split of a data folder, checked: size, length, every id in it, and its SHA-256.

    A file of 64 MiB or more is read whole the first time, and then only when it has changed.
    `vocab_size` is that of the model; ids must also lie in the tokenizer's own vocabulary.
    Raises UserError (DATA) naming the file and what is wrong with it.
    """
    meta = read_meta(folder)
    found = meta.splits[split]
    files = found.files(split)
    paths = [folder / shard.file for shard in files]
    for path, shard in zip(paths, files, strict=True):
        _check_size(path, shard.tokens)
    if found.tokens == 0:
        raise _error(f"{paths[0]} is empty: its text is too short for a {split} split")
    if found.tokens <= block_size:
        raise _error(
            f"{paths[0]} holds {found.tokens:,} tokens, and a block of --block-size {block_size}"
            f" needs {block_size + 1:,}: lower --block-size or prepare more text"
        )
    limit = meta.vocab_size if vocab_size is None else min(vocab_size, meta.vocab_size)
    # First, so that what changes from here on is seen later.
    watched = WatchedFiles([opened(folder / s.file, s.tokens, s.sha256) for s in files])
    for path, shard in zip(paths, files, strict=True):
        largest = hash_cache.once(path, "largest_id", int, lambda path=path: _largest_id(path))  # type: ignore[misc]
        if largest >= limit:
            check_ids(path, open_files([path]), limit)
        _check_hash(path, shard)
    return TokenFile(paths[0], open_files(paths), found.bytes, meta, watched)


def verify_hashes(folder: Path) -> Meta:
    """Check the SHA-256 of every file against meta.json; UserError (DATA) names the file.

    A large file is read whole once, and then again only when its size, times or inode have changed.
    """
    meta = read_meta(folder)
    for split in meta.splits:
        for shard in meta.splits[split].files(split):
            path = folder / shard.file
            _check_size(path, shard.tokens)
            _check_hash(path, shard)
    return meta


def _check_hash(path: Path, shard: Shard) -> None:
    actual = hash_cache.once(path, "sha256", str, lambda: sha256_of(path))
    if actual != shard.sha256:
        raise _error(
            f"{path} has changed since it was made (SHA-256 {actual}, {META} says"
            f" {shard.sha256}); make it anew with: {prepare_command(path.parent)} --force"
        )


def _largest_id(path: Path) -> int:
    return max(int(chunk.max()) for _, chunk in chunks(open_files([path])))


def check_ids(path: Path, ids: IdArray, vocab_size: int) -> None:
    """Scan all of `ids` (n,), those of the file `path`, for one that reaches `vocab_size`.

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


def chunks(ids: IdArray) -> Iterator[tuple[int, Ids]]:
    """Yield (offset, ids) pieces of a long array, so that a memory map is never whole in memory."""
    for start in range(0, len(ids), _SCAN):
        yield start, ids[start : start + _SCAN]


def prepare_command(folder: Path) -> str:
    """Return the command that makes a data folder DATA_DIR/DATASET."""
    folder = folder.absolute()
    command = ["python3", "gpt2/prepare_data.py", "--dataset", folder.name]
    if needs_input(folder.name):
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
        names = [*SPLITS, *(name for name in raw["splits"] if name not in SPLITS)]
        splits = {name: _parse_split(name, raw["splits"][name]) for name in names}
        meta = Meta(str(raw["dataset"]), dict(raw["tokenizer"]), dict(raw["source"]), splits)
        complete = (
            type(raw["format"]) is int and raw["format"] >= 1 and raw["data_hash"] == meta.data_hash
        )
        complete &= type(meta.tokenizer["vocab_size"]) is int and 0 < meta.vocab_size <= MOST_IDS
        complete &= bool(meta.tokenizer["name"] and meta.source["address"])
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise _error(f"{path} is incomplete or damaged ({error}); {again} --force") from error
    if not complete:
        raise _error(f"{path} contradicts itself: it was edited or damaged; {again} --force")
    return meta


def _parse_split(name: str, raw: Any) -> Split:
    """Turn one split's JSON into a Split; ValueError where its numbers contradict each other."""
    if not re.fullmatch("[a-z]+", name):  # which is the name of a file, too
        raise ValueError(f"{name[:20]!r} is no name of a split")
    if not isinstance(raw, dict):
        raise TypeError(f"{name} is no JSON object")
    shards = tuple(
        Shard(str(s["file"]), _count(s, "tokens"), _count(s, "bytes"), str(s["sha256"]))
        for s in raw.get("shards", ())
    )
    split = Split(_count(raw, "tokens"), _count(raw, "bytes"), str(raw["sha256"]), shards)
    if split.tokens and not split.bytes:
        raise ValueError(f"{name} has tokens and no bytes of text")
    if [shard.file for shard in shards] != shard_names(name, len(shards)):
        raise ValueError(f"shards of {name} under other names")
    if shards and sum(shard.tokens for shard in shards) != split.tokens:
        raise ValueError(f"shards that are not all of {name}")
    return split


def _count(raw: dict[str, Any], key: str) -> int:
    found = raw[key]
    if type(found) is not int or found < 0:
        raise ValueError(f"{key} is {str(found)[:20]}, which is no count")
    return found


def shard_names(split: str, count: int) -> list[str]:
    """Return the names of a split's shards."""
    return [f"{split}-{index:05}.bin" for index in range(count)]


def _error(message: str) -> UserError:
    return UserError(message, code=Exit.DATA)
