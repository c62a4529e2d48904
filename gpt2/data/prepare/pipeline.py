"""Corpus to data folder: encode it in bounded batches; recognise data that are ready."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpt2.config.errors import Exit, UserError
from gpt2.config.text import counted
from gpt2.data.corpus import DOCUMENT_END, Corpus
from gpt2.data.memmap import DTYPE, Ids
from gpt2.data.meta import META, Meta
from gpt2.data.prepare import journal, shard_writer
from gpt2.data.prepare.backends import choose
from gpt2.data.prepare.chunking import Batch, batches
from gpt2.data.prepare.encoding import Encoded, encode_batches
from gpt2.data.prepare.store import Work, check_room, made, publish, published
from gpt2.data.sources import text_files, text_folders
from gpt2.data.tokenizer import END_OF_TEXT, Gpt2Tokenizer, Tokenizer
from gpt2.data.tokens import verify_hashes

#: Called with the bytes of text done so far, and those of the whole text if known.
Progress = Callable[[int, int | None], None]
_MARGIN = 1.25  # later text may need more tokens per byte than the first megabyte


@dataclass(frozen=True)
class Settings:
    """How to prepare.

    `workers` threads encode. With `max_tokens`, preparation stops at the first end of a document
    with that many training tokens and any tokens of each other split. `backend` is
    --tokenizer-backend.
    """

    workers: int = 1
    max_tokens: int | None = None
    backend: str = "tiktoken"


DEFAULT = Settings()


def prepare(
    corpus: Corpus,
    folder: Path,
    dataset: str,
    progress: Progress = lambda *_: None,
    settings: Settings = DEFAULT,
    say: Callable[[str], None] = lambda _: None,
) -> Meta:
    """Encode `corpus` into `folder`: .bin files and meta.json; existing data are replaced.

    Memory does not grow with the corpus. If interrupted at any instant, the folder holds its former
    finished data, or no meta.json, which counts as no data. The same call resumes from the journal
    and ends with the same bytes. `say` is called with lines for the user. Raises UserError (DATA)
    for a text that cannot be encoded, or an empty split. It is also raised for a folder that cannot
    be written, lacks room or is in use by another preparation.
    """
    tokenizer = corpus.tokenizer()
    if tokenizer.vocab_size > 1 + np.iinfo(DTYPE).max:
        raise _error(f"{tokenizer.vocab_size:,} ids do not fit the 16 bits of a token here")
    identity = journal.identity(
        dataset=dataset,
        source=corpus.source,
        tokenizer=tokenizer.describe(),
        separated=corpus.separated,
        splits=corpus.splits,
        max_tokens=settings.max_tokens,
        shard=shard_writer.SHARD,
    )
    with made(folder) as aside:
        if (meta := published(folder, identity)) is not None:
            return meta
        work = Work(aside, tokenizer.byte_lengths(), identity, corpus.splits)
        with contextlib.closing(work):
            _say_where(work, say)
            progress(work.text_bytes, corpus.text_bytes)
            marks = _Marks()
            found = _read(corpus, tokenizer, work, settings, say, marks)
            with contextlib.closing(found):
                for number, encoded in enumerate(found):
                    if not number:
                        check_room(folder, _needed(work, encoded, corpus, settings))
                    work.append(encoded.ids)
                    work.reached(encoded.position, encoded.empty)
                    progress(work.text_bytes, corpus.text_bytes)
            source = dict(corpus.source)
            if settings.max_tokens is not None:
                source["max_tokens"] = settings.max_tokens
            if work.empty:
                source["empty_documents"] = work.empty
            meta = Meta(dataset, tokenizer.describe(), source, work.finish())
            for split in corpus.splits:
                if split not in meta.splits:
                    say(f"no {split} split: the text is too short for one")
            if marks.count:
                say(_about(marks.count))
        publish(folder, meta)
    return meta


def already_prepared(
    folder: Path,
    dataset: str,
    tokenizer: str | None,
    given: Path | None,
    max_tokens: int | None = None,
    text_column: str | None = None,
    end_of_text: bool = False,
) -> Meta | None:
    """Return the meta.json of finished data, or None where there are none.

    Raises UserError (DATA) when they are damaged, or were made with other options; --force is the
    remedy. The options are `tokenizer`, the input (`given`: --input or --adopt), `max_tokens` and
    `text_column` (None: any), and `end_of_text`. A file of 64 MiB or more is hashed the first time,
    then only when its size, times or inode have changed.
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
    elif given is not None and _size_differs(given, meta.source):
        differing.append(f"{given}, which has changed since")
    column = meta.source.get("text_column", "text")
    if text_column not in (None, column):
        differing.append(f"--text-column {column}, not {text_column}")
    if end_of_text and meta.source.get("end_of_text") != "token":
        differing.append("--end-of-text text, not token")
    if max_tokens is not None and max_tokens != meta.source.get("max_tokens"):
        before = meta.source.get("max_tokens")
        differing.append(
            f"--max-tokens {before}, not {max_tokens}" if before else "the whole corpus"
        )
    if differing:
        use = ""
        if len(differing) == 1 and differing[0].startswith("--tokenizer"):
            use = f"add --tokenizer {made_of} to use it, or "
        raise _error(f"{folder} was made of {'; '.join(differing)}: {use}--force prepares it again")
    return meta


class _Marks:
    """Counts `<|endoftext|>` in a text where it is ordinary text."""

    def __init__(self) -> None:
        self.count = 0

    def counting(self, found: Iterator[Batch]) -> Iterator[Batch]:
        """Yield the batches, none of which is cut within a mark, and count its marks."""
        for batch in found:
            self.count += sum(text.text.count(END_OF_TEXT) for text in batch.texts)
            yield batch


def _about(marks: int) -> str:
    return (
        f"{END_OF_TEXT} occurs {counted(marks, 'time')} in the text and is taken as text, seven"
        " tokens; --end-of-text token --force makes it the end of a document"
    )


def _say_where(work: Work, say: Callable[[str], None]) -> None:
    if work.discarded:
        say(f"an interrupted preparation cannot continue: {work.discarded}")
    elif work.tokens:
        say(f"resuming an interrupted preparation after {work.text_bytes / 1e6:,.1f} MB of text")


def _read(
    corpus: Corpus,
    tokenizer: Tokenizer,
    work: Work,
    settings: Settings,
    say: Callable[[str], None],
    marks: _Marks,
) -> Generator[Encoded]:
    """Yield the ids of the corpus from where `work` stands, up to `max_tokens`."""
    found = batches(corpus, tokenizer, work.position, work.empty)
    first = next(found)
    encode = choose(settings.backend, tokenizer, [text.text for text in first.texts], say)
    all_of_them: Iterator[Batch] = itertools.chain([first], found)
    if isinstance(tokenizer, Gpt2Tokenizer) and not tokenizer.special:
        all_of_them = marks.counting(all_of_them)
    end, splits = _end(corpus, tokenizer), corpus.splits
    encoded = encode_batches(all_of_them, encode, end, settings.workers, splits)
    counts = np.array([work.tokens_of(split) for split in splits])
    train = splits.index("train")
    with contextlib.closing(encoded):
        for batch in encoded:
            if settings.max_tokens is not None:
                reached = counts + batch.ends
                full = (reached > 0).all(axis=1) & (reached[:, train] >= settings.max_tokens)
                enough = np.flatnonzero(full)
                if len(enough):
                    yield batch.until(int(enough[0]))
                    return
            counts = counts + [len(batch.ids[split]) for split in splits]
            yield batch


def _needed(work: Work, first: Encoded, corpus: Corpus, settings: Settings) -> int:
    """Return the bytes that the remaining tokens will take, estimated from the `first` ones."""
    here = sum(map(work.bytes_of, first.ids.values()))
    sizes = []
    if corpus.text_bytes is not None and here:
        tokens = sum(map(len, first.ids.values()))
        sizes.append((corpus.text_bytes - work.text_bytes) * tokens / here)
    if settings.max_tokens is not None:
        sizes.append(settings.max_tokens - work.tokens)
    return max(0, int(min(sizes, default=0) * DTYPE.itemsize * _MARGIN))


def _end(corpus: Corpus, tokenizer: Tokenizer) -> Ids | None:
    """Return the ids that close a document, where the corpus consists of documents."""
    if not corpus.separated:
        return None
    if tokenizer.end_of_text is None:
        return tokenizer.encode(DOCUMENT_END)
    return np.array([tokenizer.end_of_text], dtype=np.uint16)


def _size_differs(given: Path, source: dict[str, Any]) -> bool:
    """Return whether the files at `given` have another size than when the corpus was made."""
    if "bytes" not in source:
        return False
    if given.is_file():
        files = [given]
    elif "pattern" in source:
        files = list(given.glob(source["pattern"]))
    else:
        files = text_folders.find(given).files
    before = int(source["bytes"]) + int(source.get("left_out", {}).get("bytes", 0))
    return sum(map(text_files.size, files)) != before


def _error(message: str) -> UserError:
    return UserError(message, code=Exit.DATA)
