"""kconfiglib's tree, loaded independently of the environment and reduced to differences."""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import kconfiglib as kc

from gpt2.config import scratch
from gpt2.config.names import flag_of, word_of

#: In a help text, {OPTIMIZER} becomes the values of that choice.
_NAMES = re.compile(r"{([A-Z_]+)}")


@contextmanager
def _neutral_environment() -> Iterator[None]:
    """Hide the variables that kconfiglib obeys: only the command line counts."""
    obeyed = [n for n in os.environ if n in ("srctree", "CONFIG_") or n.startswith("KCONFIG_")]
    hidden = {name: os.environ.pop(name) for name in obeyed}
    try:
        yield
    finally:
        os.environ.update(hidden)


class Kconfig(kc.Kconfig):  # type: ignore[misc]
    """kconfiglib's tree, independent of the environment; loading keeps only differences.

    A .config on disk is full. Loaded as it is, it would pin every option, and switching the
    optimizer in the menu would keep the old one's learning rate. So `load_config` reduces it to its
    minimal form first.
    """

    def __init__(self, path: Path) -> None:
        with _neutral_environment():
            super().__init__(str(path), warn_to_stderr=False)
        # Syntax errors in our own files are bugs, not the user's.
        assert not self.warnings, self.warnings
        for item in (*self.unique_defined_syms, *self.unique_choices):
            if len(item.nodes) > 1:
                _join(item)
        # A minimal file is written in this order: use the menu's, as in the full file.
        in_menu = [node.item for node in self.node_iter(unique_syms=True)]
        self.unique_defined_syms[:] = [item for item in in_menu if isinstance(item, kc.Symbol)]
        for node in self.node_iter():
            described = isinstance(node.item, kc.Symbol | kc.Choice)
            if described and node.help and _NAMES.search(node.help):
                node.help = self._with_names(node.help)

    def _with_names(self, text: str) -> str:
        """Replace the names of choices in braces in a help text by their values."""

        def values(match: re.Match[str]) -> str:
            choice = self.named_choices[match[1]]
            return ", ".join(word_of(symbol.name, choice.name) for symbol in choice.syms)

        return textwrap.fill(_NAMES.sub(values, text), 70, break_on_hyphens=False)

    def load_config(
        self, filename: str | None = None, replace: bool = True, verbose: None = None
    ) -> str:
        """Load `filename` reduced to its differences from the defaults."""
        message: str = super().load_config(filename, replace, verbose)
        with scratch.folder() as folder:
            minimal = str(folder / "minimal")
            self.write_min_config(minimal, header="")
            super().load_config(minimal, replace=True)
        return message


def _join(item: kc.Symbol | kc.Choice) -> None:
    """Merge the definitions of an option or choice into one, as if one file had all of it.

    Plug-ins add members to a choice, and defaults to an option that is defined elsewhere. The only
    definition with a prompt stays; what the others add applies only where it does. A choice moves
    to the place of its first members, since options that depend on them follow there. Its general
    default, which is its last, is its first member.
    """
    prompted = [node for node in item.nodes if node.prompt]
    if not prompted:
        return  # options that only plug-ins select are not in the menu
    places = ", ".join(f"{node.filename}:{node.linenr}" for node in prompted)
    assert len(prompted) == 1, f"{item.name} has several prompts: {places}"
    (shown,) = prompted
    place = shown
    if isinstance(item, kc.Choice):
        place = next((node for node in item.nodes if node.list), shown)
        members = [member for node in item.nodes for member in _children(node)]
        if item.defaults:
            general = item.defaults[-1][0]
            members.sort(key=lambda member: member.item is not general)
        item.syms[:] = [node.item for node in members if node.item in item.syms]
    for node in item.nodes:
        if node is not place:
            _replace(node, [])
    if place is not shown:
        _replace(place, [shown])
    if isinstance(item, kc.Choice):
        _hang(shown, members)
    if shown.dep is not item.kconfig.y:
        item.defaults[:] = [(value, (kc.AND, when, shown.dep)) for value, when in item.defaults]
    item.direct_dep = shown.dep
    shown.defaults = item.defaults
    item.nodes[:] = prompted


def _children(node: kc.MenuNode) -> list[kc.MenuNode]:
    found = []
    child = node.list
    while child:
        found.append(child)
        child = child.next
    return found


def _hang(parent: kc.MenuNode, children: list[kc.MenuNode]) -> None:
    """Replace the children of `parent` by these."""
    parent.list = children[0] if children else None
    for child, following in zip(children, [*children[1:], None], strict=True):
        child.parent, child.next = parent, following


def _replace(node: kc.MenuNode, others: list[kc.MenuNode]) -> None:
    """Replace `node` in the menu by `others`."""
    siblings = _children(node.parent)
    at = next(i for i, sibling in enumerate(siblings) if sibling is node)
    _hang(node.parent, [*siblings[:at], *others, *siblings[at + 1 :]])


def default_text(symbol: kc.Symbol) -> str:
    """Return the default of a symbol that holds now; empty without one."""
    for value, condition in symbol.defaults:
        if kc.expr_value(condition):
            return str(value.str_value)
    return ""


def setters(condition: object) -> str:
    """Return what sets a symbol that has no prompt; empty for any other condition."""
    symbol = condition[1] if isinstance(condition, tuple) else condition
    if not isinstance(symbol, kc.Symbol) or any(node.prompt for node in symbol.nodes):
        return ""
    items = [item for item in kc.expr_items(symbol.rev_dep) if isinstance(item, kc.Symbol)]
    names = ", ".join(sorted(item.name for item in items if item.name != "n"))
    verb = "not with" if isinstance(condition, tuple) else "as with"
    return f" ({verb} {names})" if names else ""


def as_flags(condition: object) -> str:
    """Return a Kconfig condition as flags: OPTIMIZER_SGD -> --optimizer sgd.

    A symbol without a flag is described by what sets it, else as in Kconfig.
    """
    if isinstance(condition, tuple):
        if condition[0] in (kc.AND, kc.OR):
            parts = [as_flags(part) for part in kc.split_expr(condition, condition[0])]
            return (" and " if condition[0] == kc.AND else " or ").join(parts)
        if condition[0] == kc.NOT and isinstance(condition[1], kc.Symbol):
            return _of_symbol(condition[1], wanted=False)
        if condition[0] == kc.UNEQUAL and condition[2].name == "":  # a text that must be given
            return flag_of(condition[1].name)
    elif isinstance(condition, kc.Symbol):
        return _of_symbol(condition, wanted=True)
    return str(kc.expr_str(condition))


def _of_symbol(symbol: kc.Symbol, wanted: bool) -> str:
    prompted = any(node.prompt for node in symbol.nodes)
    if symbol.choice is not None and symbol.choice.name:
        return _of_choice(symbol.choice.name, [symbol], wanted)
    if prompted and symbol.orig_type == kc.BOOL:
        flag = flag_of(symbol.name)
        return flag if wanted else flag.replace("--", "--no-", 1)
    setting = [item for item in kc.expr_items(symbol.rev_dep) if isinstance(item, kc.Symbol)]
    members = [item for item in setting if item.choice is not None and item.choice.name]
    choices = {item.choice.name for item in members}
    if not prompted and len(choices) == 1:
        return _of_choice(choices.pop(), members, wanted)
    if not prompted and symbol.nodes and symbol.nodes[0].help:  # a helper that says what it means
        said = " ".join(symbol.nodes[0].help.split())
        return said if wanted else f"not {said}"
    return symbol.name if wanted else f"!{symbol.name}"


def _of_choice(choice: str, members: Iterable[kc.Symbol], wanted: bool) -> str:
    *most, last = sorted(word_of(member.name, choice) for member in members)
    words = f"{', '.join(most)} or {last}" if most else last
    return f"{flag_of(choice)} {words}" if wanted else f"a {flag_of(choice)} other than {words}"
