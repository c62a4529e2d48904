"""Adopt nanoGPT's token files as they are: check, copy, and write meta.json."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gpt2.config.errors import Exit, UserError
from gpt2.data.memmap import DTYPE, Ids
from gpt2.data.meta import NEEDED, Meta
from gpt2.data.prepare.pipeline import Progress
from gpt2.data.prepare.store import Work, check_room, made, publish
from gpt2.data.splits import SPLITS
from gpt2.data.tokenizer import CharTokenizer, Gpt2Tokenizer
from gpt2.data.tokens import check_ids, chunks

_LOOKED_AT = 1 << 20  # ids of an adopted file that are examined
_ENOUGH = 1000  # fewer ids are not judged
_BYTES = 256  # smaller ids may be characters or bytes


def adopt(
    origin: Path,
    folder: Path,
    dataset: str,
    tokenizer: str,
    progress: Progress = lambda *_: None,
    say: Callable[[str], None] = lambda _: None,
) -> Meta:
    """Copy train.bin and val.bin of a nanoGPT data folder, and write meta.json.

    A test.bin is copied, too, if it exists: nanoGPT makes none. `say` is called with what looks
    wrong and may be right. Raises UserError (DATA) as prepare() does, also for missing files, and
    for any --tokenizer but gpt2. It is also raised for ids outside the vocabulary, of another width
    or of another tokenizer.
    """
    if tokenizer == CharTokenizer.name:
        raise _error(
            "--adopt: nanoGPT keeps its table of characters in a pickle, which can run code and is"
            " never opened here; prepare the text itself with --dataset text --tokenizer char"
        )
    if tokenizer != Gpt2Tokenizer.name:
        raise _error(f"--adopt takes --tokenizer gpt2, not {tokenizer!r}")
    gpt2 = Gpt2Tokenizer()
    splits = [s for s in SPLITS if s in NEEDED or (origin / f"{s}.bin").exists()]
    maps = {split: _adoptable(origin / f"{split}.bin", gpt2.vocab_size) for split in splits}
    _check_kind(origin, maps["train"], say)
    source: dict[str, Any] = {"address": str(origin.resolve()), "adopted": True}
    with made(folder) as aside:
        check_room(folder, sum(map(len, maps.values())) * DTYPE.itemsize)
        work = Work(aside, gpt2.byte_lengths(), None, splits)
        with contextlib.closing(work):
            for split in splits:
                for _, ids in chunks(maps[split]):
                    work.append({split: ids})
                    progress(work.text_bytes, None)
            meta = Meta(dataset, gpt2.describe(), source, work.finish())
        publish(folder, meta)
    return meta


def _adoptable(path: Path, vocab_size: int) -> Ids:
    """Open and check a foreign .bin file (n,); UserError (DATA) names the problem."""
    if not path.is_file():
        raise _error(f"--adopt: file not found: {path}")
    size = path.stat().st_size
    if not size or size % DTYPE.itemsize:
        raise _error(
            f"--adopt: {path} has {size:,} bytes, which is not a whole number of uint16 tokens"
        )
    try:
        ids: Ids = np.memmap(path, dtype=DTYPE, mode="r")
    except OSError as error:
        raise _error(f"--adopt: {path} cannot be read: {error.strerror}") from error
    check_ids(path, ids, vocab_size)
    return ids


def _check_kind(origin: Path, ids: Ids, say: Callable[[str], None]) -> None:
    """Check the first foreign ids (n,) for signs that they are not 16-bit ids of GPT-2.

    Raises UserError (DATA) for 32-bit ids, and for characters by nanoGPT's table.
    """
    first = ids[:_LOOKED_AT]
    if len(first) >= _ENOUGH and not first[1::2].any():
        raise _error(
            f"--adopt: every second id in {origin / 'train.bin'} is 0, as in a file of 32-bit ids;"
            " convert each file to 16 bits, with numpy: np.fromfile(OLD, np.uint32)"
            ".astype(np.uint16).tofile(NEW)"
        )
    largest = int(first.max())
    if largest >= _BYTES:
        return
    if (origin / "meta.pkl").exists():
        raise _error(
            f"--adopt: {origin / 'meta.pkl'} is nanoGPT's table of characters, so these ids are"
            " characters: prepare the text itself with --dataset text --tokenizer char; if they are"
            " GPT-2's tokens after all, move meta.pkl away"
        )
    if len(first) >= _ENOUGH:
        say(
            f"warning: --adopt: of the first {len(first):,} ids in {origin / 'train.bin'} none is"
            f" above {largest}: they look like characters or bytes, not like GPT-2's tokens"
        )


def _error(message: str) -> UserError:
    return UserError(message, code=Exit.DATA)
