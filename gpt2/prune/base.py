"""What all pruning methods have in common: masks, events, accounting and checkpoints."""

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
    """What a pruning method works on, and what was asked of it.

    weights: the prunable parameters by name, in the model's order. parameters: how many numbers
    the whole model has. calibration: training text for methods that look at activations.
    clear_state: see Masks. keeps_zeros: the optimizer leaves a weight of zero at zero, and its
    state, while the gradient there is zero.
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
        """Return the matrices that the pattern divides zeros among, by name of the parameter."""
        if self.pattern not in BY_MATRIX:
            return self.stored()
        return {name: matrices_of(name, weight.shape) for name, weight in self.weights.items()}

    def stored(self) -> dict[str, tuple[Matrix, ...]]:
        """Return each prunable parameter as one matrix, by its name."""
        return {name: (stored(name, weight.shape),) for name, weight in self.weights.items()}

    @property
    def prunable(self) -> int:
        """Number of prunable weights."""
        return sum(weight.numel() for weight in self.weights.values())


class MaskedPruner(ABC):
    """A pruner that chooses weights at the events of a ramp and keeps them zero from then on.

    matrices: those it works on one by one, by name of the parameter that holds them.
    """

    def __init__(self, context: PruningContext) -> None:
        self.context = context
        self.matrices = context.matrices()
        self.masks = Masks(context.weights, context.clear_state)
        self.events = Events(context.schedule)

    @abstractmethod
    def prune(self, sparsity: float) -> None:
        """Change the masks so that `sparsity` of the prunable weights is pruned, exactly."""

    def shares(self, sparsity: float) -> dict[str, int]:
        """Return how many weights of each matrix shall be pruned, by its name.

        Together they are `sparsity` of the prunable weights; no matrix gets back what is pruned.
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
        """Whether there is what the choice is made by; if not, the next step decides."""
        return True

    def mask_gradients(self, step: int, progress: float) -> None:
        """Set the gradients of pruned weights to zero."""
        self.masks.mask_gradients()

    def observe(self, skip: Tensor) -> None:
        """Do nothing: most methods look at no gradients."""

    def apply(self, step: int, progress: float) -> None:
        """Make the event that is due, if one is; keep pruned weights and their state at zero."""
        event = self.events.is_due(step, progress) and self.ready()
        if event:
            self.prune(self.context.schedule.sparsity(progress))
            self.events.advance(step, progress)
        # Between events the masked gradients do it alone, where the optimizer is known to follow.
        if event or not self.context.keeps_zeros:
            self.masks.apply(self.context.optimizer)

    def goal(self) -> int:
        """Return how many weights are pruned at the end of the run."""
        return count_of(self.context.schedule.target, self.context.prunable)

    def sparsity(self) -> Sparsity:
        """Say how sparse the model is, by what was counted at the last event."""
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
        """Check that exactly the asked number of weights is pruned, and is zero."""
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
        """Return masks and events, and a mark where stacked matrices are worked on one by one."""
        state = {_MASK + name: bits for name, bits in self.masks.tensors().items()}
        state[_EVENTS] = self.events.tensor()
        if any(len(parts) > 1 for parts in self.matrices.values()):
            state[_BY_MATRIX] = torch.ones(1, dtype=torch.uint8)
        return state

    def load(self, state: dict[str, Tensor]) -> None:
        """Take back masks and events; the weights are in place already.

        A run that version 1 began has no mark: it works on parameters as they are stored, queries,
        keys and values as one, to its end.
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
        """Return how many weights are pruned, by the events that were."""
        return count_of(self.events.reached(), self.context.prunable)
