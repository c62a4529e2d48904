"""Parameter groups: a partition of the parameters by role."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gpt2.config.typed import ModelConfig
from gpt2.model.gpt import GPT
from gpt2.optim.groups import ROLES, fused_where_possible, parameter_groups

RATE, DECAY = 0.01, 0.1


def model_of(bias: bool) -> GPT:
    return GPT(
        ModelConfig(
            model="custom",
            n_layer=2,
            n_head=2,
            n_embd=8,
            block_size=6,
            dropout=0.0,
            bias=bias,
            flash_attention=True,
            activation_checkpointing="none",
            residual_precision=None,
            loss="full",
            loss_chunk_mib=None,
            init_from=None,
            keep_sparsity=None,
        ),
        vocab_size=20,
    )


@pytest.mark.parametrize("bias", [True, False])
def test_every_parameter_is_in_exactly_one_group(bias: bool) -> None:
    model = model_of(bias)
    groups = parameter_groups(model, RATE, DECAY)
    grouped = [parameter for group in groups for parameter in group["params"]]
    assert len(grouped) == len({id(parameter) for parameter in grouped})
    assert {id(p) for p in grouped} == {id(p) for p in model.parameters()}
    for group in groups:
        named = dict(model.named_parameters())
        assert [id(named[name]) for name in group["names"]] == [id(p) for p in group["params"]]


@pytest.mark.parametrize("bias", [True, False])
def test_roles(bias: bool) -> None:
    groups = {group["role"]: group for group in parameter_groups(model_of(bias), RATE, DECAY)}
    assert tuple(groups) == ROLES
    # The head is the embedding: it is there once, as an embedding.
    assert groups["embedding"]["names"] == ["transformer.wte.weight", "transformer.wpe.weight"]
    linear = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    assert set(groups["matrix"]["names"]) == {
        f"transformer.h.{layer}.{name}.weight" for layer in (0, 1) for name in linear
    }
    norms = {f"transformer.h.{layer}.ln_{n}" for layer in (0, 1) for n in (1, 2)}
    vectors = {f"{name}.weight" for name in norms | {"transformer.ln_f"}}
    if bias:
        vectors |= {f"{name}.bias" for name in norms | {"transformer.ln_f"}}
        vectors |= {f"transformer.h.{layer}.{name}.bias" for layer in (0, 1) for name in linear}
    assert set(groups["vector"]["names"]) == vectors
    assert all(parameter.ndim == 1 for parameter in groups["vector"]["params"])


def test_all_have_the_rate_and_vectors_do_not_decay() -> None:
    groups = parameter_groups(model_of(bias=True), RATE, DECAY)
    assert {group["lr"] for group in groups} == {RATE}
    decays = {group["role"]: group["weight_decay"] for group in groups}
    assert decays == {"matrix": DECAY, "embedding": DECAY, "vector": 0.0}


def test_a_matrix_tied_under_two_names_is_one_embedding() -> None:
    head, embedding = nn.Linear(4, 9, bias=False), nn.Embedding(9, 4)
    head.weight = embedding.weight
    groups = parameter_groups(nn.ModuleDict({"head": head, "embedding": embedding}), RATE, DECAY)
    assert [(group["role"], len(group["params"])) for group in groups] == [("embedding", 1)]


def test_a_role_without_parameters_has_no_group() -> None:
    groups = parameter_groups(nn.Linear(3, 2, bias=False), RATE, DECAY)
    assert [group["role"] for group in groups] == ["matrix"]


def test_fused_kernels_are_for_devices_that_have_them() -> None:
    model = model_of(bias=True)
    groups = parameter_groups(model, RATE, DECAY)
    assert fused_where_possible(groups)
    groups[2]["params"][0] = nn.Parameter(torch.zeros(2, device="meta"))
    assert not fused_where_possible(groups)
