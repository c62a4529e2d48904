"""The options of a Kconfig tree: names, members of choices, conditions, ranges."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import kconfiglib as kc

from gpt2.config.names import word_of
from gpt2.config.tree import Kconfig, as_flags, setters

REPOSITORY = Path(__file__).resolve().parents[2]
#: The tree of train.py's flags, and the root that the .config tools load.
TRAIN_TREE = REPOSITORY / "gpt2" / "Kconfig"
ROOT_TREE = REPOSITORY / "Kconfig"


def _as_written(condition: object) -> str:
    return str(kc.expr_str(condition)) + setters(condition)


@dataclass(frozen=True)
class Default:
    """A default: its value, when it applies as flags (empty: else), and whether it does now."""

    value: str
    when: str
    holds: bool


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
        """Return every option that a flag can set, in menu order: choices and prompted symbols."""
        found = []
        for node in self.kconfig.node_iter(unique_syms=True):
            item = node.item
            is_choice = isinstance(item, kc.Choice)
            is_symbol = isinstance(item, kc.Symbol) and item.choice is None and node.prompt
            if is_choice or is_symbol:
                found.append(str(item.name))
        return found

    def outline(self) -> Iterator[tuple[int, str]]:
        """Yield menus and options in menu order: (depth, title) of menus, (0, name) of options.

        A menu of the root has depth 1.
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
        """Return a choice's values with their symbols: {"adamw": "OPTIMIZER_ADAMW"}."""
        return {word_of(sym.name, choice): sym.name for sym in self.choices[choice].syms}

    def is_bool(self, name: str) -> bool:
        """Return whether an option is a yes or no."""
        return name in self.symbols and bool(self.symbols[name].orig_type == kc.BOOL)

    def is_text(self, name: str) -> bool:
        """Return whether an option's value is a text, as every float is in Kconfig."""
        return name in self.symbols and bool(self.symbols[name].orig_type == kc.STRING)

    def unmet(self, name: str) -> list[str]:
        """Return the unmet conditions of a symbol or choice, as Kconfig writes them."""
        return [text for text, met in self.conditions(name).items() if not met]

    def unmet_flags(self, name: str) -> list[str]:
        """Return the same conditions as flags: --optimizer sgd."""
        return [text for text, met in self.conditions(name, as_flags).items() if not met]

    def conditions(self, name: str, said: Callable[[object], str] = _as_written) -> dict[str, bool]:
        """Return the conditions of a symbol or choice, and whether each is met."""
        item = self.choices.get(name) or self.symbols[name]
        found: dict[str, bool] = {}
        for node in item.nodes:
            for part in kc.split_expr(node.prompt[1] if node.prompt else node.dep, kc.AND):
                if isinstance(part, kc.Choice):  # a member has its choice's conditions
                    found.update(self.conditions(part.name, said))
                elif part is not self.kconfig.y:
                    found[said(part)] = bool(kc.expr_value(part))
        return found

    def defaults(self, name: str) -> list[Default]:
        """Return the defaults of a symbol or choice; the first whose condition is met holds."""
        item = self.choices.get(name) or self.symbols[name]
        everywhere = {as_flags(part) for part in kc.split_expr(item.direct_dep, kc.AND)}
        found: list[Default] = []
        open_yet = bool(kc.expr_value(item.direct_dep))
        for value, when in item.defaults:
            parts = [as_flags(part) for part in kc.split_expr(when, kc.AND)]
            own = [part for part in dict.fromkeys(parts) if part not in {*everywhere, "y"}]
            holds = open_yet and bool(kc.expr_value(when))
            if isinstance(item, kc.Choice):
                holds = holds and bool(value.visibility)
                text = word_of(value.name, name)
            else:
                text = value.str_value if isinstance(value, kc.Symbol) else kc.expr_str(value)
            open_yet = open_yet and not holds
            found.append(Default(text, ", ".join(reversed(own)), holds))
        return found

    def bounds(self, name: str) -> str:
        """Return the current range of an int symbol as "low..high", or nothing.

        A symbol that does not apply has its first range.
        """
        if name in self.symbols:
            idle = not kc.expr_value(self.symbols[name].direct_dep)
            for low, high, condition in self.symbols[name].ranges:
                if idle or kc.expr_value(condition):
                    return f"{low.str_value}..{high.str_value}"
        return ""
