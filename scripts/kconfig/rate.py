"""A learning rate that was chosen for one optimizer and stays when the menu changes to another."""

from __future__ import annotations

from dataclasses import dataclass

from gpt2.config.names import word_of
from gpt2.config.tree import Kconfig, default_text


@dataclass(frozen=True)
class ChosenRate:
    """A tree's optimizer, and its learning rate if that is not the default; both may be empty."""

    optimizer: str = ""
    rate: str = ""


def chosen_rate(tree: Kconfig) -> ChosenRate:
    """Return what `tree` has now."""
    choice, symbol = tree.named_choices["OPTIMIZER"], tree.syms["LEARNING_RATE"]
    optimizer = word_of(choice.selection.name, choice.name) if choice.selection else ""
    own = symbol.user_value is not None and symbol.str_value != default_text(symbol)
    return ChosenRate(optimizer, symbol.str_value if own else "")


def kept_rate(tree: Kconfig, began: ChosenRate) -> str:
    """Return a warning if the optimizer changed since `began` and its rate stayed; else nothing.

    The lines fit a dialog of the menu.
    """
    now = chosen_rate(tree)
    if not began.rate or now.rate != began.rate or now.optimizer == began.optimizer:
        return ""
    way = "which has no default: set yours in the menu Optimizer"
    if default := default_text(tree.syms["LEARNING_RATE"]):
        way = f"whose default is {default}: set {default} in the menu Optimizer"
    return (
        f"warning: the learning rate {now.rate}, chosen for {began.optimizer}, stays with\n"
        f"{now.optimizer}, {way}"
    )
