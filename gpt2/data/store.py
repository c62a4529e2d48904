"""Writing a data folder so that no interruption leaves anything that looks finished."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2.config import faults
from gpt2.config.errors import Exit, UserError
from gpt2.data.tokenizer import Tokenizer
from gpt2.data.tokens import DTYPE, META, SPLITS, Ids, Meta, Split

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Origin:
    """What meta.json says beside the counts: the dataset's name, its tokenizer and its source."""

    dataset: str
    tokenizer: Tokenizer
    source: dict[str, Any]


def store(
    streams: Mapping[str, Iterator[Ids]], folder: Path, origin: Origin, progress: Progress
) -> Meta:
    """Write the ids of each split's stream into `folder`, and meta.json last.

    Files are written aside, hashed on the way, brought to the disk, and renamed. Data that were
    there before stay until both new files are complete. Raises UserError (DATA) for an empty split,
    a folder that cannot be written, and one that another process is writing.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            _remove_unfinished(folder)
            try:
                lengths = origin.tokenizer.byte_lengths()
                splits = {
                    split: _write(stream, _aside(folder, f"{split}.bin"), lengths, progress)
                    for split, stream in streams.items()
                }
                for split in SPLITS:
                    if not splits[split].bytes:
                        raise _error(f"the {split} split is empty: give more text")
                meta = Meta(origin.dataset, origin.tokenizer.describe(), origin.source, splits)
                _publish(folder, meta)
            finally:
                _remove_unfinished(folder)
    except OSError as error:
        path = error.filename or folder
        raise _error(
            f"{path}: {error.strerror}: the data cannot be written; make room or rights there, or"
            " choose another --data-dir"
        ) from error
    return meta


def _write(
    stream: Iterator[Ids], path: Path, lengths: NDArray[np.int64], progress: Progress
) -> Split:
    """Append what `stream` yields to a new file; `lengths` are the text bytes of each id."""
    hashed, tokens, text_bytes = hashlib.sha256(), 0, 0
    with path.open("xb") as file:
        for ids in stream:
            faults.point("data.write")
            raw = ids.astype(DTYPE, copy=False).tobytes()
            file.write(raw)
            hashed.update(raw)
            batch = int(lengths[ids].sum())
            tokens, text_bytes = tokens + len(ids), text_bytes + batch
            progress(batch)
        file.flush()
        os.fsync(file.fileno())
    return Split(tokens, text_bytes, hashed.hexdigest())


def _publish(folder: Path, meta: Meta) -> None:
    """Give the written files their names, in an order that never shows unfinished data."""
    # The old meta.json must not vouch for new files: from here on the folder holds no data.
    (folder / META).unlink(missing_ok=True)
    _sync(folder)
    for split in SPLITS:
        faults.point("data.rename")
        _aside(folder, f"{split}.bin").replace(folder / f"{split}.bin")
    _sync(folder)
    with _aside(folder, META).open("x", encoding="utf-8") as file:
        file.write(meta.to_json())
        file.flush()
        os.fsync(file.fileno())
    faults.point("data.meta")
    _aside(folder, META).replace(folder / META)
    _sync(folder)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, which the kernel releases however this process ends."""
    with (folder / ".lock").open("w", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _error(f"{folder} is being prepared by another process: wait for it") from None
        yield


def _aside(folder: Path, name: str) -> Path:
    return folder / f".{name}.{os.getpid()}.tmp"


def _remove_unfinished(folder: Path) -> None:
    """Remove what an interrupted preparation left; only under the folder's lock."""
    for name in (*(f"{split}.bin" for split in SPLITS), META):
        for path in folder.glob(f".{name}.*.tmp"):
            path.unlink()


def _sync(folder: Path) -> None:
    """Make renames in `folder` outlast a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _error(message: str) -> UserError:
    return UserError(message, code=Exit.DATA)
