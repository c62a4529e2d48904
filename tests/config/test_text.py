from __future__ import annotations

import pytest

from gpt2.config.text import counted, duration, joined, rough_duration


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
