"""docs/troubleshooting.md has every error that is not of options; those name what to do."""

from __future__ import annotations

import re

from gpt2.config.errors import Exit
from tests.support import tiny
from tests.support.messages import HOLE, Said, errors
from tests.test_docs import quoted_messages

PAGE = tiny.REPOSITORY / "docs" / "troubleshooting.md"
#: What the reader of an error of options can do: an order, a condition, or what there is.
WAY_OUT = re.compile(
    r"\b(?:gives?|use|choose|name|leave|lower|raise|try|takes?|add|drop|run|set|prepare|install"
    r"|start|hand|fetch|remove|put|move|write|convert|free|copy|goes on|needs?|needed|must|told"
    r"|there are"
    r"|did you mean|make|has|have|compare|wait|shall|edit|keep|save|trains|instead|see|lists?|only"
    r"|nor|divide)(?:\b|$)|--[a-z][\w-]*\)|other than|\bor\b|\d|;"
)
#: Errors of options that say no more, and why that is enough.
SAID_ENOUGH = {
    "gpt2/weights/foreign.py::open_foreign.": "_error puts --init-from PATH in front",
    "scripts/bench.py::flags_of.": "the file is named; `make list-defconfigs` is on the page",
    "scripts/study/cells.py::expand.": "the axes are the user's own",
    "scripts/study/folder.py::MatrixFolder.matrix.": "the reason is in front of it",
    "scripts/study/spec_yaml.py::from_yaml.": "the file is no matrix at all",
    "scripts/study/quick.py::narrow.": "what is named twice is taken out once",
}


def literal_words(text: str) -> list[str]:
    return re.findall(r"[A-Za-z]{2,}", text)


def shown(text: str) -> str:
    return text.replace(HOLE, "...").replace("\n", " ")


def stands_there(said: Said, quotes: list[str]) -> bool:
    """Whether the page quotes a text: up to where the quote ends, ... for anything."""
    for quote in quotes:
        pieces = [re.escape(piece) for piece in quote.rstrip(".").split("...")]
        if re.match(".*?".join(pieces), shown(said.text)) and len(literal_words(quote)) > 1:
            return True
    return False


def test_every_error_but_of_options_stands_under_a_heading() -> None:
    quotes = [re.sub(r"^\w+\.py: error: |^warning: ", "", quote) for quote in quoted_messages()]
    others = [said for said in errors() if said.code != Exit.CONFIG.name]
    assert len(others) > 100
    lacking = [
        f"{said.where} exits {Exit[said.code].value}: {shown(said.text)}"
        for said in others
        if len(literal_words(said.text)) > 1 and not stands_there(said, quotes)
    ]
    assert lacking == [], "quote them on the page, each beside what to do"


def test_a_quote_must_fit_from_its_beginning() -> None:
    said = Said("a.py::f", "DATA", f"{HOLE} is missing ({HOLE}): name the folder")
    assert stands_there(said, ["... is missing (...)..."])
    assert not stands_there(said, ["is missing", "name the folder", "... ..."])


def test_errors_of_options_name_value_and_way_out() -> None:
    """A way out may be put in at the end, where a text ends with a value."""
    lacking = []
    for said in errors():
        text = said.text
        if said.code != Exit.CONFIG.name or len(literal_words(text)) < 3:
            continue
        named = "--" in text or HOLE in text or re.search(r"\b[A-Z]{3,}|'?make\b", text)
        if not named or not (WAY_OUT.search(shown(text)) or text.endswith(HOLE)):
            lacking.append((said.where, shown(text)))
    assert [one for one in lacking if one[0] not in SAID_ENOUGH] == []


def test_every_exit_code_of_the_page_is_one() -> None:
    text = PAGE.read_text(encoding="utf-8")
    codes = {int(n) for n in re.findall(r"exit codes? (\d+)", text)}
    assert codes <= {code.value for code in Exit}
    failures = {code.value for code in Exit} - {Exit.OK, Exit.INTERRUPTED}
    assert failures <= codes | {Exit.PREEMPTED}


def test_its_links_are_headings() -> None:
    text = PAGE.read_text(encoding="utf-8")
    titles = {
        re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-")
        for title in re.findall(r"^## (.*)$", text, re.M)
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= titles


def test_it_is_found_by_the_words_people_search() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for word in (
        "NaN",
        "OOM",
        "resume",
        "skip",
        "shard",
        "container",
        "Slurm",
        "Notebooks",
        "macOS",
    ):
        assert word in text, word
