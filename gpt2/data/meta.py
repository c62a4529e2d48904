"""meta.json of a data folder: the content of its splits, and where they came from.

Format 1 has no shards; it is written where there are none.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gpt2.config.errors import Exit, UserError
from gpt2.config.preparation import prepare_command
from gpt2.files.json import parse

FORMAT = 2
MOST_IDS = 1 << 16  # ids that uint16 can hold
NEEDED = ("train", "val")  # splits that all data have; since version 2 also "test"
META = "meta.json"
UNFINISHED = ".unfinished"  # folder of an unfinished preparation


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

    `shards` are its files, where it has several. `sha256` is over all of them in order, so that it
    does not depend on the size of shards.
    """

    tokens: int
    bytes: int
    sha256: str
    shards: tuple[Shard, ...] = ()

    def files(self, name: str) -> tuple[Shard, ...]:
        """Return the files of this split, whose name is `name`."""
        return self.shards or (Shard(f"{name}.bin", self.tokens, self.bytes, self.sha256),)

    def to_json(self) -> dict[str, Any]:
        """Return the split as meta.json holds it."""
        raw = asdict(self)
        return raw if self.shards else {key: raw[key] for key in raw if key != "shards"}


@dataclass(frozen=True)
class Meta:
    """The content of a data folder's meta.json.

    `tokenizer` is a Tokenizer.describe(); `source` says where the text came from, with its SHA-256.
    """

    dataset: str
    tokenizer: dict[str, Any]
    source: dict[str, Any]
    splits: dict[str, Split]

    @property
    def data_hash(self) -> str:
        """Return one SHA-256 over the hashes of all splits: equal data, equal hash."""
        hashes = "".join(split.sha256 for split in self.splits.values())
        return hashlib.sha256(hashes.encode()).hexdigest()

    @property
    def vocab_size(self) -> int:
        """Return the number of ids of the data's tokenizer."""
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
        """Return a line for the user: tokens of all splits, tokenizer, source."""
        words = {"train": "training", "val": "validation"}
        counts = [f"{split.tokens:,} {words.get(s, s)}" for s, split in self.splits.items()]
        return (
            f"{self.dataset}: {', '.join(counts[:-1])} and {counts[-1]} tokens"
            f" ({self.tokenizer['name']}, {self.vocab_size:,} ids) from {self.source['address']}"
        )


def read_meta(folder: Path, tokenizer: str | None = None) -> Meta:
    """Read meta.json of a data folder; `tokenizer`, if given, is named in the remedy.

    Raises UserError (DATA) when it is missing, broken, of a newer format, or of another dtype.
    """
    path = folder / META
    again = f"make it with: {prepare_command(folder, tokenizer)}"
    if folder.exists() and not folder.is_dir():
        raise _error(f"{folder} is not a folder: move it away, then {again}")
    try:
        raw = parse(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        begun = any(folder.glob("train*.bin")) or (folder / UNFINISHED).exists()
        why = "its preparation was not finished" if begun else "no data"
        raise _error(
            f"{path} is missing ({why}): name the folder of the data by --data-dir, or {again}"
        ) from None
    except IsADirectoryError:
        raise _error(f"{path} is a folder: remove it, then {again}") from None
    except ValueError as error:  # also bytes that are not UTF-8
        raise _error(f"{path} is not JSON ({error}); {again} --force") from error
    except OSError as error:
        raise _error(f"{path} cannot be read: {error.strerror}") from error
    return _parse_meta(raw, path, again)


def _parse_meta(raw: Any, path: Path, again: str) -> Meta:
    """Turn parsed JSON into a Meta.

    Raises UserError (DATA) for what this version cannot read.
    """
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
        names = [*NEEDED, *(name for name in raw["splits"] if name not in NEEDED)]
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
    if not re.fullmatch("[a-z]+", name):  # it is part of a file name
        raise ValueError(f"{name[:20]!r} is not the name of a split")
    if not isinstance(raw, dict):
        raise TypeError(f"{name} is not a JSON object")
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
        raise ValueError(f"{key} is {str(found)[:20]}, which is not a count")
    return found


def shard_names(split: str, count: int) -> list[str]:
    """Return the names of a split's shards."""
    return [f"{split}-{index:05}.bin" for index in range(count)]


def _error(message: str) -> UserError:
    return UserError(message, code=Exit.DATA)
