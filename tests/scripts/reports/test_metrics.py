"""The lines of metrics.jsonl as points: which are read and left out, and the axes."""

from __future__ import annotations

import json
import math

from scripts.reports.metrics import Point, axes_of, points_of, thinned


def test_whole_lines_are_points_and_others_are_counted() -> None:
    lines = [
        json.dumps({"step": 2, "tokens": 512, "elapsed": 1.5, "loss": 4.0, "learning_rate": 1e-3}),
        json.dumps({"step": 2, "val_loss": 3.5, "sparsity": 0.25}),
        json.dumps({"step": 3, "loss": None}),  # it was not finite
        '{"step": 4, "lo',
        json.dumps({"loss": 1.0}),
    ]
    points, broken = points_of("\n".join(lines))
    assert broken == 2
    assert points == (
        Point(2, tokens=512.0, seconds=1.5, loss=4.0, learning_rate=1e-3),
        Point(2, val_loss=3.5, sparsity=0.25),
        Point(3),
    )


def test_curves_are_drawn_over_what_every_line_has() -> None:
    old = [Point(1), Point(2, tokens=5.0, seconds=3.0)]
    assert [axis.key for axis in axes_of(old)] == ["steps"]
    for longest, word, at in ((7200.0, "hours", 2.0), (300.0, "minutes", 5.0), (9.0, "seconds", 9)):
        points = [Point(1, 10.0, 1.0), Point(2, 20.0, longest)]
        axes = axes_of(points)
        assert [axis.key for axis in axes] == ["steps", "tokens", "time"]
        assert (axes[2].word, axes[2].of(points[1])) == (word, at)
        assert (axes[0].of(points[1]), axes[1].of(points[1])) == (2, 20.0)


def test_a_spike_stays_in_a_thinned_line() -> None:
    line = [(float(n), math.sin(n / 999)) for n in range(50_000)]
    line[31_234] = (31_234.0, 77.0)
    line[9_001] = (9_001.0, -5.0)
    found = thinned(line, 1000)
    assert len(found) <= 1002
    assert {(31_234.0, 77.0), (9_001.0, -5.0), line[0], line[-1]} <= set(found)
    assert list(found) == sorted(found)
    assert thinned(line[:700], 1000) == line[:700]
