"""Matplotlib figures as SVG for a page: with the page's colours and fonts, and tips on points.

A figure is drawn in the placeholder colours below, which become variables of the page's style
sheet, so that one picture suits light, dark and print. An artist with values gets a key as its gid;
each of its marks, in order, then carries one text of `tips[key]`.
"""

from __future__ import annotations

import io
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

SVG = "http://www.w3.org/2000/svg"
_HREF = "{http://www.w3.org/1999/xlink}href"
#: Characters that XML cannot hold; a label may be a folder's name, which can.
_NO_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
#: Placeholders of the page's colours; series are SERIES[0], SERIES[1], ...
INK, MUTED, RULE, PAPER, ACCENT = "#0a0a01", "#0a0a02", "#0a0a03", "#0a0a04", "#0a0a05"
SERIES = tuple(f"#0b0b{number:02x}" for number in range(8))
_VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    RULE: "rule",
    PAPER: "paper",
    ACCENT: "accent",
    **{colour: f"series-{number}" for number, colour in enumerate(SERIES)},
}
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 8.0,
    "axes.titlesize": 8.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8.0,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": RULE,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlecolor": INK,
    "grid.color": RULE,
    "grid.linewidth": 0.5,
    "figure.facecolor": "none",
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0.0,
    "ytick.major.size": 0.0,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "lines.linewidth": 1.4,
    "lines.markersize": 5.0,
    "figure.constrained_layout.use": True,
}


def style() -> Any:
    """Return the context in which figures for the page are drawn."""
    return mpl.rc_context(_STYLE)


def svg(
    figure: Figure, name: str, title: str, description: str, tips: Mapping[str, Sequence[str]]
) -> str:
    """Return `figure` as an SVG element for a page; all its ids begin with `name`.

    `title` and `description` are for readers who cannot see it.
    """
    stream = io.StringIO()
    with warnings.catch_warnings():
        # The page's fonts are used, not this one that lacks a character.
        warnings.filterwarnings("ignore", r"Glyph .* missing from font", UserWarning)
        figure.savefig(stream, format="svg", metadata={"Date": None})
    ET.register_namespace("", SVG)
    root = ET.fromstring(_NO_XML.sub("\ufffd", stream.getvalue()))
    for element in list(root):
        if element.tag.endswith("metadata"):
            root.remove(element)
    _give_tips(root, tips)
    _own_ids(root, name)
    root.attrib.pop("version", None)
    width = float(root.attrib.pop("width").removesuffix("pt"))
    root.attrib.pop("height")
    root.set("role", "img")
    root.set("style", f"min-width: {0.9 * width:.0f}px")
    root.set("aria-labelledby", f"{name}-title {name}-text")
    for tag, text in (("desc", description), ("title", title)):
        element = ET.Element(
            f"{{{SVG}}}{tag}", {"id": f"{name}-{'text' if tag == 'desc' else tag}"}
        )
        element.text = text
        root.insert(0, element)
    return _coloured(ET.tostring(root, encoding="unicode"))


def _give_tips(root: ET.Element, tips: Mapping[str, Sequence[str]]) -> None:
    """Attach each text to its mark.

    Raises ValueError where the numbers of marks and texts differ.
    """
    groups = {element.get("id"): element for element in root.iter(f"{{{SVG}}}g")}
    for key, texts in tips.items():
        group = groups[key]
        defined = {id(e) for defs in group.iter(f"{{{SVG}}}defs") for e in defs.iter()}
        # Markers are uses of one path; a bar or cell is a path itself.
        marks = list(group.iter(f"{{{SVG}}}use")) or [
            path for path in group.iter(f"{{{SVG}}}path") if id(path) not in defined
        ]
        if len(marks) != len(texts):
            raise ValueError(f"{key}: {len(marks)} marks for {len(texts)} texts")
        for mark, text in zip(marks, texts, strict=True):
            mark.set("class", "tip")
            ET.SubElement(mark, f"{{{SVG}}}title").text = text


def _own_ids(root: ET.Element, name: str) -> None:
    """Make ids unique on the page: two figures number their parts alike."""
    for element in root.iter():
        if "id" in element.attrib:
            element.set("id", f"{name}-{element.get('id')}")
        if _HREF in element.attrib:
            element.set("href", f"#{name}-{element.attrib.pop(_HREF)[1:]}")
        for key in ("clip-path", "style"):
            if key in element.attrib:
                element.set(key, re.sub(r"url\(#", f"url(#{name}-", element.attrib[key]))


def _coloured(text: str) -> str:
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    # Use the page's own font instead of the wider one the text was measured with.
    return re.sub(r"(font: [^;\"]*?)'DejaVu Sans'[^;\"]*", r"\1var(--sans)", text)
