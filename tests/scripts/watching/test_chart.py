"""Charts: that their points are where the numbers say, and their axes are round."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from scripts.watching.chart import Line, chart, limits_of, spark, ticks


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [
        (0.0, 100.0, [0, 20, 40, 60, 80, 100]),
        (1.47, 1.93, [1.5, 1.6, 1.7, 1.8, 1.9]),
        (-0.1, 0.55, [0.0, 0.2, 0.4]),
        (0.0, 1200.0, [0, 250, 500, 750, 1000]),
        (1.0, 1.0, []),
    ],
)
def test_ticks_are_round_and_inside(low: float, high: float, wanted: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(wanted)


def test_a_line_goes_from_its_first_to_its_last_point() -> None:
    points = [(0.0, 4.0), (50.0, 3.0), (100.0, 2.0)]
    text = chart("loss", [Line("training", points, dots=True)], end=200.0)
    root = ET.fromstring(text)
    (way,) = [e.get("d", "") for e in root.iter("path") if e.get("class") == "line"]
    places = [tuple(map(float, pair)) for pair in re.findall(r"([\d.-]+) ([\d.-]+)", way)]
    (x0, y0), (x1, y1), (x2, y2) = places
    assert x1 - x0 == pytest.approx(x2 - x1)
    assert x2 == pytest.approx((46 + 480 - 18) / 2, abs=0.1)  # half of the run
    assert y1 - y0 == pytest.approx(y2 - y1, abs=0.2)
    assert y0 < y2
    tips = [e.text for e in root.iter("title")]
    assert "training, step 50: 3.0000" in tips
    assert "training 2" in (root.find("svg") or root).get("aria-label", "")


def test_a_chart_shows_every_point_and_names_its_axis() -> None:
    points = [(1.0, 11.0), *((float(n), 2.0 + n / 1000) for n in range(10, 200))]
    root = ET.fromstring(chart("loss", [Line("training", points)], size=(380, 190)))
    (way,) = [e.get("d", "") for e in root.iter("path") if e.get("class") == "line"]
    heights = [float(y) for _, y in re.findall(r"([\d.-]+) ([\d.-]+)", way)]
    assert 8 <= min(heights) < 20  # the first loss is inside, at the top
    assert max(heights) <= 190 - 36
    assert "step" in [e.text for e in root.iter("text")]


def test_a_single_point_is_a_dot() -> None:
    lines = [
        Line("training", [(1.0, 3.0), (9.0, 2.0)]),
        Line("validation", [(5.0, 2.5)], dots=True),
    ]
    root = ET.fromstring(chart("loss", lines))
    tips = [e.text for dot in root.iter("circle") for e in dot]
    assert tips[-1] == "validation, step 5: 2.5000"
    assert len([e for e in root.iter("path") if e.get("class") == "line"]) == 1
    alone = ET.fromstring(chart("loss", [Line("training", [(1.0, 3.0)])]))
    assert len(list(alone.iter("circle"))) == 1
    assert "<circle" in spark([lines[1]], (2.0, 3.0))


@pytest.mark.parametrize(("count", "few"), [(2, True), (11, True), (12, False)])
def test_few_points_are_dots_on_a_dotted_line(count: int, few: bool) -> None:
    points = [(float(n), 3.0 - 0.1 * n) for n in range(count)]
    text = chart("loss", [Line("training", points)], note="logged every <5> steps")
    assert len(list(ET.fromstring(text).iter("circle"))) == (count if few else 0)
    assert ("stroke-dasharray" in text) == few
    assert "logged every &lt;5&gt; steps</figcaption>" in text
    assert "figcaption" not in chart("loss", [Line("training", points)])
    assert "<circle" not in spark([Line("training", points)], None)


def test_the_first_steps_do_not_set_the_scale_of_small_charts() -> None:
    points = [(float(n), 11.0 if n < 5 else 2.0 + n / 1000) for n in range(200)]
    low, high = limits_of([Line("a", points)]) or (0.0, 0.0)
    assert (low, high) == (pytest.approx(2.01), pytest.approx(2.199))
    assert limits_of([Line("short", [(50.0, 3.0), (100.0, 2.5), (150.0, 2.4)])]) == (2.4, 3.0)


def test_names_are_escaped_and_nothing_is_no_chart() -> None:
    text = chart("<b>", [Line('"><script>', [(0.0, 1.0), (1.0, 1.0)])])
    assert "<script" not in text
    assert "<b>" not in text
    ET.fromstring(text)
    assert chart("loss", [Line("a", [])]) == ""
    assert spark([], None) == ""
    assert limits_of([]) is None
