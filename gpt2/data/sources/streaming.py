"""The `datasets` library, made quiet and limited in time: lists files and streams them."""

from __future__ import annotations

import hashlib
import importlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from gpt2.config.errors import Exit, UserError
from gpt2.config.text import first_line
from gpt2.data.sources import parquet_files

REMOTE = "hf://"
_LISTING_SECONDS = 30  # until the hub must have listed its files
_ANSWER_SECONDS = 20  # of silence, within one answer
_TRIES = 4  # of a read that breaks off; huggingface_hub makes each six times itself
_PAUSE_SECONDS = 5


class HubError(Exception):
    """The hub did not list its files; the message says why in a few words."""


@dataclass(frozen=True)
class Listing:
    """Files of a repository at one commit: names in order, total bytes, and a SHA-256.

    The hash is over names and contents, as in text_files.fingerprint() of local files.
    """

    commit: str
    names: list[str]
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Library:
    """The two packages, imported and configured."""

    datasets: Any
    hub: Any

    def listing(self, repository: str, pattern: str) -> Listing:
        """Ask the hub for the files of a repository; HubError after at most half a minute."""
        result: list[Listing | Exception] = []
        # ValueError: the answer is not JSON, as the sign-in page of a network.
        broken: tuple[type[Exception], ...] = (*_broken(), HubError, OSError, ValueError)

        def ask() -> None:
            try:
                result.append(_list(self.hub, repository, pattern))
            except broken as error:
                result.append(error)

        # A name look-up has no time limit and may hang; this thread can be left behind.
        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        thread.join(_LISTING_SECONDS)
        if not result:
            raise HubError(f"no answer in {_LISTING_SECONDS} seconds")
        if isinstance(result[0], Exception):
            raise HubError(first_line(result[0])[:200]) from result[0]
        return result[0]

    @contextmanager
    def open(self, place: str) -> Iterator[Any]:
        """Open a path, or a hf:// address as a stream of parts, with retries."""
        if place.startswith(REMOTE):
            with self.datasets.utils.file_utils.xopen(place, "rb") as file:
                yield file
        else:
            with parquet_files.open_file(Path(place)) as file:
                yield file


def load(dataset: str, cache: Path) -> Library:
    """Import the library and configure it; UserError (DATA) says how to install it.

    It sends no statistics, has time limits, prints nothing, and keeps its files in `cache`.
    """
    needed_by = f"--dataset {dataset}"
    datasets = parquet_files.library("datasets", needed_by)
    hub = parquet_files.library("huggingface_hub", needed_by)
    constants: Any = importlib.import_module("huggingface_hub.constants")
    constants.HF_HUB_DISABLE_TELEMETRY = True
    constants.HF_HUB_CACHE = str(cache / "hub")
    datasets.config.STREAMING_OPEN_MAX_RETRIES = _TRIES
    datasets.config.STREAMING_OPEN_RETRY_INTERVAL = _PAUSE_SECONDS
    datasets.config.STREAMING_READ_MAX_RETRIES = _TRIES
    datasets.config.STREAMING_READ_RETRY_INTERVAL = _PAUSE_SECONDS
    datasets.utils.logging.set_verbosity(datasets.utils.logging.CRITICAL)
    hub.utils.logging.set_verbosity(hub.utils.logging.CRITICAL)
    http = importlib.import_module("huggingface_hub.utils._http")

    def client() -> Any:
        made = http.default_client_factory()
        made.timeout = _ANSWER_SECONDS  # for requests without a limit of their own
        return made

    hub.set_client_factory(client)
    return Library(datasets, hub)


@contextmanager
def connected(place: str) -> Iterator[None]:
    """Say what a connection that broke off was for, and that the preparation can resume."""
    try:
        yield
    except _broken() as error:
        raise UserError(
            f"{place}: the hub no longer answers ({first_line(error)[:200]}): the same"
            " command continues where this one stopped",
            code=Exit.DATA,
        ) from error


def _list(hub: Any, repository: str, pattern: str) -> Listing:
    found = hub.HfApi().dataset_info(repository, files_metadata=True, timeout=_ANSWER_SECONDS)
    files = {file.rfilename: file for file in found.siblings}
    names = sorted(name for name in files if PurePosixPath(f"/{name}").match(f"/{pattern}"))
    if not names:
        raise HubError(f"it has no {pattern} any more")
    both = hashlib.sha256()
    for name in names:
        content = files[name].lfs["sha256"] if files[name].lfs else files[name].blob_id
        both.update(f"{PurePosixPath(name).name}\n{content}\n".encode())
    total = sum(files[name].size for name in names)
    return Listing(found.sha, names, total, both.hexdigest())


def _broken() -> tuple[type[Exception], ...]:
    """Return the library's exceptions for no connection, or a refusal by the hub."""
    # Not OSError: Arrow raises that for pages it cannot unpack.
    http_error = importlib.import_module("huggingface_hub.utils").httpx.HTTPError
    return (http_error, ConnectionError, TimeoutError, FileNotFoundError)
