"""Typed records of JSON: what is read, what is refused in which words, what is written back."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gpt2.config.errors import Exit, UserError
from gpt2.config.records import OMIT_NONE, Record, from_json, salvage, stored_as, to_json
from gpt2.files.json import read_record


@dataclass(frozen=True, kw_only=True)
class Part(Record):
    name: str
    ratio: float | None = None


@dataclass(frozen=True, kw_only=True)
class Whole(Record):
    count: int
    group: dict[str, str] = field(metadata=stored_as("for"))
    parts: tuple[Part, ...]
    pair: tuple[int, int] = (1, 2)
    yes: bool = False
    note: str | None = field(default=None, metadata=OMIT_NONE)


@dataclass(frozen=True, kw_only=True)
class Loose(Record):
    count: int | None = None
    words: tuple[str, ...] = ()


FULL: dict[str, Any] = {
    "later": {"of": [1]}, "count": 3, "for": {"a": "b"}, "parts": [{"name": "x", "ratio": 1}],
    "pair": [4, 5], "yes": True, "note": "n",
}  # fmt: skip


def test_a_record_is_read_and_written_back_as_it_was() -> None:
    whole = from_json(Whole, FULL)
    assert (whole.group, whole.parts[0].ratio, whole.pair) == ({"a": "b"}, 1, (4, 5))
    # Also the order, what is unknown here, and whole numbers where any number may stand.
    assert json.dumps(to_json(whole)) == json.dumps(FULL)
    changed = to_json(dataclasses.replace(whole, count=4))
    assert changed == {**FULL, "count": 4}


def test_what_an_older_version_lacks_has_its_default_and_none_can_be_omitted() -> None:
    small = {"count": 1, "for": {}, "parts": []}
    whole = from_json(Whole, small)
    assert (whole.pair, whole.yes, whole.note) == ((1, 2), False, None)
    assert to_json(whole) == {**small, "pair": [1, 2], "yes": False}
    assert "ratio" in to_json(Part(name="a"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"count": True}, "count is a boolean, not an integer"),
        ({"count": 1.5}, "count is a number, not an integer"),
        ({"count": None}, "count is null, not an integer"),
        ({"yes": 1}, "yes is an integer, not a boolean"),
        ({"for": {"a": 1}}, "for.a is an integer, not a string"),
        ({"parts": {}}, "parts is an object, not a list"),
        ({"parts": [FULL["parts"][0], {}]}, "parts[1].name is missing"),
        ({"parts": ["x"]}, "parts[0] is a string, not an object"),
        ({"parts": [{"name": "x", "ratio": "1"}]}, "parts[0].ratio is a string, not a number"),
        ({"pair": [1]}, "pair has 1 entries, not 2"),
    ],
)
def test_a_field_of_another_type_is_named(
    changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    path = tmp_path / "file.json"
    path.write_text(json.dumps({**FULL, **changes}))
    with pytest.raises(UserError) as error:
        read_record(path, Whole, "do this", Exit.DATA)
    assert str(error.value) == f"{path} cannot be read: {said}; do this"
    assert error.value.code == Exit.DATA


def test_a_file_that_is_missing_or_no_record_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_record(tmp_path / "none.json", Whole, "do this")
    for text, said in (("[]", "it holds no object"), ("{}", "count is missing"), ("{", "line 1")):
        (tmp_path / "file.json").write_text(text)
        with pytest.raises(UserError, match=said):
            read_record(tmp_path / "file.json", Whole, "do this")


def test_what_can_be_read_is_salvaged() -> None:
    assert salvage(Loose, {"count": 1, "words": ["a"]}) == (Loose(count=1, words=("a",)), [])
    found, problems = salvage(Loose, {"count": "x", "words": ["a"]})
    assert (found.count, found.words) == (None, ("a",))
    assert problems == ["count is a string, not an integer"]
    assert salvage(Loose, [1]) == (Loose(), ["it is a list, not an object"])
    assert to_json(found)["words"] == ["a"]
