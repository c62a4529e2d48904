"""Make a data folder so that an interruption leaves nothing that looks finished.

Everything is made in a hidden folder inside it, and moved into place when complete. An interrupted
preparation resumes from the hidden folder, if that holds a journal.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gpt2.config import faults
from gpt2.config.errors import Exit, UserError
from gpt2.data import hash_cache
from gpt2.data.memmap import Ids
from gpt2.data.meta import META, NEEDED, UNFINISHED, Meta, Split, read_meta, shard_names
from gpt2.data.prepare import journal
from gpt2.data.prepare.chunking import Position
from gpt2.data.prepare.journal import Journal
from gpt2.data.prepare.shard_writer import ShardWriter
from gpt2.data.splits import SPLITS
from gpt2.files.atomic import replace_file, sync_folder
from gpt2.files.lock import HeldError, lock_folder

JOURNALED = 1 << 25  # tokens between two journals


@contextmanager
def made(folder: Path) -> Iterator[Path]:
    """Hold the folder's lock, and yield the hidden folder in which to make its files.

    At the end the hidden folder is removed, unless it holds a journal to resume from. Raises
    UserError (DATA) for a folder that cannot be written, or that another process is writing.
    """
    aside = folder / UNFINISHED
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            aside.mkdir(exist_ok=True)
            try:
                yield aside
            finally:
                if journal.load(aside) is None:
                    shutil.rmtree(aside, ignore_errors=True)
    except OSError as error:
        path = error.filename or folder
        raise UserError(
            f"{path}: {error.strerror or error}: the data cannot be written; make room or rights"
            " there, or choose another --data-dir",
            code=Exit.DATA,
        ) from error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock.

    Raises UserError (DATA) where another process holds it.
    """
    advice = "two preparations would not see each other: choose a --data-dir on a local disk"
    try:
        lock = lock_folder(folder, str(folder), advice, Exit.DATA)
    except HeldError as error:
        raise UserError(
            f"{folder} is being prepared by {error.holder}: wait for it", code=Exit.DATA
        ) from None
    with lock:
        yield


def check_room(folder: Path, needed: int) -> None:
    """Check that `needed` bytes are free on the disk of `folder`; UserError (DATA) if not."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{folder}: the tokens of this corpus take about {needed / 1e6:,.1f} MB, and"
            f" {free / 1e6:,.1f} MB are free there: make room, choose another --data-dir, or stop"
            " early with --max-tokens",
            code=Exit.DATA,
        )


class Work:
    """Unfinished splits, in the hidden folder `aside` of a data folder.

    `identity` says whether existing files are the beginning of the same data; None never resumes.
    `lengths` are the text bytes of each id.
    """

    def __init__(
        self,
        aside: Path,
        lengths: NDArray[np.int64],
        identity: str | None,
        splits: Sequence[str],
    ) -> None:
        self._aside, self._lengths, self._identity = aside, lengths, identity
        self._splits, self._journaled = splits, 0
        self.position = Position()
        self.empty = 0
        self.discarded = ""  # why an earlier beginning was discarded, if there was one
        self._writers = self._new_writers()
        if (found := journal.load(aside)) is not None:
            self._take_up(found)
        if not self.tokens:
            self._clear()

    @property
    def tokens(self) -> int:
        """Return the tokens of all splits so far."""
        return sum(writer.tokens for writer in self._writers.values())

    @property
    def text_bytes(self) -> int:
        """Return the UTF-8 bytes of the text so far."""
        return sum(writer.text_bytes for writer in self._writers.values())

    def tokens_of(self, split: str) -> int:
        """Return the tokens of one split so far."""
        return self._writers[split].tokens

    def bytes_of(self, ids: Ids) -> int:
        """Return the UTF-8 bytes of the text of `ids`."""
        return int(self._lengths[ids].sum())

    def append(self, ids: Mapping[str, Ids]) -> None:
        """Append ids to each split.

        Raises OSError.
        """
        for split, more in ids.items():
            self._writers[split].write(more)

    def reached(self, position: Position, empty: int) -> None:
        """Record how far the corpus is read with the appended ids; write a journal at times."""
        self.position, self.empty = position, empty
        if self._identity is not None and self.tokens - self._journaled >= JOURNALED:
            self._journaled = self.tokens
            for writer in self._writers.values():
                writer.sync()
            sync_folder(self._aside)
            shards = {split: writer.shards() for split, writer in self._writers.items()}
            journal.save(self._aside, Journal(self._identity, position, empty, shards))
            faults.failpoint("data.journal")

    def finish(self) -> dict[str, Split]:
        """Finish all splits and return those with text.

        Raises UserError (DATA) where training or validation has none.
        """
        splits = {split: writer.finish() for split, writer in self._writers.items()}
        for split in NEEDED:
            if not splits[split].bytes:
                self._clear()
                raise UserError(
                    f"the {split} split is empty: give more text; a line of .jsonl and a row of"
                    " .parquet go to a split by a hash of their text, so that a few, or equal ones,"
                    " can all be in one: as one .txt file the same text is cut at its last tenth",
                    code=Exit.DATA,
                )
        return {split: found for split, found in splits.items() if found.bytes}

    def close(self) -> None:
        """Close the files."""
        for writer in self._writers.values():
            writer.close()

    def _new_writers(self) -> dict[str, ShardWriter]:
        return {split: ShardWriter(self._aside, split, self._lengths) for split in self._splits}

    def _take_up(self, found: Journal) -> None:
        """Resume from a journal, if it is of the same data and its shards are unchanged."""
        if found.identity != self._identity:
            self.discarded = "it was of another corpus or other options"
            return
        try:
            for split, writer in self._writers.items():
                writer.restore(found.shards[split])
        except (OSError, KeyError, ValueError) as error:
            self.close()
            self._writers = self._new_writers()
            self.discarded = f"it is damaged ({error})"
            return
        self.position, self.empty, self._journaled = found.position, found.empty, self.tokens

    def _clear(self) -> None:
        """Remove all that is in the hidden folder, the journal first."""
        self.close()
        for path in (self._aside / journal.NAME, *self._aside.iterdir()):
            path.unlink(missing_ok=True)


def publish(folder: Path, meta: Meta) -> None:
    """Move the files of the hidden folder into place, in an order that never shows half of them.

    If interrupted, it leaves a folder without meta.json; published() then completes it.
    """
    aside = folder / UNFINISHED
    faults.failpoint("data.complete")
    replace_file(aside / META, meta.to_json())
    _put_in_place(folder, meta)


def published(folder: Path, identity: str) -> Meta | None:
    """Complete an interrupted publish() of the same data and return its meta.json, or None."""
    aside = folder / UNFINISHED
    found = journal.load(aside)
    if found is None or found.identity != identity or not (aside / META).exists():
        return None
    meta = read_meta(aside)
    _put_in_place(folder, meta)
    return meta


def _put_in_place(folder: Path, meta: Meta) -> None:
    aside = folder / UNFINISHED
    # The old meta.json must not describe new files: from here on the folder holds no data.
    (folder / META).unlink(missing_ok=True)
    sync_folder(folder)
    places = {
        aside / made_as: folder / shard.file
        for split in meta.splits
        for made_as, shard in zip(
            shard_names(split, len(meta.splits[split].files(split))),
            meta.splits[split].files(split),
            strict=True,
        )
    }
    ours = re.compile(rf"({'|'.join({*SPLITS, *meta.splits})})(-\d{{5}})?\.bin")
    for path in folder.iterdir():
        if ours.fullmatch(path.name) and path not in places.values():
            path.unlink()
    for path, place in places.items():
        faults.failpoint("data.rename")
        if path.exists() or not place.exists():  # an earlier attempt may have moved it already
            path.replace(place)
    (folder / hash_cache.NAME).unlink(missing_ok=True)
    sync_folder(folder)
    faults.failpoint("data.meta")
    (aside / META).replace(folder / META)
    sync_folder(folder)
    with contextlib.suppress(OSError):
        (aside / journal.NAME).unlink(missing_ok=True)
