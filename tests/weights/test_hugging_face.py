"""Hugging Face interchange: every tensor turned as it must be, both ways."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gpt2.config.typed import ModelConfig
from gpt2.model.build import build_model
from gpt2.model.gpt import GPT
from gpt2.weights.hugging_face import to_hugging_face
from tests.support.hugging_face import from_hugging_face

transformers = pytest.importorskip("transformers")

CONFIG = ModelConfig(
    model="custom",
    n_layer=2,
    n_head=2,
    n_embd=8,
    block_size=6,
    dropout=0.0,
    bias=True,
    flash_attention=True,
    activation_checkpointing="none",
    residual_precision=None,
    loss="full",
    loss_chunk_mib=None,
    init_from=None,
    keep_sparsity=None,
)
THEIRS = transformers.GPT2Config(
    vocab_size=20,
    n_positions=6,
    n_embd=8,
    n_layer=2,
    n_head=2,
    attn_implementation="eager",
    bos_token_id=0,
    eos_token_id=0,
)


@pytest.fixture
def ours() -> GPT:
    return build_model(CONFIG, 20, torch.device("cpu"), seed=3)


def test_our_weights_make_hugging_faces_model_ours(ours: GPT) -> None:
    theirs = transformers.GPT2LMHeadModel(THEIRS).eval()
    found = theirs.load_state_dict(to_hugging_face(ours.state_dict()), strict=False)
    assert found.missing_keys == ["lm_head.weight"]
    assert found.unexpected_keys == []
    ids = torch.arange(12).view(2, 6)
    torch.testing.assert_close(theirs(ids).logits[:, -1], ours.logits(ids), atol=1e-6, rtol=0.0)


def test_there_and_back_is_the_same_to_the_bit(ours: GPT) -> None:
    before = ours.state_dict()
    after = from_hugging_face(to_hugging_face(before))
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_only_the_linear_weights_turn(ours: GPT) -> None:
    before, after = ours.state_dict(), to_hugging_face(ours.state_dict())
    turned = {name for name in before if after[name].shape != before[name].shape}
    linear = ("attn.c_attn.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
    assert turned == {f"transformer.h.{layer}.{name}" for layer in (0, 1) for name in linear}
    # A square one turns too, which its shape does not show.
    square = "transformer.h.1.attn.c_proj.weight"
    assert torch.equal(after[square], before[square].t())
    position = "transformer.wpe.weight"
    assert torch.equal(after[position], before[position])


def test_nothing_is_copied(ours: GPT) -> None:
    before, after = ours.state_dict(), to_hugging_face(ours.state_dict())
    assert all(after[name].data_ptr() == before[name].data_ptr() for name in before)


def old_file(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as the published files hold them: no prefix, and the causal masks."""
    bare = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    mask = torch.ones(6, 6).tril().view(1, 1, 6, 6)
    for layer in (0, 1):
        bare[f"h.{layer}.attn.bias"] = mask
        bare[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    return bare


def test_files_of_the_bare_model_with_masks_are_read(ours: GPT) -> None:
    read = from_hugging_face(old_file(to_hugging_face(ours.state_dict())))
    fresh = build_model(CONFIG, 20, torch.device("cpu"), seed=4)
    fresh.load_state_dict(read)  # strict: nothing missing, nothing more
    for name, tensor in ours.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], tensor)


def test_the_tied_head_is_dropped_and_another_head_refused(ours: GPT) -> None:
    tensors = to_hugging_face(ours.state_dict())
    tied = tensors | {"lm_head.weight": tensors["transformer.wte.weight"].clone()}
    assert "lm_head.weight" not in from_hugging_face(tied)
    with pytest.raises(ValueError, match=r"lm_head\.weight differs"):
        from_hugging_face(tied | {"lm_head.weight": tied["lm_head.weight"] + 1.0})
