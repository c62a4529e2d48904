"""Text to token ids and back: GPT-2's byte-pair encoding, and single characters."""

from __future__ import annotations

import codecs
import hashlib
import importlib
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from gpt2.config.errors import Exit, UserError

if TYPE_CHECKING:
    import tiktoken

VOCABULARY = Path(__file__).resolve().parent / "vocabulary"
# File names are those of tiktoken's cache (vocabulary/README.md).
VOCABULARY_SHA256 = {
    "6d1cbeee0f20b3d9449abfede4726ed8212e3aee": (  # vocab.bpe
        "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"
    ),
    "6c7ea1a7e38e3a7f062df639a5b80947f075ffe6": (  # encoder.json
        "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"
    ),
}
GPT2_VOCAB_SIZE = 50257
GPT2_END_OF_TEXT = 50256
END_OF_TEXT = "<|endoftext|>"  # the spelling of that id
MAX_CHARACTERS = 65535  # ids are uint16

# In GPT-2's pattern no token continues from a non-space into white space, and nothing looks back: a
# cut there changes no token. Python's \S excludes all that the pattern calls \s. The right side is
# spelled out, because Python's \s includes four control characters that the pattern's does not.
_SAFE_CUT = re.compile(r"(?<=\S)(?=[\t\n\v\f\r ])")
_WINDOW = 4096

Ids = NDArray[np.uint16]


class Tokenizer(ABC):
    """Lossless conversion of text to ids in [0, vocab_size) and back."""

    name: ClassVar[str]
    vocab_size: int
    end_of_text: int | None  # the id that ends a document, if any

    @abstractmethod
    def encode(self, text: str) -> Ids:
        """Return the ids (n,) of `text`; names of special tokens in it are ordinary text."""

    @abstractmethod
    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of `ids`; bytes that are not UTF-8 (half a character) become U+FFFD."""

    @abstractmethod
    def spell(self, token: int) -> bytes:
        """Return the UTF-8 bytes of one id, perhaps only a part of a character."""

    def decode_stream(self, ids: Iterable[int]) -> Iterator[str]:
        """Yield pieces of decode(ids), one for each id; a character comes when it is complete."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for token in ids:
            yield decoder.decode(self.spell(token))
        yield decoder.decode(b"", final=True)

    @abstractmethod
    def byte_lengths(self) -> NDArray[np.int64]:
        """Return the UTF-8 bytes of text of each id, (vocab_size,); 0 for end-of-text."""

    @abstractmethod
    def cut(self, text: str) -> int:
        """Return the last index where `text` can be cut without changing an id, or 0."""

    @abstractmethod
    def check(self) -> None:
        """Check the files that it is read from; UserError (DATA) names one that is damaged."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return JSON for meta.json and run.json; from_description() rebuilds this from it."""


class Gpt2Tokenizer(Tokenizer):
    """GPT-2's byte-pair encoding, by tiktoken, from the vocabulary shipped in `vocabulary/`.

    The files are checked and loaded at the first use; UserError (DATA) names one that is damaged.
    `special`: the text `<|endoftext|>` is encoded as the end of a document.
    """

    name = "gpt2"

    def __init__(self, vocabulary: Path = VOCABULARY, special: bool = False) -> None:
        self._allowed = {END_OF_TEXT} if special else set()
        self.vocab_size = GPT2_VOCAB_SIZE
        self.end_of_text = GPT2_END_OF_TEXT
        self._vocabulary = vocabulary

    def encode(self, text: str) -> Ids:
        """Return the ids (n,) of `text`; `<|endoftext|>` is ordinary text unless `special`."""
        ids = self._encoding.encode_to_numpy(
            text, allowed_special=self._allowed, disallowed_special=()
        )
        return ids.astype(np.uint16)

    @property
    def special(self) -> bool:
        """Return whether `<|endoftext|>` in a text is the end of a document."""
        return bool(self._allowed)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of `ids`; half a character becomes U+FFFD."""
        return self._encoding.decode([int(i) for i in ids])

    def spell(self, token: int) -> bytes:
        """Return the UTF-8 bytes of one id."""
        return self._encoding.decode_single_token_bytes(token)

    def byte_lengths(self) -> NDArray[np.int64]:
        """Return the UTF-8 bytes of each id, (50257,)."""
        spell = self._encoding.decode_single_token_bytes
        lengths = [len(spell(i)) for i in range(GPT2_END_OF_TEXT)]
        return np.array([*lengths, 0], dtype=np.int64)

    def cut(self, text: str) -> int:
        """Return the index of the last white space after a non-space, or 0."""
        return _last_safe_cut(text)

    def describe(self) -> dict[str, Any]:
        """Return JSON: name, sizes and the SHA-256 of the vocabulary files."""
        return {
            "name": self.name,
            "vocab_size": self.vocab_size,
            "end_of_text": self.end_of_text,
            "vocabulary_sha256": list(VOCABULARY_SHA256.values()),
        }

    def check(self) -> None:
        """Check the SHA-256 of both vocabulary files; UserError (DATA) names a wrong one."""
        check_vocabulary(self._vocabulary)

    def ranks(self) -> dict[bytes, int]:
        """Return every token but end-of-text with its id, which is also its merge rank."""
        spell = self._encoding.decode_single_token_bytes
        return {spell(i): i for i in range(GPT2_END_OF_TEXT)}

    @cached_property
    def _encoding(self) -> tiktoken.Encoding:
        # tiktoken deletes a file that fails its check, and downloads it without a time-out.
        check_vocabulary(self._vocabulary)
        loader = importlib.import_module("tiktoken")
        before = os.environ.get("TIKTOKEN_CACHE_DIR")
        os.environ["TIKTOKEN_CACHE_DIR"] = str(self._vocabulary)
        try:
            encoding: tiktoken.Encoding = loader.get_encoding("gpt2")
        finally:
            if before is None:
                del os.environ["TIKTOKEN_CACHE_DIR"]
            else:
                os.environ["TIKTOKEN_CACHE_DIR"] = before
        return encoding


class CharTokenizer(Tokenizer):
    """One id per character, in the order of code points; no end-of-text."""

    name = "char"

    def __init__(self, chars: Iterable[str]) -> None:
        self.chars = "".join(sorted(set(chars)))
        self.vocab_size = len(self.chars)
        self.end_of_text = None
        if not 0 < self.vocab_size <= MAX_CHARACTERS:
            raise _error(
                f"a text of {self.vocab_size:,} different characters: --tokenizer char takes 1 to"
                f" {MAX_CHARACTERS:,}; use --tokenizer gpt2"
            )
        points = _code_points(self.chars)
        self._known = np.zeros(int(points[-1]) + 1, dtype=np.bool_)
        self._known[points] = True
        self._ids = np.zeros(len(self._known), dtype=np.uint16)
        self._ids[points] = np.arange(self.vocab_size)

    def encode(self, text: str) -> Ids:
        """Return the ids (n,) of `text`; UserError (DATA) names an unknown character."""
        points = _code_points(text)
        inside = points < len(self._known)
        known = inside & self._known[np.where(inside, points, 0)]
        if not known.all():
            char = text[int(np.argmin(known))]
            raise _error(
                f"character {char!r} (U+{ord(char):04X}) is not among the {self.vocab_size}"
                " characters of this tokenizer: leave it out, or use --tokenizer gpt2"
            )
        return self._ids[points]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of `ids`."""
        return "".join(self.chars[int(i)] for i in ids)

    def spell(self, token: int) -> bytes:
        """Return the UTF-8 bytes of one character."""
        return self.chars[token].encode()

    def byte_lengths(self) -> NDArray[np.int64]:
        """Return the UTF-8 bytes of each character, (vocab_size,)."""
        return np.array([len(char.encode()) for char in self.chars], dtype=np.int64)

    def cut(self, text: str) -> int:
        """Return the length of the text: it can be cut anywhere."""
        return len(text)

    def check(self) -> None:
        """Do nothing: it reads no files."""

    def describe(self) -> dict[str, Any]:
        """Return JSON: name, size and the characters in the order of their ids."""
        return {
            "name": self.name,
            "vocab_size": self.vocab_size,
            "end_of_text": None,
            "characters": self.chars,
        }


def from_description(description: Mapping[str, Any], source: Path | None = None) -> Tokenizer:
    """Rebuild a tokenizer from the result of describe().

    Raises UserError (DATA), naming the file `source`, where the tokenizer is unknown, or where the
    rebuilt one differs from the description: ids would mean other text.
    """
    where = f"{source}: " if source else ""
    name = description.get("name")
    if name == Gpt2Tokenizer.name:
        found: Tokenizer = Gpt2Tokenizer()
    elif name == CharTokenizer.name and isinstance(description.get("characters"), str):
        found = CharTokenizer(description["characters"])
    else:
        raise _error(
            f"{where}tokenizer {name!r} is unknown to this program, or its description is damaged"
        )
    if wrong := [k for k, value in found.describe().items() if description.get(k) != value]:
        raise _error(
            f"{where}{wrong[0]} is not that of tokenizer {name!r}: it is another version's, or was"
            " edited or damaged"
        )
    return found


def check_vocabulary(folder: Path) -> None:
    """Check the SHA-256 of both vocabulary files; UserError (DATA) names a wrong one."""
    for name, expected in VOCABULARY_SHA256.items():
        path = folder / name
        way_out = "take it from the repository again (git checkout -- gpt2/data/vocabulary)"
        try:
            actual = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise _error(f"{path} cannot be read ({error.strerror}): {way_out}") from error
        if actual != expected:
            raise _error(f"{path} is damaged (SHA-256 {actual}, not {expected}): {way_out}")


def _last_safe_cut(text: str) -> int:
    """Return the last safe cut, searching from the end: it is nearly always in the last window."""
    for end in range(len(text), 0, -_WINDOW):
        places = [match.start() for match in _SAFE_CUT.finditer(text, max(0, end - _WINDOW), end)]
        if places:
            return places[-1]
    return 0


def _code_points(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


def _error(message: str) -> UserError:
    return UserError(message, code=Exit.DATA)
