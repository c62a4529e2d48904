"""Library optimizers (po:NAME, bnb:NAME, ao:NAME) and the user's own (module:Class)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch

from gpt2.config.library import split_arguments
from gpt2.config.typed import Named, OptimConfig
from gpt2.optim.libraries import lookup
from gpt2.optim.libraries.names import refusal

#: State at a weight's index need not belong to that weight: SOAP's moments are rotated.
STATE_ELSEWHERE = True


@dataclass(frozen=True)
class Options:
    """The optimizer's name, and its arguments as key=value, separated by commas."""

    name: Annotated[str, Named("OPTIMIZER_NAME")]
    arguments: Annotated[str, Named("OPT_ARGS")]

    def __post_init__(self) -> None:
        """Check the name and the syntax of the arguments, before any library is imported.

        Raises ValueError.
        """
        if reason := refusal(self.name):
            raise ValueError(reason)
        split_arguments(self.arguments)


def check(optim: OptimConfig, ranks: int) -> None:
    """Check, before the run exists, what only the imported library can tell.

    Raises UserError.
    """
    given = split_arguments(optim.options.arguments)
    lookup.check(optim.options.name, given, optim.weight_decay, ranks)


def build(groups: list[dict[str, Any]], options: Options) -> torch.optim.Optimizer:
    """Build the named optimizer over `groups`.

    Raises UserError.
    """
    return lookup.find(options.name).build(groups, split_arguments(options.arguments))
