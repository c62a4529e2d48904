from __future__ import annotations

import pytest

from gpt2.config.text import (
    counted,
    duration,
    first_line,
    items,
    joined,
    last_line,
    markdown_table,
    predicted_duration,
    rough_duration,
    shortened,
)


def test_numbers_and_lists_as_people_read_them() -> None:
    assert [counted(n, "run") for n in (0, 1, 2)] == ["0 runs", "1 run", "2 runs"]
    assert [joined(list(names)) for names in ("a", "ab", "abc")] == ["a", "a and b", "a, b and c"]


@pytest.mark.parametrize(
    ("seconds", "measured", "expected"),
    [
        (-1, "0 s", "-1 s"),
        (59.4, "59 s", "59 s"),
        (185, "3 min 05 s", "3 min"),
        (7800, "2 h 10 min", "2.2 h"),
    ],
)
def test_times(seconds: float, measured: str, expected: str) -> None:
    assert duration(seconds) == measured
    assert rough_duration(seconds) == expected


def test_many_names_are_shortened() -> None:
    assert [shortened(names, 2) for names in ("", "a", "ab", "abcd")] == [
        "",
        "a",
        "a, b",
        "a, b and 2 more",
    ]


def test_lists_as_they_are_typed() -> None:
    assert items(" 1, 2  3,\t4,\n") == ["1", "2", "3", "4"]
    assert items(" , ") == []


def test_one_line_of_many() -> None:
    assert first_line(ValueError("\n one\ntwo")) == "one"
    assert first_line(EOFError()) == "EOFError"
    assert last_line("one\ntwo\n") == "two"
    assert last_line("") == ""


def test_a_table_in_markdown() -> None:
    assert markdown_table(["", "b"], [["x", "1"], ["y", "2"]]) == (
        "|  | b |\n| --- | --- |\n| x | 1 |\n| y | 2 |"
    )


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.2, "1 s"),
        (5, "4 to 8 s"),
        (59, "45 to 95 s"),
        (101, "1 to 3 min"),
        (827, "11 to 22 min"),
        (63 * 3600, "2 to 4 days"),
    ],
)
def test_a_prediction_has_no_false_digits(seconds: float, said: str) -> None:
    assert predicted_duration(seconds) == said
