"""Initial weights: distributions, and that nothing but seed and name decides them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gpt2.config.typed import ModelConfig
from gpt2.model.build import build_model
from gpt2.model.gpt import GPT
from gpt2.model.init import initialise

CPU = torch.device("cpu")
VOCABULARY = 300


def config_of(**changes: Any) -> ModelConfig:
    shape = {"n_layer": 2, "n_head": 2, "n_embd": 64, "block_size": 32}
    rest = {"model": "custom", "dropout": 0.0, "bias": True, "flash_attention": True}
    rest["activation_checkpointing"] = "none"
    return ModelConfig(
        **(
            shape
            | rest
            | {"loss": "full", "loss_chunk_mib": None}
            | dict.fromkeys(("init_from", "keep_sparsity", "residual_precision"))
            | changes
        )
    )


def weights(seed: int = 1, **changes: Any) -> dict[str, Tensor]:
    return build_model(config_of(**changes), VOCABULARY, CPU, seed).state_dict()


def drawn(name: str) -> bool:
    return not name.endswith("bias") and ".ln_" not in name


@pytest.mark.parametrize("n_layer", [1, 2, 8])
def test_distributions(n_layer: int) -> None:
    for name, tensor in weights(n_layer=n_layer).items():
        if name.endswith("bias"):
            assert torch.count_nonzero(tensor) == 0, name
        elif not drawn(name):
            assert torch.all(tensor == 1.0), name
        else:
            wanted = 0.02 / math.sqrt(2 * n_layer) if "c_proj" in name else 0.02
            count = tensor.numel()
            assert abs(float(tensor.std()) / wanted - 1.0) < 5.0 / math.sqrt(2 * count), name
            assert abs(float(tensor.mean())) < 5.0 * wanted / math.sqrt(count), name
            # Normal, not uniform: about 4.55 % lie beyond two deviations.
            beyond = float((tensor.abs() > 2.0 * wanted).float().mean())
            assert abs(beyond - 0.0455) < 5.0 * math.sqrt(0.0455 / count), name


def test_a_seed_gives_the_same_bits_and_another_gives_others() -> None:
    first, again, other = weights(seed=7), weights(seed=7), weights(seed=8)
    for name in first:
        assert torch.equal(first[name], again[name])
        assert torch.equal(first[name], other[name]) == (not drawn(name))


def test_no_two_parameters_share_their_draws() -> None:
    starts = [tuple(t.flatten()[:4].tolist()) for name, t in weights().items() if drawn(name)]
    signs = [tuple(value / abs(start[0]) for value in start) for start in starts]
    assert len(set(starts)) == len(starts)
    assert len(set(signs)) == len(signs)


def test_depth_changes_the_scale_of_the_residual_projections_only() -> None:
    two, five = weights(n_layer=2), weights(n_layer=5)
    assert two.keys() < five.keys()
    for name in two:
        if name.endswith("c_proj.weight"):
            torch.testing.assert_close(five[name] * math.sqrt(5 / 2), two[name])
        else:
            assert torch.equal(two[name], five[name])


def nest(shapes: Iterable[tuple[str, torch.Size]]) -> nn.Module:
    """A module whose parameters, full of NaN, have these dotted names, in this order."""
    root = nn.Module()
    for name, shape in shapes:
        *path, last = name.split(".")
        module = root
        for part in path:
            if part not in dict(module.named_children()):
                module.add_module(part, nn.Module())
            module = module.get_submodule(part)
        module.register_parameter(last, nn.Parameter(torch.full(shape, math.nan)))
    return root


def test_neither_order_nor_company_matters_and_all_is_written() -> None:
    expected = weights()
    shapes = [(name, tensor.shape) for name, tensor in expected.items()]
    for chosen in (shapes, shapes[::-1], shapes[1::3]):
        module = nest(chosen)
        initialise(module, seed=1, n_layer=2)
        found = dict(module.named_parameters())
        assert found.keys() == {name for name, _ in chosen}
        for name, parameter in found.items():
            assert torch.equal(parameter, expected[name]), name


def test_every_number_of_the_model_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    materialise = GPT.to_empty

    def to_nan(self: GPT, *, device: torch.device) -> GPT:
        materialise(self, device=device)
        with torch.no_grad():
            for tensor in self.state_dict(keep_vars=True).values():
                tensor.fill_(math.nan)
        return self

    monkeypatch.setattr(GPT, "to_empty", to_nan)
    model = build_model(config_of(), VOCABULARY, CPU, 1)
    assert not list(model.buffers())
    for name, parameter in model.named_parameters():
        assert parameter.device == CPU
        assert parameter.requires_grad
        assert parameter.is_leaf
        assert torch.isfinite(parameter).all(), name


def test_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    weights()
    assert torch.equal(torch.get_rng_state(), before)
