"""The contestants of the bench: our own parts, Hugging Face's GPT-2, and a bare loop."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from gpt2.config.errors import UserError
from gpt2.config.typed import Config
from gpt2.data.batches import BatchOrder, TrainBatches
from gpt2.data.meta import Meta
from gpt2.data.tokens import TokenFile
from gpt2.machine.ranks import DistributedContext
from gpt2.model.build import build_model
from gpt2.model.language_model import LanguageModel
from gpt2.model.loss import IGNORED
from gpt2.optim.adam_bf16 import Bf16StateAdam
from gpt2.optim.precision import DTYPES
from gpt2.training.assembly import build_parts
from gpt2.training.compilation import compile_or_fall_back
from gpt2.training.loop import Parts, Progress, Step, forward_backward, train
from gpt2.weights.hugging_face import to_hugging_face
from scripts.benchmark.plain_gpt2 import Plain

#: Suffix of peers whose model torch.compile compiles; ours follows --compile.
COMPILED = "-compiled"

#: A bare loop as in nanoGPT: fused AdamW. Its padded vocabulary is --vocab-size 50304.
NANOGPT = "nanogpt"

#: Sequences of the synthetic corpus; the steps repeat it.
_SEQUENCES = 256


class Side(Protocol):
    """One contestant: a model with its optimizer, ready to train."""

    @property
    def name(self) -> str:
        """Return its name in the tables."""
        ...

    @property
    def model(self) -> nn.Module:
        """Return the model."""
        ...

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """Return the optimizer."""
        ...

    def loss(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss (0-d) over the targets (B, T) that are not IGNORED."""
        ...

    def trial(self) -> None:
        """Run one forward and backward pass, leaving gradients."""
        ...

    def run(self, steps: int) -> None:
        """Train `steps` whole steps."""
        ...

    def close(self) -> None:
        """Stop the threads that read ahead."""
        ...


class _Count:
    """A recorder that ends the loop after `left` steps and writes nothing."""

    def __init__(self, left: int) -> None:
        self.left = left

    def after_step(self, step: Step) -> bool:  # noqa: ARG002
        """Count the step."""
        self.left -= 1
        return self.left > 0


class Ours:
    """The parts that train.py builds, in train.py's loop."""

    name = "ours"

    def __init__(
        self, config: Config, tokens: TokenFile, device: torch.device, precision: str
    ) -> None:
        self.model: LanguageModel = build_model(
            config.model, tokens.meta.vocab_size, device, config.train.seed
        )
        self.parts: Parts = build_parts(
            config, self.model, tokens, device, precision, DistributedContext()
        )
        self.optimizer = self.parts.optimizer
        # No limits: the bench ends the loop.
        self.progress = Progress(None, None)

    def loss(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Return the loss as a training step computes it."""
        with self.parts.precision.autocast():
            loss: Tensor = self.parts.forward(ids, targets)
        return loss

    def trial(self) -> None:
        """Run forward and backward over one step's batches; compile the rounding to bf16."""
        forward_backward(self.parts, self.progress.step)
        if isinstance(self.optimizer, Bf16StateAdam):
            self.optimizer.compile()

    def run(self, steps: int) -> None:
        """Train `steps` steps in the real loop."""
        train(self.parts, self.progress, _Count(steps))

    def weights(self) -> dict[str, Tensor]:
        """Return the weights by their names."""
        return dict(self.model.state_dict())

    def close(self) -> None:
        """Stop the threads that read ahead."""
        self.parts.batches.close()


class Peer:
    """Another program's model in the usual plain loop, with torch's AdamW."""

    def __init__(
        self,
        name: str,
        model: nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor],
        config: Config,
        batches: TrainBatches,
        precision: str,
    ) -> None:
        self.name, self.model, self._loss, self._batches = name, model, loss, batches
        self._device = next(model.parameters()).device
        self._clip, self._count = config.optim.grad_clip, config.train.gradient_accumulation
        self._dtype = DTYPES[precision]
        options = config.optim.options
        self.optimizer = torch.optim.AdamW(
            model.parameters(),
            lr=config.optim.learning_rate,
            betas=(options.beta1, options.beta2),
            eps=options.eps,
            weight_decay=config.optim.weight_decay,
            fused=True if name.startswith(NANOGPT) else None,
        )
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=precision == "fp16")
        self._step = 0

    def loss(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Return the loss under the same autocast as ours."""
        mixed = self._dtype != torch.float32
        with torch.autocast(self._device.type, dtype=self._dtype, enabled=mixed):
            return self._loss(ids, targets)

    def trial(self) -> None:
        """Run forward and backward over one step's batches."""
        for micro in range(self._count):
            loss = self.loss(*self._batches.train(self._step, micro)) / self._count
            self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def run(self, steps: int) -> None:
        """Train `steps` steps: forward, backward, clip, step."""
        for _ in range(steps):
            self.trial()
            self._scaler.unscale_(self.optimizer)
            if self._clip > 0.0:
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), self._clip)
            self._scaler.step(self.optimizer)
            self._scaler.update()
            self.optimizer.zero_grad(set_to_none=True)
            self._step += 1

    def close(self) -> None:
        """Stop the threads that read ahead."""
        self._batches.close()


def synthetic_tokens(config: Config, vocab_size: int) -> TokenFile:
    """Return random tokens as a prepared split, so that nothing needs preparing."""
    count = _SEQUENCES * config.model.block_size + 1
    ids = np.random.default_rng(0).integers(0, vocab_size, count).astype(np.uint16)
    meta = Meta("synthetic", {"name": "random", "vocab_size": vocab_size}, {}, {})
    return TokenFile(path=config.data.data_dir, ids=ids, text_bytes=count, meta=meta)


def build_peer(name: str, config: Config, tokens: TokenFile, ours: Ours) -> Peer:
    """Build peer `name` with our weights, on our device.

    Raises UserError.
    """
    _refuse_unequal_work(name, config, ours)
    precision = ours.parts.precision
    order = BatchOrder(
        block_size=config.model.block_size,
        batch_size=config.train.batch_size,
        gradient_accumulation=config.train.gradient_accumulation,
        seed=config.train.seed,
    )
    batches = TrainBatches(tokens, order, precision.device, config.data.num_workers)
    model, loss = PEERS[name.removesuffix(COMPILED)](config, tokens.meta.vocab_size, ours.weights())
    model = model.to(precision.device).train()
    return Peer(name, model, loss, config, batches, precision.name)


def _plain(config: Config, vocab_size: int, weights: dict[str, Tensor]) -> Any:
    model = Plain(config.model, vocab_size)
    model.load_state_dict({k.removeprefix("transformer."): v for k, v in weights.items()})
    return model, model


def _transformers(config: Config, vocab_size: int, weights: dict[str, Tensor]) -> Any:
    try:
        import transformers
    except ImportError as error:
        raise UserError(
            "--against transformers needs that package: 'make bench' has it, or install the "
            "development part of requirements.txt"
        ) from error
    c = config.model
    shape = transformers.GPT2Config(  # type: ignore[call-arg]
        vocab_size=vocab_size,
        n_positions=c.block_size,
        n_embd=c.n_embd,
        n_layer=c.n_layer,
        n_head=c.n_head,
        resid_pdrop=c.dropout,
        embd_pdrop=c.dropout,
        attn_pdrop=c.dropout,
        bos_token_id=0,
        eos_token_id=0,
        use_cache=False,  # no generation here; a cache would slow the peer down
        attn_implementation="sdpa" if c.flash_attention else "eager",
    )
    model = transformers.GPT2LMHeadModel(shape)
    missing, unexpected = model.load_state_dict(to_hugging_face(weights), strict=False)
    assert set(missing) <= {"lm_head.weight"}, missing
    assert not unexpected, unexpected
    # As its users do: inputs are the labels, and it shifts them itself.
    return model, lambda ids, _: model(input_ids=ids, labels=ids).loss


PEERS: dict[str, Callable[[Config, int, dict[str, Tensor]], Any]] = {
    "plain": _plain,
    NANOGPT: _plain,
    "transformers": _transformers,
}


def wants_compiling(side: Side, config: Config) -> bool:
    """Return whether torch.compile compiles this side's model."""
    return bool(config.machine.compile) if isinstance(side, Ours) else side.name.endswith(COMPILED)


def _refuse_unequal_work(name: str, config: Config, ours: Ours) -> None:
    problems = []
    if not isinstance(ours.optimizer, torch.optim.AdamW):
        problems.append(f"--optimizer {config.optim.optimizer}: --against {name} has AdamW")
    if config.prune is not None:
        problems.append(f"--pruning-method: --against {name} prunes nothing; compare with none")
    if name.startswith("transformers") and not config.model.bias:
        problems.append("--no-bias: --against transformers always has biases; compare with --bias")
    if problems:
        raise UserError(*problems)


def check_same_loss(ours: Ours, peer: Side) -> None:
    """Raise UserError if a peer's loss and gradient on one batch differ from ours.

    Dropout is off. The last target of each sequence is left out, since transformers has none there.
    The gradient norm distinguishes models: at the start every loss is about ln V.
    """
    ids, targets = ours.parts.batches.train(0, 0)
    targets = targets.clone()
    targets[:, -1] = IGNORED
    found = [_loss_and_norm(side, ids, targets) for side in (ours, peer)]
    tolerance = 1e-4 if ours.parts.precision.name == "fp32" else 3e-2
    for what, mine, theirs in zip(("loss", "gradient norm"), *found, strict=True):
        if not abs(mine - theirs) <= tolerance * abs(mine):
            raise UserError(
                f"--against {peer.name} computes something else: on the same weights and batch its "
                f"{what} is {theirs:.6g}, ours {mine:.6g}; nothing was compared"
            )


def _loss_and_norm(side: Side, ids: Tensor, targets: Tensor) -> tuple[float, float]:
    side.model.eval()
    loss = side.loss(ids, targets)
    loss.backward()  # type: ignore[no-untyped-call]
    norm = torch.nn.utils.get_total_norm(
        [p.grad for p in side.model.parameters() if p.grad is not None]
    )
    side.optimizer.zero_grad(set_to_none=True)
    side.model.train()
    return float(loss.detach()), float(norm)


def compile_ours(side: Ours, config: Config) -> None:
    """Compile a side of ours where --compile asks for it.

    Raises UserError.
    """
    if wants_compiling(side, config):
        compile_side(side)


def compile_side(side: Side) -> float:
    """Compile the side's model; return the seconds to its first pass.

    Raises UserError.
    """
    # Ours leaves the loss outside, as train.py does.
    part = side.model.transformer if isinstance(side, Ours) else side.model
    assert isinstance(part, nn.Module)
    start = time.perf_counter()
    failure = compile_or_fall_back(part, side.trial)
    side.optimizer.zero_grad(set_to_none=True)
    if failure is not None:
        flag = "--compile" if isinstance(side, Ours) else f"--against {side.name}"
        raise UserError(f"{flag}: compiling is not possible here: {failure}")
    return time.perf_counter() - start
