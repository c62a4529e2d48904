"""Encoders of text into GPT-2's ids: tiktoken, or gigatoken where it proves to be equal."""

from __future__ import annotations

import base64
import importlib
import importlib.metadata
import itertools
import random
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any

import numpy as np

from gpt2.config import scratch
from gpt2.config.errors import Exit, UserError
from gpt2.config.text import pip_install
from gpt2.data.memmap import Ids
from gpt2.data.tokenizer import Gpt2Tokenizer, Tokenizer

BACKENDS = ("auto", "tiktoken", "gigatoken")
GIGATOKEN = "0.10.0"  # the only tested release; others may differ in any id
_RENEWED = 64 << 20  # characters after which gigatoken's unbounded cache is dropped


def choose(
    backend: str, tokenizer: Tokenizer, sample: Sequence[str], say: Callable[[str], None]
) -> Callable[[str], Ids]:
    """Return the encoder for `tokenizer`: its own encode(), or gigatoken with the same ids.

    gigatoken is used only if it is the tested release, and encodes a fixed probe and `sample`, the
    beginning of the data, as tiktoken does. Otherwise "auto" uses tiktoken and calls `say` with the
    reason, except when gigatoken is not installed. For "gigatoken" it raises UserError (CONFIG).
    """
    able = isinstance(tokenizer, Gpt2Tokenizer) and not tokenizer.special
    if backend == "tiktoken" or (backend == "auto" and not able):
        return tokenizer.encode
    try:
        return _admitted(tokenizer, sample)
    except ModuleNotFoundError:
        why = f"it is not installed ({pip_install(f'gigatoken=={GIGATOKEN}')})"
        silent = True
    except _RefusedError as error:
        why, silent = str(error), False
    if backend == "auto":
        if not silent:
            say(f"gigatoken is not used: {why}; tiktoken encodes")
        return tokenizer.encode
    raise UserError(
        f"--tokenizer-backend gigatoken: {why}; use --tokenizer-backend tiktoken", code=Exit.CONFIG
    )


class _RefusedError(Exception):
    """The reason why gigatoken is not used, in a few words."""


def _admitted(tokenizer: Tokenizer, sample: Sequence[str]) -> Callable[[str], Ids]:
    """Return gigatoken's encode, checked.

    Raises _RefusedError, or ModuleNotFoundError.
    """
    if not isinstance(tokenizer, Gpt2Tokenizer):
        raise _RefusedError(f"it has no tokenizer {tokenizer.name!r}")
    if tokenizer.special:
        raise _RefusedError("it cannot do --end-of-text token")
    library = importlib.import_module("gigatoken")
    version = importlib.metadata.version("gigatoken")
    if version != GIGATOKEN:
        raise _RefusedError(f"its release {version} was not tested, {GIGATOKEN} was")
    encode = _Gigatoken(library, tokenizer.ranks())
    for text in itertools.chain(probe(), sample):
        if not np.array_equal(encode(text), tokenizer.encode(text)):
            raise _RefusedError(f"it encodes {text[:40]!r}... unlike tiktoken")
    return encode


class _Gigatoken:
    """gigatoken's encode(), one text at a time, with bounded memory."""

    def __init__(self, library: Any, ranks: dict[bytes, int]) -> None:
        self._library = library
        self._table = b"".join(b"%s %d\n" % (base64.b64encode(t), r) for t, r in ranks.items())
        self._lock = Lock()
        self._left = 0
        self._encoder: Any = None

    def __call__(self, text: str) -> Ids:
        """Return the ids (n,) of `text`; names of special tokens in it are ordinary text."""
        with self._lock:
            if self._left <= 0:
                self._encoder = None  # freed before the next is built
                self._encoder, self._left = self._load(), _RENEWED
            self._left -= len(text)
            found: Ids = self._encoder.encode(text).astype(np.uint16)
        return found

    def _load(self) -> Any:
        with scratch.folder() as folder:
            file = folder / "table.tiktoken"
            file.write_bytes(self._table)
            # Without special tokens: it would find their names in the text, and its encode() has no
            # option against that.
            return self._library.Tokenizer.from_tiktoken(
                str(file), pretokenizer="gpt2", special_tokens={}
            )


def probe() -> list[str]:
    """Return some two hundred texts that tokenizers get wrong: white space, marks, scripts."""
    rng = random.Random(20260901)
    atoms = [
        "<|endoftext|>", "don't", "WE'LL", "'s", "'t", "'ll", "'", "\u2019s", " ", "  ", " \n",
        "\n", "\n\n", "\r\n", "\t", "\v", "\f", "\x1c", "\x1d", "\x1f", "\x85", "\xa0", "\u2003",
        "\u2028", "\u3000", "\u200b", "\u0301", "\ufeff", "\ufffd", "\0", "a", "Word", "word",
        " the", "  x", "123", "4", "\u0663", "\u0664", "\xb2", "caf\xe9", "\u4e2d\u6587",
        "\u0440\u0443", "\u0939\u093f", "\U0001f642", "\U0001f468\u200d\U0001f469", "...", "--",
        "_", "!", "{}", "=" * 40,
    ]  # fmt: skip
    mixed = ["".join(rng.choices(atoms, k=rng.randrange(2, 30))) for _ in range(160)]
    return ["", *atoms, "x" * 5000, " " * 5000, *mixed]
