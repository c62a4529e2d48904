"""Tokenizers: lossless, equal to one whole encode however a text is cut, and never downloading."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gpt2.config.errors import Exit, UserError
from gpt2.data import tokenizer as module
from gpt2.data.tokenizer import (
    VOCABULARY,
    VOCABULARY_SHA256,
    CharTokenizer,
    Gpt2Tokenizer,
    from_description,
)

GPT2 = Gpt2Tokenizer()
# What the pattern treats apart: white space of every kind, letters, digits, marks, contractions.
ATOMS = [
    *" \n\t\r\v\f\x1c\x1d\x1f\x85\xa0\u2003\u2028\u3000\u200b",
    *"  \n\n",
    *("a", "Zz", "word", "\xe9", "\u4e2d\u6587", "\u0301", "1", "23", "\u0664", "!", "...", "_"),
    *("'s", "'t", "'ll", "'", "\r\n", "\U0001f642", "<|endoftext|>", "\x00", " the", "  x"),
]


def random_texts(count: int, longest: int) -> list[str]:
    rng = random.Random(5)
    return ["".join(rng.choices(ATOMS, k=rng.randrange(longest))) for _ in range(count)]


def test_gpt2_is_tiktokens_ordinary_encoding() -> None:
    for text in ["", "ROMEO:\nO, speak again", *ATOMS, *random_texts(50, 40)]:
        ids = GPT2.encode(text)
        assert ids.dtype == np.uint16
        assert ids.tolist() == GPT2._encoding.encode_ordinary(text)
        assert GPT2.decode(ids) == text
    assert GPT2.encode("Hello world").tolist() == [15496, 995]
    assert 50256 not in GPT2.encode("<|endoftext|>")
    assert GPT2.decode([50256]) == "<|endoftext|>"
    assert (GPT2.vocab_size, GPT2.end_of_text) == (50257, 50256)


def test_every_cut_is_safe() -> None:
    for text in random_texts(300, 12):
        whole = GPT2.encode(text).tolist()
        for match in module._SAFE_CUT.finditer(text):
            place = match.start()
            parts = [*GPT2.encode(text[:place]).tolist(), *GPT2.encode(text[place:]).tolist()]
            assert parts == whole, (text, place)


@pytest.mark.parametrize("tokenizer", [GPT2, CharTokenizer("".join(ATOMS))])
def test_byte_lengths_count_the_text(tokenizer: module.Tokenizer) -> None:
    lengths = tokenizer.byte_lengths()
    assert lengths.shape == (tokenizer.vocab_size,)
    for text in random_texts(50, 40):
        assert lengths[tokenizer.encode(text)].sum() == len(text.encode())
    assert GPT2.byte_lengths()[50256] == 0


@pytest.mark.parametrize("tokenizer", [GPT2, CharTokenizer("".join(ATOMS))])
def test_a_stream_is_the_text_in_whole_characters(tokenizer: module.Tokenizer) -> None:
    for text in random_texts(50, 40):
        pieces = list(tokenizer.decode_stream(int(i) for i in tokenizer.encode(text)))
        assert "".join(pieces) == text
    smile = [int(i) for i in GPT2.encode("a\U0001f642b")]
    assert len(smile) == 4  # two of them for one character
    assert list(GPT2.decode_stream(smile)) == ["a", "", "\U0001f642", "b", ""]


def test_a_stream_of_broken_characters_is_what_decode_gives() -> None:
    rng = random.Random(3)
    for _ in range(200):
        ids = [rng.choice([rng.randrange(256), rng.randrange(50257)]) for _ in range(12)]
        assert "".join(GPT2.decode_stream(ids)) == GPT2.decode(ids)


def test_char_ids_are_in_code_point_order() -> None:
    chars = CharTokenizer("hello \U0001f642\n")
    assert chars.chars == "\n ehlo\U0001f642"
    assert chars.encode("hole\n").tolist() == [3, 5, 4, 2, 0]
    assert chars.decode(chars.encode("hello \U0001f642")) == "hello \U0001f642"
    assert (chars.vocab_size, chars.end_of_text) == (7, None)


@pytest.mark.parametrize(("text", "name"), [("hex", r"'x' \(U\+0078\)"), ("\U0001f643", "1F643")])
def test_an_unknown_character_is_named(text: str, name: str) -> None:
    with pytest.raises(UserError, match=name) as caught:
        CharTokenizer("hello").encode(text)
    assert caught.value.code == Exit.DATA


def test_a_table_that_is_empty_or_too_large_is_refused() -> None:
    with pytest.raises(UserError, match="0 different characters"):
        CharTokenizer("")
    with pytest.raises(UserError, match="gpt2"):
        CharTokenizer(chr(i + 0x10000) for i in range(65536))
    assert CharTokenizer(chr(i + 0x10000) for i in range(65535)).encode(chr(0x1FFFE)) == [65534]


@pytest.mark.parametrize("tokenizer", [GPT2, CharTokenizer("ab\n\xe9\u4e2d")])
def test_a_description_rebuilds_the_tokenizer(tokenizer: module.Tokenizer) -> None:
    description = json.loads(json.dumps(tokenizer.describe()))
    again = from_description(description)
    assert again.describe() == description
    assert again.encode("ab\n\xe9").tolist() == tokenizer.encode("ab\n\xe9").tolist()


@pytest.mark.parametrize("description", [{}, {"name": "t5"}, {"name": "char"}])
def test_an_unknown_description_is_refused(description: dict[str, str]) -> None:
    with pytest.raises(UserError, match="tokenizer"):
        from_description(description)


@pytest.mark.parametrize("name", list(VOCABULARY_SHA256))
@pytest.mark.parametrize("damage", ["flip", "missing"])
def test_a_damaged_vocabulary_never_reaches_tiktoken(
    name: str, damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in VOCABULARY_SHA256:
        shutil.copyfile(VOCABULARY / path, tmp_path / path)
    damaged = tmp_path / name
    if damage == "flip":
        content = bytearray(damaged.read_bytes())
        content[1000] ^= 1
        damaged.write_bytes(content)
    else:
        damaged.unlink()
    monkeypatch.setattr("tiktoken.get_encoding", lambda _: pytest.fail("tiktoken was called"))
    with pytest.raises(UserError, match=name) as caught:
        Gpt2Tokenizer(tmp_path).encode("x")
    assert caught.value.code == Exit.DATA
    assert damaged.exists() == (damage == "flip")


@pytest.mark.parametrize("before", [None, "/somewhere"])
def test_the_environment_is_restored(before: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if before is None:
        monkeypatch.delenv("TIKTOKEN_CACHE_DIR", raising=False)
    else:
        monkeypatch.setenv("TIKTOKEN_CACHE_DIR", before)
    Gpt2Tokenizer().encode("x")
    assert os.environ.get("TIKTOKEN_CACHE_DIR") == before


def test_the_import_is_light() -> None:
    code = (
        "import sys, gpt2.data.tokenizer as t; t.Gpt2Tokenizer().describe();"
        "assert not {'tiktoken', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
