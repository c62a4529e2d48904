"""The faster tokenizer: admitted only where it does what tiktoken does, and bounded."""

from __future__ import annotations

import base64
import importlib.metadata
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tiktoken

from gpt2.config.errors import Exit, UserError
from gpt2.data.prepare import backends
from gpt2.data.tokenizer import CharTokenizer
from tests.data.prepare.test_pipeline import contents, run, write_corpus
from tests.data.test_tokenizer import ATOMS, GPT2, random_texts


class Stand:
    """What stands for gigatoken: an encoder of the table it is given, spoilt by `spoil`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, version: str = backends.GIGATOKEN) -> None:
        self.loads = 0
        self.specials: set[str] = set()
        self.spoil: Callable[[str, list[int]], list[int]] = lambda _, ids: ids
        self.Tokenizer = self
        monkeypatch.setitem(sys.modules, "gigatoken", self)  # type: ignore[arg-type]
        monkeypatch.setattr(importlib.metadata, "version", lambda _: version)

    def from_tiktoken(self, path: str, pretokenizer: str, special_tokens: dict[str, int]) -> Stand:
        assert pretokenizer == "gpt2"
        self.loads += 1
        lines = [line.split() for line in Path(path).read_bytes().splitlines()]
        self.encoding = tiktoken.Encoding(
            "stand",
            pat_str=GPT2._encoding._pat_str,
            mergeable_ranks={base64.b64decode(token): int(rank) for token, rank in lines},
            special_tokens=special_tokens,
        )
        return self

    def encode(self, text: str) -> Any:
        found = self.encoding.encode(text, allowed_special="all")  # as gigatoken does
        return np.array(self.spoil(text, found), dtype=np.uint32)


def chosen(backend: str, sample: list[str]) -> tuple[Any, list[str]]:
    said: list[str] = []
    return backends.choose(backend, GPT2, sample, said.append), said


@pytest.mark.parametrize("backend", ["auto", "gigatoken"])
def test_what_does_the_same_is_taken(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stand = Stand(monkeypatch)
    encode, said = chosen(backend, ["a sample <|endoftext|>"])
    assert isinstance(encode, backends._Gigatoken)
    assert said == []
    for text in random_texts(100, 40):
        ids = encode(text)
        assert ids.dtype == np.uint16
        assert ids.tolist() == GPT2.encode(text).tolist()
    assert stand.loads == 1


@pytest.mark.slow
def test_its_memory_is_let_go_of_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    stand = Stand(monkeypatch)
    encode, _ = chosen("auto", [])
    before = stand.loads
    monkeypatch.setattr(backends, "_RENEWED", 100)
    encode._left = 0
    for _ in range(10):
        encode("some text." * 5)
    assert stand.loads == before + 5


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda text, ids: [50256] if text == "<|endoftext|>" else ids, "endoftext"),
        (lambda text, ids: ids[:-1] if text.endswith("\u3000") else ids, "\\u3000"),
        (lambda text, ids: [*ids, 1] if text.startswith("the data") else ids, "the data"),
    ],
)
def test_what_differs_is_not(
    spoil: Callable[[str, list[int]], list[int]], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand = Stand(monkeypatch)
    stand.spoil = spoil
    encode, (line,) = chosen("auto", ["the data begin so"])
    assert encode == GPT2.encode
    assert "unlike tiktoken" in line
    assert named in line
    with pytest.raises(UserError, match="--tokenizer-backend gigatoken: it encodes") as caught:
        chosen("gigatoken", ["the data begin so"])
    assert caught.value.code == Exit.CONFIG


def test_another_release_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    Stand(monkeypatch, version="0.11.0")
    encode, (line,) = chosen("auto", [])
    assert encode == GPT2.encode
    assert "0.11.0 was not tested" in line


def test_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gigatoken", None)  # type: ignore[arg-type]
    assert chosen("auto", []) == (GPT2.encode, [])
    with pytest.raises(UserError, match=r"not installed \(.* -m pip install gigatoken==0\.10\.0\)"):
        chosen("gigatoken", [])


def test_characters_are_not_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    Stand(monkeypatch)
    chars = CharTokenizer("ab")
    said: list[str] = []
    assert backends.choose("auto", chars, [], said.append) == chars.encode
    assert said == []
    with pytest.raises(UserError, match="'char'"):
        backends.choose("gigatoken", chars, [], said.append)


def test_tiktoken_is_tiktoken(monkeypatch: pytest.MonkeyPatch) -> None:
    stand = Stand(monkeypatch)
    assert chosen("tiktoken", ["x"]) == (GPT2.encode, [])
    assert stand.loads == 0


def test_the_probe_has_what_tokenizers_get_wrong() -> None:
    probe = backends.probe()
    assert len(probe) >= 200
    assert probe == backends.probe()
    everything = "".join(probe)
    assert [atom for atom in ATOMS if not atom.isalnum() and atom not in everything] == []


def test_gigatoken_itself(tmp_path: Path) -> None:
    """Where it is installed: the same ids, and the same files, by several workers."""
    library: ModuleType = pytest.importorskip("gigatoken")
    assert library is not None
    encode, said = chosen("gigatoken", random_texts(300, 60))
    assert said == []
    for text in random_texts(2000, 60):
        assert np.array_equal(encode(text), GPT2.encode(text)), text
    corpus = write_corpus(tmp_path / "in")
    run(corpus, tmp_path / "a", workers=1)
    run(corpus, tmp_path / "b", workers=3, backend="gigatoken")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
