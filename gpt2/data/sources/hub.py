"""Corpora of the Hugging Face hub: parquet files, streamed from the hub or read from a folder."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt2.config.errors import Exit, UserError
from gpt2.config.preparation import prepare_command
from gpt2.data.corpus import Corpus, Document, Request
from gpt2.data.sources import parquet_files, streaming, text_files
from gpt2.data.splits import SPLITS, split_of
from gpt2.data.tokenizer import Gpt2Tokenizer, Tokenizer

_NUMBERED = re.compile(r"-of-(\d+)")  # the number of files, in a file's name


@dataclass(frozen=True)
class Repository:
    """A corpus on the hub, as its plug-in describes it.

    files: the pattern of its parquet files; `column` of each row holds a document.
    download_bytes, text_bytes: rough sizes of the files and of their text in UTF-8.
    held_out_one_in: one document of this many is for validation or test, by a hash of its text.
    """

    dataset: str
    name: str
    files: str
    licence: str
    download_bytes: float
    text_bytes: float
    held_out_one_in: int
    column: str = "text"


@dataclass(frozen=True)
class Files:
    """The files of a corpus: paths or addresses in order, bytes of text, and the source."""

    places: list[str]
    text_bytes: int
    source: dict[str, Any]


def open_repository(repository: Repository, request: Request) -> Corpus:
    """Open a corpus: --input is a folder in the repository's layout; the default is the hub.

    Raises UserError (DATA): when the hub does not answer within half a minute it says which files
    to put where; for a folder it names the problem.
    """
    if request.tokenizer not in (None, Gpt2Tokenizer.name):
        raise _error(
            f"--tokenizer {request.tokenizer}: --dataset {repository.dataset} is in GPT-2's"
            " encoding; for another take its files as --dataset text"
        )
    library = streaming.load(repository.dataset, request.downloads / "huggingface")
    if request.input is None:
        files = _listed(repository, request.downloads, library)
    else:
        files = _placed(repository, request.input)
    return HubCorpus(repository, files, library)


class HubCorpus:
    """Rows of parquet files, one document each, streamed by the `datasets` library."""

    separated = True
    splits = SPLITS

    def __init__(self, repository: Repository, files: Files, library: streaming.Library) -> None:
        self._repository = repository
        self._places = files.places
        self._library = library
        self.source = files.source
        self.text_bytes = files.text_bytes

    def tokenizer(self) -> Tokenizer:
        """Return GPT-2's tokenizer."""
        return Gpt2Tokenizer()

    def documents(self, skip: int = 0) -> Iterator[Document]:
        """Yield the documents, file by file.

        Of skipped files only the footer is read, of others only the row groups needed.
        """
        one_in = self._repository.held_out_one_in
        for place in self._places:
            column = self._repository.column
            with self._reading(place), self._library.open(place) as file:
                rows = parquet_files.read_footer(file, place, column).rows
                if skip < rows:
                    for row, text in parquet_files.texts(file, place, column, skip):
                        yield Document(split_of(text, one_in), [text], f"{place}, row {row:,}")
            skip = max(0, skip - rows)

    @contextlib.contextmanager
    def _reading(self, place: str) -> Iterator[None]:
        """Name the file in its errors."""
        with parquet_files.reading(place):
            if place.startswith(streaming.REMOTE):
                with streaming.connected(place):
                    yield
            else:
                yield


def _listed(repository: Repository, downloads: Path, library: streaming.Library) -> Files:
    """Ask the hub for its files."""
    try:
        found = library.listing(repository.name, repository.files)
    except streaming.HubError as error:
        raise _error(_way_out(repository, downloads, error)) from error
    source = {
        "address": f"https://huggingface.co/datasets/{repository.name}",
        "commit": found.commit,
        "files": len(found.names),
        "bytes": found.bytes,
        "sha256": found.sha256,
        "licence": repository.licence,
    }
    root = f"{streaming.REMOTE}datasets/{repository.name}@{found.commit}"
    places = [f"{root}/{name}" for name in found.names]
    return Files(places, int(repository.text_bytes), source)


def _placed(repository: Repository, folder: Path) -> Files:
    """Find the files in a folder with the repository's layout."""
    found = sorted(path for path in folder.glob(repository.files) if path.is_file())
    if not found:
        raise _error(
            f"--input {folder}: holds no {repository.files}, which is how {repository.name} has"
            " its files; for parquet files of another layout use --dataset text"
        )
    for path in found:
        if (named := _NUMBERED.search(path.name)) and int(named[1]) != len(found):
            raise _error(
                f"--input {folder}: {len(found)} of the {int(named[1])} files {repository.files}"
                " are there; fetch the rest, or take those as --dataset text"
            )
    size = sum(parquet_files.footer_of(path, repository.column).text_bytes for path in found)
    source = {
        "address": str(folder.resolve()),
        "repository": repository.name,
        "pattern": repository.files,
        **text_files.fingerprint(found),
        "licence": repository.licence,
    }
    return Files([str(path.resolve()) for path in found], size, source)


def _way_out(repository: Repository, downloads: Path, why: Exception) -> str:
    folder = str(downloads / repository.dataset)
    words = ["hf", "download", repository.name, "--repo-type", "dataset"]
    fetch = shlex.join([*words, "--include", repository.files, "--local-dir", folder])
    prepare = prepare_command(downloads.parent / repository.dataset)
    return (
        f"{repository.name} is out of reach on the Hugging Face hub ({why}): where there is a"
        f" network, {fetch} fetches its files {repository.files}"
        f" ({repository.download_bytes / 1e9:.2g} GB); bring that folder here, then"
        f" {prepare} --input {shlex.quote(folder)}"
    )


def _error(message: str) -> UserError:
    return UserError(message, code=Exit.DATA)
