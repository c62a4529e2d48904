"""The token files of a data folder (raw uint16), checked against its meta.json.

A split is one file, train.bin, val.bin or test.bin, in a form that other programs read, too. A
large split is sharded: train-00000.bin and so on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from gpt2.config.errors import Exit, UserError
from gpt2.config.preparation import prepare_command
from gpt2.data import hash_cache
from gpt2.data.integrity import WatchedFiles, opened, sha256_of
from gpt2.data.memmap import DTYPE, IdArray, Ids, open_files
from gpt2.data.meta import META, Meta, Shard, read_meta

JOIN = "+"  # joins splits that are read as one text: "val+test"
_SCAN = 1 << 20  # ids of a long file that are scanned at once


@dataclass(frozen=True)
class TokenFile:
    """An open split: `ids` are read-only (n,), mapped; `text_bytes` counts UTF-8 bytes.

    `path` is its first file, `files` are all; check them before reading ids.
    """

    path: Path
    ids: IdArray
    text_bytes: int
    meta: Meta
    files: WatchedFiles = field(default_factory=WatchedFiles)

    def first(self) -> int:
        """Return the first id.

        Raises UserError (DATA) when its file has changed.
        """
        self.files.check([0], 1)
        return int(self.ids[0])


def open_split(
    folder: Path, split: str, block_size: int, vocab_size: int | None = None
) -> TokenFile:
    """Open a split of a data folder, checked: size, length, every id, and SHA-256.

    "val+test" is both as one text: other programs, which have no test split, validate on that. A
    file of 64 MiB or more is read whole the first time, then only when it has changed. `vocab_size`
    is the model's; ids must also be in the tokenizer's vocabulary. Raises UserError (DATA) naming
    the missing split, or the file and its problem.
    """
    meta = read_meta(folder)
    names = split.split(JOIN)
    _check_splits(folder, meta, names)
    files = [shard for name in names for shard in meta.splits[name].files(name)]
    paths = [folder / shard.file for shard in files]
    for path, shard in zip(paths, files, strict=True):
        _check_size(path, shard.tokens)
    tokens = sum(shard.tokens for shard in files)
    if tokens == 0:
        raise _error(f"{paths[0]} is empty: its text is too short for a {split} split")
    if tokens <= block_size:
        raise _error(
            f"{paths[0]} holds {tokens:,} tokens, and a block of --block-size {block_size}"
            f" needs {block_size + 1:,}: lower --block-size or prepare more text"
        )
    limit = meta.vocab_size if vocab_size is None else min(vocab_size, meta.vocab_size)
    # First, so that later changes are detected.
    watched = WatchedFiles([opened(folder / s.file, s.tokens, s.sha256) for s in files])
    for path, shard in zip(paths, files, strict=True):
        largest = hash_cache.once(path, "largest_id", int, lambda path=path: _largest_id(path))  # type: ignore[misc]
        if largest >= limit:
            check_ids(path, open_files([path]), limit)
        _check_hash(path, shard)
    text_bytes = sum(shard.bytes for shard in files)
    return TokenFile(paths[0], open_files(paths), text_bytes, meta, watched)


def _check_splits(folder: Path, meta: Meta, names: list[str]) -> None:
    missing = [name for name in names if name not in meta.splits]
    if not missing:
        return
    asked, there = f"--split {JOIN.join(names)}: the data in {folder}", ", ".join(meta.splits)
    if missing != ["test"]:
        raise _error(f"{asked} have no split {missing[0]!r}: they have {there}")
    raise _error(
        f"{asked} have {there} and no test: they were prepared before there was one, were adopted,"
        " or have too little text for one; --split val is what can be measured"
    )


def verify_hashes(folder: Path) -> Meta:
    """Check the SHA-256 of every file against meta.json; UserError (DATA) names the file.

    A large file is read whole once, then again only when its size, times or inode have changed.
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
            f" {shard.sha256}); prepare it again with: {prepare_command(path.parent)} --force"
        )


def _largest_id(path: Path) -> int:
    return max(int(chunk.max()) for _, chunk in chunks(open_files([path])))


def check_ids(path: Path, ids: IdArray, vocab_size: int) -> None:
    """Check that all `ids` (n,), those of the file `path`, are below `vocab_size`.

    On a GPU a larger id would be a device assert, after which the process cannot continue. Raises
    UserError (DATA) naming the file, the token's offset and the id.
    """
    for start, chunk in chunks(ids):
        if int(chunk.max()) >= vocab_size:
            offset = start + int(np.argmax(chunk >= vocab_size))
            raise _error(
                f"{path}: token {offset:,} is {int(ids[offset])}, outside the vocabulary of"
                f" {vocab_size:,} ids: the file is damaged or was made with another tokenizer"
            )


def chunks(ids: IdArray) -> Iterator[tuple[int, Ids]]:
    """Yield (offset, ids) pieces of a long array: a memory map is never whole in memory."""
    for start in range(0, len(ids), _SCAN):
        yield start, ids[start : start + _SCAN]


def _check_size(path: Path, tokens: int) -> None:
    """Check that a .bin file has the size in meta.json; UserError (DATA) if not."""
    again = f"prepare it again with: {prepare_command(path.parent)} --force"
    if not path.exists():
        raise _error(f"{path} is missing; {again}")
    if not path.is_file():
        raise _error(f"{path} is not a file: remove it and {again}")
    expected, actual = tokens * DTYPE.itemsize, path.stat().st_size
    if actual % DTYPE.itemsize:
        raise _error(
            f"{path} has {actual:,} bytes, which is not a whole number of uint16 tokens; {again}"
        )
    if actual != expected:
        raise _error(f"{path} has {actual:,} bytes, {META} says {expected:,}; {again}")


def _error(message: str) -> UserError:
    return UserError(message, code=Exit.DATA)
