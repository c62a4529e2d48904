"""The text of Tiny Shakespeare: the bundled edition, or a file of the user."""

from __future__ import annotations

import hashlib
import lzma
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt2.config.errors import Exit, UserError
from gpt2.data.corpus import Request

SHIPPED = Path(__file__).resolve().parents[1] / "shakespeare" / "tiny_shakespeare.txt.xz"
SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"


@dataclass(frozen=True)
class Text:
    """The text, and its `source` for meta.json."""

    text: str
    source: dict[str, Any]


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
    usual = sha256 == SHA256
    return {
        "address": address,
        "sha256": sha256,
        "bytes": len(content),
        "edition": "Tiny Shakespeare" if usual else "unknown",
        "licence": "public domain (William Shakespeare)" if usual else "unknown",
    }
