"""The loss curve in characters: where its points stand, and when there is none."""

from __future__ import annotations

import math

import pytest

from gpt2.run_dir.curve import HEIGHT, loss_curve


def falling(count: int) -> list[dict[str, float]]:
    """Training losses from 4 to 2 in a straight line, and two evaluations."""
    lines = [{"step": n, "loss": 4.0 - 2.0 * n / count} for n in range(count + 1)]
    return [*lines, {"step": count // 2, "val_loss": 3.0}, {"step": count, "val_loss": 2.0}]


def test_a_straight_line_is_straight_and_ends_low() -> None:
    lines = loss_curve(falling(400), width=61, braille=False)
    assert len(lines) == HEIGHT + 2
    assert max(map(len, lines)) <= 61
    plot = [line[9:].ljust(51) for line in lines[:HEIGHT]]
    for row, text in enumerate(plot):  # each row's dots are where the line crosses it
        columns = [n for n, char in enumerate(text) if char != " "]
        wanted = (row / (HEIGHT - 1) * 0.95 + 0.05) * 50
        assert columns
        assert all(abs(column - wanted) <= 4 for column in columns), row
    assert plot[-1].rstrip()[-1] == "o"
    assert "o" in plot[HEIGHT // 2 - 1] + plot[HEIGHT // 2]
    assert lines[0].startswith("  3.9")  # the losses of the first steps do not set the scale
    assert lines[HEIGHT - 1].startswith("  2.0000|")
    assert lines[-1].endswith("step 400")


def test_braille_has_eight_dots_in_a_character() -> None:
    lines = loss_curve(falling(400), width=61, braille=True)
    found = {char for line in lines for char in line if ord(char) > 127}
    assert all(0x2800 < ord(char) <= 0x28FF for char in found)
    assert len(found) > 3
    assert max(map(len, lines)) <= 61


@pytest.mark.parametrize(
    "metrics",
    [
        [],
        falling(400)[:4],
        [{"step": n, "loss": 2.0} for n in range(9)],
        [{"step": 3, "loss": 1.0 + n} for n in range(9)],
        [{"step": n, "loss": math.nan} for n in range(9)],
        [{"step": n, "loss": None} for n in range(9)],
    ],
)
def test_too_little_is_no_curve(metrics: list[dict[str, float]]) -> None:
    assert loss_curve(metrics, width=80, braille=True) == []
    assert loss_curve(falling(400), width=25, braille=True) == []


def test_numbers_that_are_not_finite_are_left_out() -> None:
    lines = [*falling(400), {"step": 401, "loss": math.inf}, {"step": 402, "loss": None}]
    assert loss_curve(lines, 60, braille=False) == loss_curve(falling(400), 60, braille=False)
