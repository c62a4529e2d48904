"""Find and build library optimizers and the user's own, by name."""

from __future__ import annotations

import functools
import importlib
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from types import ModuleType
from typing import Any

import torch
from torch import nn

from gpt2.config.errors import UserError
from gpt2.config.library import LIBRARIES, is_own_code, split_name
from gpt2.config.names import nearest
from gpt2.config.text import pip_install
from gpt2.optim.groups import parameter_groups
from gpt2.optim.libraries.arguments import parameters, typed_arguments
from gpt2.optim.libraries.compatibility import COMPATIBLE, Compatible
from gpt2.optim.libraries.names import refusal

Optimizer = torch.optim.Optimizer

#: Passed to every optimizer that has the argument, unless the user gives it: decoupled weight
#: decay, which --weight-decay means for most.
PRESET = {"weight_decouple": True}


@dataclass(frozen=True)
class Found:
    """An optimizer's class, the name it was asked for by, and how to call it."""

    name: str
    kind: type[Optimizer]
    entry: Compatible

    def arguments(self, given: Mapping[str, str]) -> dict[str, Any]:
        """Return the constructor's arguments, those in `given` typed.

        Raises UserError.
        """
        known = parameters(self.kind)
        typed = typed_arguments(self.name, self.kind, dict(given), self.entry.reserved)
        preset = {key: value for key, value in PRESET.items() if key in known}
        ready = {**preset, **self.entry.arguments, **typed}
        needed = [
            key
            for key, parameter in list(known.items())[1:]
            if parameter.default is parameter.empty and key not in (*ready, "lr", "weight_decay")
        ]
        if needed:
            raise UserError(
                *(f"--optimizer {self.name} needs --opt-arg {key}=VALUE" for key in needed)
            )
        return ready

    def build(self, groups: list[dict[str, Any]], given: Mapping[str, str]) -> Optimizer:
        """Build the optimizer over `groups`.

        Raises UserError when its constructor refuses an argument.
        """
        ready = self.arguments(given)
        # The rate is in the groups; only pass it where required. Some derive other rates from it.
        required = [key for key in ("lr", "weight_decay") if _is_required(self.kind, key)]
        ready.update({key: groups[0][key] for key in required})
        groups = [{**group, **self.entry.by_role.get(group["role"], {})} for group in groups]
        rates = [group["lr"] for group in groups]
        try:
            optimizer = self.kind(groups, **ready)
        except (ValueError, TypeError, AssertionError, NotImplementedError) as error:
            raise UserError(f"--optimizer {self.name} cannot be built: {error}") from error
        if self.entry.tensor_rate:
            _keep_rates_in_tensors(optimizer, rates)
        return optimizer


def find(name: str) -> Found:
    """Return the optimizer named `name` ("po:soap", "module:Class").

    Raises UserError when it is unknown or not admitted, or when its package is missing.
    """
    first, second = split_name(name)
    if is_own_code(name):
        return Found(name, _own_class(first, second), Compatible(decay="unknown"))
    if reason := refusal(name):
        raise UserError(reason)
    known = classes(first)
    if second not in known:  # of another version than was tested
        raise UserError(
            f"--optimizer {name}: {LIBRARIES[first].module} has no {second!r} here, in another "
            "version than was tested (make list-optimizers prints all)"
        )
    return Found(name, known[second](), COMPATIBLE[first][second])


def check(name: str, given: Mapping[str, str], weight_decay: float, ranks: int) -> None:
    """Check, before the run exists, that an optimizer can train.

    given: its arguments as texts. ranks: how many processes train together. Raises UserError.
    """
    found = find(name)
    sample = nn.Sequential(nn.Embedding(2, 2), nn.Linear(2, 2))
    found.build(parameter_groups(sample, 0.01, weight_decay), given)
    decay = found.entry.decay
    if decay == "unknown":
        decay = "unknown" if "weight_decay" in parameters(found.kind) else "none"
    if weight_decay > 0.0 and decay in ("none", "own"):
        why = "has no weight decay" if decay == "none" else f"decays {found.entry.note}"
        raise UserError(f"--weight-decay {weight_decay:g}: {name} {why}; give --weight-decay 0")
    if found.entry.random and ranks > 1:
        raise UserError(
            f"--optimizer {name} draws random numbers in its step, so {ranks} ranks would go "
            "different ways: train on one, or choose another"
        )
    if found.entry.tensor_rate and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        raise UserError(f"--optimizer {name} is compiled by torch: install a C++ compiler (g++)")


def classes(prefix: str) -> dict[str, Callable[[], type[Optimizer]]]:
    """Return a loader for each optimizer class in the library of `prefix`, by name.

    Raises UserError when the library is missing or its version was not tested.
    """
    module = _import_library(prefix)
    if hasattr(module, "load_optimizer"):  # pytorch_optimizer names its optimizers otherwise
        names = module.get_supported_optimizers()
        return {name: functools.partial(module.load_optimizer, name) for name in names}
    own = vars(importlib.import_module(f"{module.__name__}.optim")).values()
    found = [kind for kind in own if isinstance(kind, type) and issubclass(kind, Optimizer)]
    return {kind.__name__.lower(): functools.partial(_itself, kind) for kind in found}


def _itself(kind: type[Optimizer]) -> type[Optimizer]:
    return kind


def _import_library(prefix: str) -> ModuleType:
    library = LIBRARIES[prefix]
    install = pip_install(library.requirement)
    try:
        module = importlib.import_module(library.module)
    except ImportError as error:
        raise UserError(f"{prefix}:NAME needs the package {library.module}: {install}") from error
    version = metadata.version(library.module)
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if not library.least <= numbers < library.below:
        raise UserError(
            f"{prefix}:NAME: {library.module} {version} is not a version that was tested: {install}"
        )
    return module


def _own_class(module: str, name: str) -> type[Optimizer]:
    """Import an optimizer class of the user's.

    Raises UserError.
    """
    where = f"--optimizer {module}:{name}"
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or module
        if module == missing or module.startswith(f"{missing}."):
            raise UserError(
                f"{where}: no library or module {missing!r}: libraries are "
                f"{', '.join(LIBRARIES)}; PYTHONPATH=FOLDER adds a folder of modules"
            ) from error
        raise UserError(f"{where} needs the package {missing!r}: install it with pip") from error
    kind = vars(found).get(name)
    if not (isinstance(kind, type) and issubclass(kind, Optimizer)):
        there = [
            key
            for key, value in vars(found).items()
            if isinstance(value, type) and issubclass(value, Optimizer)
        ]
        problem = "is not a torch.optim.Optimizer" if name in vars(found) else "not found"
        raise UserError(
            f"{where}: {name} {problem}{nearest(name, there)} "
            f"(optimizers in {module}: {', '.join(there) or 'none'})"
        )
    return kind


def _is_required(kind: type[Optimizer], key: str) -> bool:
    parameter = parameters(kind).get(key)
    return parameter is not None and parameter.default is parameter.empty


def _keep_rates_in_tensors(optimizer: Optimizer, numbers: list[float]) -> None:
    """Show compiled steps their rates as tensors, and everybody else plain numbers."""
    tensors = [group["lr"] for group in optimizer.param_groups]

    def before(*_: Any) -> None:
        for place, group in enumerate(optimizer.param_groups):
            numbers[place] = group["lr"]
            group["lr"] = tensors[place].fill_(group["lr"])

    def after(*_: Any) -> None:
        for group, number in zip(optimizer.param_groups, numbers, strict=True):
            group["lr"] = number

    after()
    optimizer.register_step_pre_hook(before)
    optimizer.register_step_post_hook(after)
