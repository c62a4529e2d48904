"""Corpus to data folder: which ids go into it, in bounded batches, and whether it is there yet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gpt2.config.errors import Exit, UserError
from gpt2.data import text_files
from gpt2.data.corpus import DOCUMENT_END, Corpus
from gpt2.data.store import Origin, Progress, store
from gpt2.data.tokenizer import CharTokenizer, Gpt2Tokenizer, Tokenizer, encode_pieces
from gpt2.data.tokens import (
    DTYPE,
    META,
    SPLITS,
    Ids,
    Meta,
    check_ids,
    chunks,
    verify_hashes,
)


def prepare(
    corpus: Corpus, folder: Path, dataset: str, progress: Progress = lambda _: None
) -> Meta:
    """Encode `corpus` into `folder`: train.bin, val.bin and meta.json, replacing what is there.

    `progress` is called with the bytes of text of each batch that was written. Memory does not grow
    with the corpus. Interrupted at any instant, it leaves the finished data that were there before,
    or a folder without meta.json, which counts as no data. Raises UserError (DATA) for a text that
    cannot be encoded, an empty split, a folder that cannot be written or is being prepared by
    another process.
    """
    tokenizer = corpus.tokenizer()
    streams = {split: _encoded(corpus, split, tokenizer) for split in SPLITS}
    return store(streams, folder, Origin(dataset, tokenizer, corpus.source), progress)


def adopt(
    origin: Path,
    folder: Path,
    dataset: str,
    tokenizer: str,
    progress: Progress = lambda _: None,
) -> Meta:
    """Take the train.bin and val.bin of a nanoGPT data folder as they are, and write meta.json.

    Raises UserError (DATA) as prepare() does, for files that are missing or hold ids outside the
    vocabulary, and for any tokenizer but gpt2.
    """
    if tokenizer == CharTokenizer.name:
        raise _error(
            "--adopt: nanoGPT keeps its table of characters in a pickle, which can run code and is"
            " never opened here; prepare the text itself with --dataset text --tokenizer char"
        )
    if tokenizer != Gpt2Tokenizer.name:
        raise _error(f"--adopt takes --tokenizer gpt2, not {tokenizer!r}")
    gpt2 = Gpt2Tokenizer()
    maps = {split: _adoptable(origin / f"{split}.bin", gpt2.vocab_size) for split in SPLITS}
    streams = {split: (ids for _, ids in chunks(maps[split])) for split in SPLITS}
    source: dict[str, Any] = {"address": str(origin.resolve()), "adopted": True}
    return store(streams, folder, Origin(dataset, gpt2, source), progress)


def already_prepared(
    folder: Path, dataset: str, tokenizer: str | None, given: Path | None
) -> Meta | None:
    """Return the meta.json of finished data, or None where there are none.

    Raises UserError (DATA) when they are damaged, or were made of something else than `tokenizer`
    and `given`, the --input or --adopt, ask for (None: anything); --force is the way out.
    """
    if not (folder / META).exists():
        return None
    meta = verify_hashes(folder)
    made_of = meta.tokenizer["name"]
    differing = []
    if meta.dataset != dataset:
        differing.append(f"--dataset {meta.dataset}, not {dataset}")
    if tokenizer not in (None, made_of):
        differing.append(f"--tokenizer {made_of}, not {tokenizer}")
    if given is not None and str(given.resolve()) != meta.source["address"]:
        differing.append(f"{meta.source['address']}, not {given}")
    elif given is not None and "bytes" in meta.source and _bytes_at(given) != meta.source["bytes"]:
        differing.append(f"{given}, which has changed since")
    if differing:
        raise _error(f"{folder} was made of {'; '.join(differing)}: --force makes it anew")
    return meta


def _encoded(corpus: Corpus, split: str, tokenizer: Tokenizer) -> Iterator[Ids]:
    """Yield the ids of a split, each document ended where the corpus is made of documents."""
    if tokenizer.end_of_text is None:
        end = tokenizer.encode(DOCUMENT_END) if corpus.separated else None
    else:
        end = np.array([tokenizer.end_of_text], dtype=np.uint16)
    for document in corpus.documents():
        if document.split != split:
            continue
        empty = True
        for ids in encode_pieces(tokenizer, document.pieces):
            empty = False
            yield ids
        if corpus.separated and end is not None and not empty:
            yield end


def _adoptable(path: Path, vocab_size: int) -> Ids:
    """Open a foreign .bin file (n,), checked; UserError (DATA) says what is wrong with it."""
    if not path.is_file():
        raise _error(f"--adopt: there is no file {path}")
    size = path.stat().st_size
    if not size or size % DTYPE.itemsize:
        raise _error(f"--adopt: {path} has {size:,} bytes, which is no array of uint16 tokens")
    try:
        ids: Ids = np.memmap(path, dtype=DTYPE, mode="r")
    except OSError as error:
        raise _error(f"--adopt: {path} cannot be read: {error.strerror}") from error
    check_ids(path, ids, vocab_size)
    return ids


def _bytes_at(given: Path) -> int:
    files = [given] if given.is_file() else text_files.find(given)
    return sum(path.stat().st_size for path in files)


def _error(message: str) -> UserError:
    return UserError(message, code=Exit.DATA)
