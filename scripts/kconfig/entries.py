"""The menu's entries: a menu's main values after its title, and the help before the rest.

Both menus of kconfiglib, on a terminal and in a window, are modules whose functions are replaced.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Container
from typing import Any

import kconfiglib as kc

from gpt2.config.names import flag_of, word_of
from gpt2.config.tree import Kconfig

#: Values shown after the title of a menu; a part whose option has no value is left out.
GLANCE = {
    "Data": ("{DATASET}", "tokenizer {TOKENIZER}"),
    "Model": ("{MODEL}", "{N_LAYER} layers", "{N_EMBD} wide", "context {BLOCK_SIZE}"),
    "Optimizer": ("{OPTIMIZER}", "{OPTIMIZER_NAME}", "learning rate {LEARNING_RATE}"),
    "Pruning": ("{PRUNING_METHOD}", "sparsity {TARGET_SPARSITY}"),
    "Training": (
        "batch {BATCH_SIZE} x {GRADIENT_ACCUMULATION}",
        "epochs {NUM_EPOCHS}",
        "steps {MAX_STEPS}",
        "seconds {MAX_TIME}",
    ),
    "Machine": ("device {DEVICE}", "memory limit {HOST_MEMORY_LIMIT}"),
    "Test matrix": (
        "{MATRIX_OPTIMIZERS}",
        "{MATRIX_PRUNING_METHODS}",
        "seeds {MATRIX_SEEDS}",
    ),
}
#: Columns of an entry, and of a help text: a terminal has 80.
_ENTRY, _TEXT = 78, 76
_ARROW = "  --->"


def improve(menu: Any, tree: Kconfig, flags: Container[str]) -> None:
    """Make kconfiglib's menu module show this. `flags` are the options that have one."""
    entry, info = menu._node_str, menu._info_str
    menu._node_str = lambda node: with_values(tree, node, entry(node))
    menu._help_info = lambda _: "\n"  # the help is shown first
    menu._choice_syms_info = lambda _: ""
    menu._info_str = lambda node: help_first(node, info, flags)


def with_values(tree: Kconfig, node: kc.MenuNode, entry: str) -> str:
    """Return the text of an entry; a menu in GLANCE with its main values, at most one line.

    Loading leaves untouched options unset (see Kconfig.load_config); kconfiglib would mark each as
    new.
    """
    if node.item != kc.MENU or not (values := glance(tree, node.prompt[0])):
        return entry.replace(" (NEW)", "")
    title, arrow = entry.removesuffix(_ARROW), _ARROW if entry.endswith(_ARROW) else ""
    room = _ENTRY - len(f"{title} (){_ARROW}")
    if len(values) > room:
        values = values[: room - 3] + "..."
    return f"{title} ({values}){arrow}"


def glance(tree: Kconfig, title: str) -> str:
    """Return the main values of a menu, comma-separated; empty for other menus."""
    parts = []
    for part in GLANCE.get(title, ()):
        names = re.findall("{([A-Z_]+)}", part)
        values = {name: _value(tree, name) for name in names}
        if all(values.values()):
            parts.append(part.format(**values))
    return ", ".join(parts)


def _value(tree: Kconfig, name: str) -> str:
    """Return the value of an option; empty where it does not apply, or 0 means no limit."""
    if name in tree.named_choices:
        selection = tree.named_choices[name].selection
        return word_of(selection.name, name) if selection else ""
    symbol = tree.syms[name]
    value = str(symbol.str_value)
    return "" if value == "0" or not kc.expr_value(symbol.direct_dep) else value


def members(choice: kc.Choice) -> str:
    """Return the members of a choice as in the menu, each with its flag's word."""
    words = {symbol: word_of(symbol.name, choice.name) for symbol in choice.syms}
    width = max(map(len, words.values()))
    lines = []
    for symbol, word in words.items():
        mark = "*" if symbol is choice.selection else "-"
        said = symbol.nodes[0].prompt[0].removeprefix(f"{word}: ")
        lines.append(f"  {mark} {word:<{width}}  {'' if said == word else said}".rstrip())
    return "\n".join(["Values (*: chosen):", *lines, ""])


def help_first(node: kc.MenuNode, info: Callable[[kc.MenuNode], str], flags: Container[str]) -> str:
    """Return the information on an entry: prompt, help and flag, then kconfiglib's."""
    item = node.item
    if not (isinstance(item, kc.Symbol | kc.Choice) and node.prompt):
        return info(node)
    said = " ".join((node.help or "").split())
    lines = [node.prompt[0], "", *textwrap.wrap(said, _TEXT, break_on_hyphens=False), ""]
    if isinstance(item, kc.Symbol) and item.choice is not None and item.choice.name in flags:
        lines += [f"Flag: {flag_of(item.choice.name)} {word_of(item.name, item.choice.name)}", ""]
    elif item.name in flags:
        lines += [f"Flag: {flag_of(item.name)}", ""]
    if isinstance(item, kc.Choice):
        lines.append(members(item))
    return "\n".join(lines) + "\n" + info(node)
