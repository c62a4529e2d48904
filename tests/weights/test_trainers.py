"""Checkpoints of other trainers: what they hold is taken where it is GPT-2's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gpt2.config.errors import UserError
from gpt2.weights.foreign import open_foreign
from gpt2.weights.trainers import is_conv1d, of_trainer, unwrapped
from tests.weights.test_pretrained import POSITIONS, assert_same, hugging_face, loaded

CONV1D = (".c_attn.weight", ".c_proj.weight", ".c_fc.weight")


def linear(model: Any) -> dict[str, Tensor]:
    """The weights as nn.Linear has them, with the head that shares the embedding, as nanoGPT's."""
    found = {n: t.t().clone() if n.endswith(CONV1D) else t for n, t in model.state_dict().items()}
    assert torch.equal(found["lm_head.weight"], found["transformer.wte.weight"])
    return found


def prefixed(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def nanogpt(model: Any) -> dict[str, Any]:
    """What its train.py saves of a compiled model."""
    args = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": POSITIONS, "bias": True}
    return {
        "model": prefixed(linear(model), "_orig_mod."),
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-3}]},
        "model_args": {**args, "vocab_size": 20, "dropout": 0.0},
        "iter_num": 3,
        "best_val_loss": torch.tensor(3.5),
        "config": {"dataset": "text", "device": "cpu"},
    }


@pytest.mark.parametrize(
    "save",
    [
        nanogpt,
        lambda model: {"state_dict": prefixed(model.state_dict(), "model."), "epoch": 1},
        lambda model: {"model_state_dict": prefixed(linear(model), "module.")},
        lambda model: prefixed(linear(model), "module._orig_mod."),
        lambda model: {"state_dict": prefixed(model.state_dict(), "_forward_module.model.")},
        lambda model: {
            n.replace(".mlp.", "._fsdp_wrapped_module._checkpoint_wrapped_module.mlp."): t
            for n, t in prefixed(linear(model), "_fsdp_wrapped_module.").items()
        },
        linear,
    ],
    ids=["nanogpt", "lightning", "ddp", "bare-and-wrapped", "fabric", "fsdp", "linear"],
)
def test_logits_are_those_of_the_model(
    save: Callable[[Any], dict[str, Any]], tmp_path: Path
) -> None:
    theirs = hugging_face()
    torch.save(save(theirs), tmp_path / "ckpt.pt")
    assert_same(loaded(tmp_path / "ckpt.pt"), theirs, POSITIONS)


def test_nanogpt_says_its_shape(tmp_path: Path) -> None:
    torch.save(nanogpt(hugging_face()), tmp_path / "ckpt.pt")
    assert open_foreign(tmp_path / "ckpt.pt").shape == {"n_layer": 2, "n_head": 2, "n_embd": 16}
    with pytest.raises(UserError, match="this is a model of 2 layers, 2 heads"):
        loaded(tmp_path / "ckpt.pt", n_head=4)


def test_what_holds_no_weights_is_refused_by_name(tmp_path: Path) -> None:
    torch.save({"optimizer": {}, "step": 3}, tmp_path / "ckpt.pt")
    with pytest.raises(UserError, match="'optimizer' in it is not a tensor"):
        open_foreign(tmp_path / "ckpt.pt")


def test_names_that_would_hide_each_other_stay() -> None:
    both = {"module.a": torch.ones(1), "a": torch.zeros(1)}
    assert set(unwrapped(both)) == set(both)
    assert dict(unwrapped({"module.model.a": both["a"]})) == {"a": both["a"]}


def test_without_attention_the_orientation_is_that_of_transformers() -> None:
    assert is_conv1d({"h.0.mlp.c_fc.weight": torch.ones(4, 16)})
    assert not is_conv1d({"h.0.attn.c_attn.weight": torch.ones(12, 4)})


def test_a_state_dict_is_itself() -> None:
    tensors = {"wte.weight": torch.ones(2, 2)}
    assert of_trainer(tensors) == (tensors, {})
