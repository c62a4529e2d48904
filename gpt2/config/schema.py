"""What options a Kconfig tree has: names, members of choices, conditions, ranges."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import kconfiglib as kc

from gpt2.config.names import word_of
from gpt2.config.tree import Kconfig, as_flags, setters

REPOSITORY = Path(__file__).resolve().parents[2]
#: The tree behind train.py's flags, and the root that the .config tools load.
TRAIN_TREE = REPOSITORY / "gpt2" / "Kconfig"
ROOT_TREE = REPOSITORY / "Kconfig"


def _as_written(condition: object) -> str:
    return str(kc.expr_str(condition)) + setters(condition)


class Schema:
    """The options of one Kconfig tree."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.kconfig = Kconfig(path)
        self.choices: dict[str, kc.Choice] = self.kconfig.named_choices
        self.symbols: dict[str, kc.Symbol] = {
            sym.name: sym for sym in self.kconfig.unique_defined_syms
        }

    def names(self) -> list[str]:
        """Every option a flag can set, in menu order: named choices and prompted symbols."""
        found = []
        for node in self.kconfig.node_iter(unique_syms=True):
            item = node.item
            is_choice = isinstance(item, kc.Choice)
            is_symbol = isinstance(item, kc.Symbol) and item.choice is None and node.prompt
            if is_choice or is_symbol:
                found.append(str(item.name))
        return found

    def outline(self) -> Iterator[tuple[int, str]]:
        """Yield the menus and the options in menu order: (depth, title), and (0, name) of options.

        The depth of a menu of the root is 1.
        """
        left = self.names()
        for node in self.kconfig.node_iter():
            if node.item == kc.MENU:
                depth, above = 0, node
                while above.parent is not None:
                    above, depth = above.parent, depth + 1
                yield depth, str(node.prompt[0])
            elif isinstance(node.item, kc.Symbol | kc.Choice) and node.item.name in left:
                left.remove(node.item.name)
                yield 0, str(node.item.name)

    def members(self, choice: str) -> dict[str, str]:
        """Values a choice can take, each with its symbol's name: {"adamw": "OPTIMIZER_ADAMW"}."""
        return {word_of(sym.name, choice): sym.name for sym in self.choices[choice].syms}

    def is_bool(self, name: str) -> bool:
        """Whether an option is a yes or no of its own."""
        return name in self.symbols and bool(self.symbols[name].orig_type == kc.BOOL)

    def is_text(self, name: str) -> bool:
        """Whether an option's value is a text, as that of every float is in Kconfig."""
        return name in self.symbols and bool(self.symbols[name].orig_type == kc.STRING)

    def unmet(self, name: str) -> list[str]:
        """Return the conditions that keep a symbol or choice hidden, as Kconfig writes them."""
        return [text for text, met in self.conditions(name).items() if not met]

    def unmet_flags(self, name: str) -> list[str]:
        """Return the same conditions in flags: --optimizer sgd."""
        return [text for text, met in self.conditions(name, as_flags).items() if not met]

    def conditions(self, name: str, said: Callable[[object], str] = _as_written) -> dict[str, bool]:
        """Return what a symbol or choice needs to be seen, and whether that is met."""
        item = self.choices.get(name) or self.symbols[name]
        found: dict[str, bool] = {}
        for node in item.nodes:
            for part in kc.split_expr(node.prompt[1] if node.prompt else node.dep, kc.AND):
                if isinstance(part, kc.Choice):  # a member needs what its choice needs
                    found.update(self.conditions(part.name, said))
                elif part is not self.kconfig.y:
                    found[said(part)] = bool(kc.expr_value(part))
        return found

    def bounds(self, name: str) -> str:
        """Return the range in force of an int symbol as "low..high", or nothing.

        Of one that plays no part here it is its first.
        """
        if name in self.symbols:
            idle = not kc.expr_value(self.symbols[name].direct_dep)
            for low, high, condition in self.symbols[name].ranges:
                if idle or kc.expr_value(condition):
                    return f"{low.str_value}..{high.str_value}"
        return ""
