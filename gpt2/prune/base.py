"""The common part of all pruning methods: masks, events, counts and checkpoints."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gpt2.config.errors import Exit, UserError
from gpt2.machine.shards import full_tensor
from gpt2.model.matrices import Matrix, matrices_of, stored
from gpt2.prune.allocation import BY_MATRIX, count_of, layer_counts
from gpt2.prune.calibration import Calibration
from gpt2.prune.events import Events
from gpt2.prune.lamp import lamp_counts
from gpt2.prune.masks import Masks
from gpt2.prune.pruner import Sparsity
from gpt2.prune.schedule import SparsitySchedule

_MASK, _EVENTS, _BY_MATRIX = "mask.", "events", "by_matrix"


@dataclass(frozen=True)
class PruningContext:
    """The model and the options that a pruning method works with.

    weights: the prunable parameters by name, in the model's order.
    parameters: number of parameters of the whole model.
    calibration: training text for methods that use activations.
    clear_state: see Masks.
    keeps_zeros: the optimizer keeps a weight of zero and its state at zero while its gradient is
        zero.
    """

    weights: Mapping[str, nn.Parameter]
    parameters: int
    optimizer: torch.optim.Optimizer
    schedule: SparsitySchedule
    pattern: str
    seed: int
    calibration: Calibration
    clear_state: bool = True
    keeps_zeros: bool = False

    def matrices(self) -> dict[str, tuple[Matrix, ...]]:
        """Return the matrices that the pattern gives separate counts, by parameter name."""
        if self.pattern not in BY_MATRIX:
            return self.stored()
        return {name: matrices_of(name, weight.shape) for name, weight in self.weights.items()}

    def stored(self) -> dict[str, tuple[Matrix, ...]]:
        """Return each prunable parameter as one matrix, by its name."""
        return {name: (stored(name, weight.shape),) for name, weight in self.weights.items()}

    @property
    def prunable(self) -> int:
        """Return the number of prunable weights."""
        return sum(weight.numel() for weight in self.weights.values())


class MaskedPruner(ABC):
    """A pruner that prunes at the events of a schedule and keeps pruned weights at zero.

    matrices: those it handles one by one, by the name of the parameter that holds them.
    """

    def __init__(self, context: PruningContext) -> None:
        self.context = context
        self.matrices = context.matrices()
        self.masks = Masks(context.weights, context.clear_state)
        self.events = Events(context.schedule)

    @abstractmethod
    def prune(self, sparsity: float) -> None:
        """Change the masks so that exactly `sparsity` of the prunable weights is pruned."""

    def shares(self, sparsity: float) -> dict[str, int]:
        """Return how many weights of each matrix to prune, by its name.

        The sum is `sparsity` of the prunable weights. Pruned weights stay pruned.
        """
        matrices = [matrix for parts in self.matrices.values() for matrix in parts]
        pruned = {matrix.name: self.masks.count(matrix) for matrix in matrices}
        if self.context.pattern != "lamp":
            shapes = {matrix.name: matrix.shape for matrix in matrices}
            return layer_counts(self.context.pattern, sparsity, shapes, pruned)
        make = [functools.partial(self._weights, matrix) for matrix in matrices]
        total = count_of(sparsity, self.context.prunable)
        return dict(zip(pruned, lamp_counts(make, total, list(pruned.values())), strict=True))

    def _weights(self, matrix: Matrix) -> Tensor:
        return full_tensor(self.context.weights[matrix.parameter].detach())[matrix.rows]

    def ready(self) -> bool:
        """Return whether weights can be ranked now; if not, the event waits for the next step."""
        return True

    def mask_gradients(self, step: int, progress: float) -> None:
        """Set the gradients of pruned weights to zero."""
        self.masks.mask_gradients()

    def observe(self, skip: Tensor) -> None:
        """Do nothing: most methods need no gradients."""

    def apply(self, step: int, progress: float) -> None:
        """Prune if an event is due; keep pruned weights and their optimizer state at zero."""
        event = self.events.is_due(step, progress) and self.ready()
        if event:
            self.prune(self.context.schedule.sparsity(progress))
            self.events.advance(step, progress)
        # Between events masked gradients are enough, if the optimizer is known to keep zeros.
        if event or not self.context.keeps_zeros:
            self.masks.apply(self.context.optimizer)

    def goal(self) -> int:
        """Return how many weights are pruned at the end of the run."""
        return count_of(self.context.schedule.target, self.context.prunable)

    def sparsity(self) -> Sparsity:
        """Return the sparsity of the model, from the counts of the last event."""
        matrices = self.masks.matrices()
        pruned = sum(self.masks.counts.values())
        return Sparsity(
            asked=self.context.schedule.target,
            reached=pruned / self.context.prunable,
            final=pruned == self.goal(),
            whole=pruned / self.context.parameters,
            layers={m.name: self.masks.count(m) / m.shape.numel() for m in matrices},
        )

    def verify(self) -> None:
        """Check that exactly the requested number of weights is pruned and zero.

        Raises UserError.
        """
        asked, pruned = self.goal(), sum(self.masks.counts.values())
        if pruned != asked:
            raise UserError(
                f"{pruned:,} weights are pruned at the end of the run, not the {asked:,} asked "
                "for: no result is written",
                code=Exit.BUG,
            )
        if broken := [name for name in self.context.weights if self.masks.violations(name)]:
            raise UserError(
                f"pruned weights of {broken[0]} are not zero at the end of the run: no result is "
                "written",
                code=Exit.BUG,
            )

    def state(self) -> dict[str, Tensor]:
        """Return masks and events, and a flag if stacked matrices are handled one by one."""
        state = {_MASK + name: bits for name, bits in self.masks.tensors().items()}
        state[_EVENTS] = self.events.tensor()
        if any(len(parts) > 1 for parts in self.matrices.values()):
            state[_BY_MATRIX] = torch.ones(1, dtype=torch.uint8)
        return state

    def load(self, state: dict[str, Tensor]) -> None:
        """Restore masks and events; the weights are loaded already.

        Runs started by version 1 have no such flag: until their end they handle parameters as they
        are stored, with queries, keys and values as one matrix. Raises UserError.
        """
        if _BY_MATRIX not in state:
            self.matrices = self.context.stored()
        masks = {
            key.removeprefix(_MASK): bits for key, bits in state.items() if key.startswith(_MASK)
        }
        try:
            self.events.load(state[_EVENTS])
            self.masks.load(masks)
        except KeyError as error:
            raise UserError(
                "the checkpoint is not of a pruned run, or of another version of this program: it "
                f"has no {error.args[0]}; choose another --run-dir",
                code=Exit.CHECKPOINT,
            ) from error
        except ValueError as error:
            raise UserError(f"the checkpoint is damaged: {error}", code=Exit.CHECKPOINT) from error
        way = "remove the newest checkpoint of the run, the one before it may be good"
        if broken := [name for name in masks if self.masks.violations(name)]:
            raise UserError(
                f"the checkpoint contradicts itself: weights of {broken[0]} that its mask says are "
                f"pruned are not zero; {way}",
                code=Exit.CHECKPOINT,
            )
        pruned, due = sum(self.masks.counts[name] for name in masks), self._due()
        if pruned != due:
            raise UserError(
                f"the checkpoint contradicts itself: its masks prune {pruned:,} weights, and its "
                f"last pruning event {due:,}; {way}",
                code=Exit.CHECKPOINT,
            )

    def _due(self) -> int:
        """Return how many weights the past events have pruned."""
        return count_of(self.events.reached(), self.context.prunable)
