"""Documents in batches: the ids are those of each document at once, wherever it is cut."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest

from gpt2.config.errors import Exit, UserError
from gpt2.data import tokenizer as tokenizer_module
from gpt2.data.corpus import Document
from gpt2.data.meta import NEEDED
from gpt2.data.prepare import chunking
from gpt2.data.prepare.chunking import Position, batches, cut
from gpt2.data.tokenizer import CharTokenizer, Tokenizer
from tests.data.test_tokenizer import ATOMS, GPT2, random_texts

CHARS = CharTokenizer("".join(ATOMS))


def random_pieces(text: str, rng: random.Random) -> list[str]:
    pieces = []
    while text:
        size = rng.randrange(0, 9)
        pieces.append(text[:size])
        text = text[size:]
    return pieces


def texts_of(tokenizer: Tokenizer, pieces: Iterable[str], skip: int = 0) -> list[str]:
    found = list(cut(tokenizer, Document("train", pieces, "a file"), skip))
    assert [text.ends for text in found] == [False] * (len(found) - 1) + [True] * bool(found)
    return [text.text for text in found]


def ids_of(tokenizer: Tokenizer, texts: Iterable[str]) -> list[int]:
    return [int(i) for text in texts if text for i in tokenizer.encode(text)]


@pytest.mark.parametrize("tokenizer", [GPT2, CHARS])
def test_pieces_encode_like_the_whole(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(7)
    cuts = 0
    for text in random_texts(400, 60):
        monkeypatch.setattr(chunking, "BATCH", rng.randrange(1, 12))
        monkeypatch.setattr(tokenizer_module, "_WINDOW", rng.randrange(1, 12))
        found = texts_of(tokenizer, random_pieces(text, rng))
        cuts += max(0, len(found) - 1)
        assert "".join(found) == text
        expected = tokenizer.encode(text).tolist() if text else []
        assert ids_of(tokenizer, found) == expected, repr(text)
        # From any cut on, with other cuts, the rest is the rest.
        place = rng.randrange(len(found) + 1)
        begin = sum(map(len, found[:place]))
        monkeypatch.setattr(chunking, "BATCH", rng.randrange(1, 12))
        rest = texts_of(tokenizer, random_pieces(text, rng), begin)
        assert "".join(rest) == text[begin:]
        assert ids_of(tokenizer, [*found[:place], *rest]) == expected, repr(text)
    assert cuts > 1000


def test_texts_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunking, "BATCH", 1000)
    text = "some words, and more. " * 2000
    sizes = [len(part) for part in texts_of(GPT2, [text])]
    assert max(sizes) <= 2000
    assert sum(sizes) == len(text)


def test_a_text_without_a_cut_names_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunking, "BATCH", 100)
    monkeypatch.setattr(chunking, "LONGEST", 1600)
    bad = "\xe9" * 99 + " " + "y" * 5000
    with pytest.raises(UserError, match=r"^a file: no blank in .* character 99 \(byte 198\)") as it:
        texts_of(GPT2, [bad])
    assert it.value.code == Exit.DATA
    # The place is that in the document, also where the reading begins later.
    before = "\xe9 " * 60
    with pytest.raises(UserError, match=r"character 219 \(byte 378\)"):
        texts_of(GPT2, [before + bad[:99], bad[99:]], 119)
    text = "y" * 1500 + " z"
    assert ids_of(GPT2, texts_of(GPT2, [text])) == GPT2.encode(text).tolist()
    assert len(ids_of(CharTokenizer("y"), texts_of(CharTokenizer("y"), ["y" * 5000]))) == 5000


class Listed:
    """A corpus of listed documents."""

    separated = True
    text_bytes = None
    splits = NEEDED

    def __init__(self, documents: list[tuple[str, str]]) -> None:
        self.source: dict[str, Any] = {}
        self._documents = documents

    def tokenizer(self) -> Tokenizer:
        return GPT2

    def documents(self, skip: int = 0) -> Iterator[Document]:
        for split, text in self._documents[skip:]:
            yield Document(split, [text])


def test_a_corpus_goes_on_at_the_position_of_any_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(9)
    texts = random_texts(60, 80)
    corpus = Listed([(rng.choice(["train", "val"]), text) for text in texts])

    def told(found: Iterable[chunking.Batch]) -> list[tuple[str, str]]:
        """What is written: the characters of each split, with | where a document ends."""
        parts = [(t.split, t.text + "|" * t.ends) for batch in found for t in batch.texts]
        return [(s, "".join(p for split, p in parts if split == s)) for s in ("train", "val")]

    monkeypatch.setattr(chunking, "BATCH", 40)
    every = list(batches(corpus, GPT2, Position()))
    whole = told(every)
    assert [len(text) for _, text in whole] == [
        sum(len(t) + bool(t) for split, t in corpus._documents if split == s)
        for s in ("train", "val")
    ]
    empty = sum(not text for text in texts)
    assert every[-1].position == Position(len(texts))
    assert every[-1].empty == empty > 0
    assert any(batch.position.characters for batch in every)
    for count in range(len(every) + 1):
        last = every[count - 1] if count else chunking.Batch()
        monkeypatch.setattr(chunking, "BATCH", rng.randrange(1, 90))
        rest = list(batches(corpus, GPT2, last.position, last.empty))
        assert told([*every[:count], *rest]) == whole
        assert rest[-1].empty == empty


def test_batches_hold_many_small_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunking, "BATCH", 100)
    found = list(batches(Listed([("train", "ab " * 3)] * 100), GPT2, Position()))
    assert {len(batch.texts) for batch in found[:-1]} == {12}
    assert sum(len(batch.texts) for batch in found) == 100
    assert np.all([batch.position.characters == 0 for batch in found])
