"""The weights of another GPT-2, checked before a run starts from them, copied one by one."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gpt2.config.errors import Exit, UserError
from gpt2.config.text import shortened
from gpt2.config.typed import ModelConfig
from gpt2.model.build import empty_model
from gpt2.model.language_model import LanguageModel
from gpt2.weights.hugging_face import EMBEDDING, HEAD, our_name, transposed

_POSITIONS = "transformer.wpe.weight"
#: Sizes that must agree: names of the options and of the entries in config.json.
SHAPE = ("n_layer", "n_head", "n_embd")


@dataclass(frozen=True)
class Pretrained:
    """Weights of another model.

    tensors: reads each tensor when it is asked for, by its name in the file.
    conv1d: linear weights are (in, out), Hugging Face's orientation.
    shape: SHAPE by name, or empty where unknown.
    """

    where: Path
    tensors: Mapping[str, Tensor]
    conv1d: bool
    shape: Mapping[str, int]

    def check(self, config: ModelConfig, vocab_size: int, same_tokens: bool = False) -> None:
        """Raise UserError with every reason why a model of `config` cannot use these weights.

        `same_tokens`: the ids of the data are the model's first ids; rows of the embedding beyond
        them are allowed, and left out.
        """
        have = {name: getattr(config, name) for name in SHAPE}
        if self.shape and self.shape != have:
            ways = " ".join(f"--{k.replace('_', '-')} {v}" for k, v in self.shape.items())
            raise self._error(
                f"this is a model of {_shape_text(self.shape)}, but --model {config.model} is one "
                f"of {_shape_text(have)}; give the published size, or --model custom {ways}"
            )
        with torch.device("meta"):
            wanted = {
                n: tuple(p.shape) for n, p in empty_model(config, vocab_size).named_parameters()
            }
        names = self._names()
        if problems := list(self._name_problems(set(wanted), set(names))):
            raise self._error(*problems)
        problems = [
            problem
            for name, shape in wanted.items()
            if (problem := self._tensor_problem(names[name], name, shape, same_tokens))
        ]
        if problems:
            raise self._error(*problems)
        self._check_values(names)

    def copy_to(self, model: LanguageModel) -> None:
        """Overwrite every parameter of `model`, in place; call check() first.

        Tensors are read from the file and copied one by one.
        """
        names = self._names()
        for name, parameter in model.named_parameters():
            rows = parameter.size(0)  # positions and ids: only the first rows
            parameter.data.copy_(self._ours(names[name], name)[:rows])

    def rows_beyond(self, vocab_size: int) -> int:
        """Return how many rows of the embedding are ids that the data do not have."""
        return self.tensors[self._names()[EMBEDDING]].size(0) - vocab_size

    def zero_share(self) -> float:
        """Return the share of zeros in the matrices of the blocks: a pruned model has many."""
        zeros = total = 0
        for ours, name in self._names().items():
            if ".h." in ours and self.tensors[name].dim() == 2:
                tensor = self.tensors[name]
                zeros += tensor.numel() - int(torch.count_nonzero(tensor))
                total += tensor.numel()
        return zeros / max(1, total)

    def has_zeros(self) -> bool:
        """Return whether the blocks' matrices or the token embedding have a zero."""
        return self.zero_share() > 0.0 or not bool(self.tensors[self._names()[EMBEDDING]].all())

    def identity(self) -> dict[str, str]:
        """Return run.json's entry about these weights: their path and sha256."""
        return {"path": str(self.where.resolve()), "sha256": self.sha256}

    @functools.cached_property
    def sha256(self) -> str:
        """Return a SHA-256 over names, types, shapes and bytes, independent of the file layout."""
        found = hashlib.sha256()
        for ours, name in sorted(self._names().items()):
            tensor = self.tensors[name].contiguous()
            found.update(f"{ours} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
        return found.hexdigest()

    def _names(self) -> dict[str, str]:
        """Return the name in the file of each of our tensors."""
        return {ours: name for name in self.tensors if (ours := our_name(name))}

    def _ours(self, name: str, ours: str) -> Tensor:
        tensor = self.tensors[name]
        return transposed(ours, tensor) if self.conv1d else tensor

    def _name_problems(self, wanted: set[str], found: set[str]) -> Iterator[str]:
        missing, unexpected = wanted - found, found - wanted
        if unexpected and not missing and all(name.endswith(".bias") for name in unexpected):
            yield "it has biases, and --no-bias leaves them out; give --bias"
        elif missing and not unexpected and all(name.endswith(".bias") for name in missing):
            yield "it has no biases; give --no-bias"
        else:
            if missing:
                yield f"tensors are missing: {shortened(sorted(missing), 3)}"
            if unexpected:
                others = shortened(sorted(unexpected), 3)
                yield f"tensors that GPT-2 of this shape does not have: {others}"

    def _tensor_problem(
        self, name: str, ours: str, wanted: tuple[int, ...], same_tokens: bool
    ) -> str | None:
        tensor = self.tensors[name]
        if not tensor.is_floating_point():
            return f"{name} holds {tensor.dtype}, not floating-point numbers"
        # Vectors are not transposed; where a matrix is needed, other tensors cannot be.
        shape = tuple(self._ours(name, ours).shape) if tensor.dim() == 2 else tuple(tensor.shape)
        if ours == _POSITIONS and len(shape) == 2 and shape[1:] == wanted[1:]:
            if shape[0] >= wanted[0]:
                return None
            return (
                f"{name} has {shape[0]} positions, which cannot grow to --block-size {wanted[0]}; "
                f"give --block-size {shape[0]} or less"
            )
        if shape == wanted:
            return None
        problem = f"{name} has shape {shape} (out, in), this model needs {wanted}"
        if ours == EMBEDDING:
            if same_tokens and shape[1:] == wanted[1:] and shape[0] > wanted[0]:
                return None
            problem = f"{name} has shape {shape}, this model needs {wanted}"
            if shape[1:] == wanted[1:]:
                problem += ": the vocabulary is not that of the data (--dataset, --tokenizer)"
        return problem

    def _check_values(self, names: Mapping[str, str]) -> None:
        head = self.tensors.get(HEAD)
        if head is not None and not torch.equal(head, self.tensors[names[EMBEDDING]]):
            raise self._error(f"{HEAD} differs from {EMBEDDING}: only tied heads can be taken over")
        for name in names.values():
            # A sum in fp32 needs no extra memory, and any NaN or Inf spoils it.
            if not self.tensors[name].sum(dtype=torch.float32).isfinite():
                raise self._error(f"{name} holds numbers that are not finite", code=Exit.CHECKPOINT)

    def _error(self, *problems: str, code: Exit = Exit.CONFIG) -> UserError:
        return UserError(*(f"--init-from {self.where}: {text}" for text in problems), code=code)


def _shape_text(shape: Mapping[str, int]) -> str:
    layers, heads, width = (shape[name] for name in SHAPE)
    return f"{layers} layers, {heads} heads and width {width}"
