"""Controls of pruning: rows that a pruned row must be compared with, added to a matrix.

- Dense, magnitude and random, at every sparsity: what pruning costs, and whether a method beats the
  simplest criterion, and a random one.
- A static mask, where a method is sparse from the start: whether moving the mask helps.
- A small dense model for each pruned row, with as many parameters as the row has on average over
  its run (Jin et al. 2025, The journey matters): whether to prune at all.
"""

from __future__ import annotations

from collections.abc import Sequence

from gpt2.config.typed import Config
from gpt2.planning.average_parameters import average_parameters, parameters_at
from scripts.reports.option_values import sparse_from_the_start

DENSE = "none"
#: Largest relative deviation of a small model's parameters: widths come in steps.
TOLERANCE = 0.05


def lacking(methods: Sequence[str]) -> tuple[str, ...]:
    """Return the control methods that a matrix of these pruning methods lacks."""
    pruning = [method for method in methods if method != DENSE]
    wanted = [DENSE, "magnitude", "random"] if pruning else []
    if any(sparse_from_the_start(method) for method in pruning):
        wanted.append("static")
    return tuple(method for method in wanted if method not in methods)


def small_model(config: Config, steps: int | None, vocabulary: int) -> dict[str, str] | None:
    """Return the options of the small dense model that a pruned run is compared with.

    It is the run's model made narrower, at equal depth and heads. steps: of the run; None when only
    time ends it. Returns None where no width comes within TOLERANCE of the average parameters.
    """
    model = config.model
    if config.prune is None or not config.prune.target_sparsity:
        return None
    average = average_parameters(config, steps or 0, vocabulary)
    counts = {
        width: parameters_at(model, width, vocabulary)
        for width in range(model.n_head, model.n_embd, model.n_head)
    }
    width = min(counts, key=lambda width: abs(counts[width] - average), default=None)
    if width is None or abs(counts[width] / average - 1.0) > TOLERANCE:
        return None
    return {
        "MODEL": "custom",
        "N_LAYER": str(model.n_layer),
        "N_HEAD": str(model.n_head),
        "N_EMBD": str(width),
    }
