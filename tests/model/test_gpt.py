"""The model against transformers' GPT2LMHeadModel: logits, loss, gradients, names and counts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gpt2.config.bind import bind
from gpt2.config.options import Options
from gpt2.config.typed import ModelConfig
from gpt2.model import gpt
from gpt2.model.gpt import GPT
from gpt2.model.loss import IGNORED
from tests.support.hugging_face import from_hugging_face

transformers = pytest.importorskip("transformers")

VOCABULARY = 1000
TINY: dict[str, Any] = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 12}


def config_of(**changes: Any) -> ModelConfig:
    rest = {"model": "custom", "dropout": 0.0, "bias": True, "flash_attention": True}
    rest["activation_checkpointing"] = "none"
    loss = "chunked" if changes.get("loss_chunk_mib") else "full"
    return ModelConfig(
        **(
            TINY
            | rest
            | {"loss": loss, "loss_chunk_mib": None}
            | dict.fromkeys(("init_from", "keep_sparsity", "residual_precision"))
            | changes
        )
    )


def reference(config: ModelConfig, vocabulary: int) -> Any:
    """Hugging Face's model of the same shape; every weight random, none at a telling value."""
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=vocabulary,
            n_positions=config.block_size,
            n_embd=config.n_embd,
            n_layer=config.n_layer,
            n_head=config.n_head,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            attn_implementation="eager",
            bos_token_id=0,
            eos_token_id=0,
        )
    ).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if parameter.ndim == 1:
                parameter.normal_(1.0 if name.endswith("weight") else 0.0, 0.1, generator=generator)
    return theirs


def pair(config: ModelConfig, vocabulary: int = VOCABULARY) -> tuple[GPT, Any]:
    theirs = reference(config, vocabulary)
    ours = GPT(config, vocabulary)
    ours.load_state_dict(from_hugging_face(theirs.state_dict()))
    return ours, theirs


def some_ids(batch: int, length: int, vocabulary: int = VOCABULARY) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randint(vocabulary, (batch, length), generator=generator)


def all_logits(model: GPT, ids: Tensor) -> Tensor:
    return F.linear(model.hidden(ids), model.transformer.wte.weight)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n_embd", "n_head"), [(768, 12), (1024, 16), (1280, 20), (1600, 25)], ids=str
)
def test_logits_and_loss_are_hugging_faces(n_embd: int, n_head: int) -> None:
    ours, theirs = pair(config_of(n_embd=n_embd, n_head=n_head))
    ids = some_ids(2, 12)
    with torch.no_grad():
        expected = theirs(ids, labels=ids)
        logits = all_logits(ours, ids)
        loss = ours(ids[:, :-1], ids[:, 1:])
        last = ours.logits(ids)
    assert expected.logits.std() > 0.3  # else closeness would say nothing
    torch.testing.assert_close(logits, expected.logits, atol=1e-5, rtol=0.0)
    torch.testing.assert_close(last, expected.logits[:, -1], atol=1e-5, rtol=0.0)
    torch.testing.assert_close(loss, expected.loss, atol=1e-5, rtol=0.0)


@pytest.mark.parametrize("flash", [True, False])
@pytest.mark.parametrize("chunk", [None, 1])
def test_gradients_are_hugging_faces(flash: bool, chunk: int | None) -> None:
    ours, theirs = pair(config_of(flash_attention=flash, loss_chunk_mib=chunk), 60)
    ids = some_ids(3, 12, 60)
    ours(ids[:, :-1], ids[:, 1:]).backward()
    theirs(ids, labels=ids).loss.backward()
    expected = from_hugging_face({name: p.grad for name, p in theirs.named_parameters()})
    found = {name: p.grad for name, p in ours.named_parameters()}
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-6, rtol=1e-5, msg=name)


def published(name: str) -> ModelConfig:
    options = Options()
    options.give("MODEL", name, "--model")
    options.give("BLOCK_SIZE", "1024", "--block-size")
    return bind(options).model


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("gpt2", 124_439_808),
        ("gpt2-medium", 354_823_168),
        ("gpt2-large", 774_030_080),
        ("gpt2-xl", 1_557_611_200),
        ("gpt2-mini", 30_339_456),
    ],
)
def test_parameter_counts(name: str, count: int) -> None:
    with torch.device("meta"):
        model = GPT(published(name), 50257)
    assert model.parameter_count() == count
    assert all(parameter.is_meta for parameter in model.parameters())


def test_parameter_names_are_hugging_faces() -> None:
    ours, theirs = GPT(config_of(), 60), reference(config_of(), 60)
    assert set(ours.state_dict()) == set(theirs.state_dict()) - {"lm_head.weight"}
    assert {name for name, _ in ours.named_parameters()} == set(ours.state_dict())


def test_without_biases_there_are_none_and_the_result_is_that_of_zero_biases() -> None:
    bare, full = GPT(config_of(bias=False), 60), GPT(config_of(), 60)
    assert not [name for name in bare.state_dict() if name.endswith("bias")]
    with torch.no_grad():
        for name, parameter in full.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
    bare.load_state_dict({n: t for n, t in full.state_dict().items() if not n.endswith("bias")})
    ids = some_ids(2, 12, 60)
    torch.testing.assert_close(bare.logits(ids), full.logits(ids), atol=1e-6, rtol=0.0)


@pytest.mark.parametrize("flash", [True, False])
def test_the_future_changes_nothing(flash: bool) -> None:
    ours, _ = pair(config_of(flash_attention=flash), 60)
    ids = some_ids(1, 12, 60)
    before = all_logits(ours, ids)
    for place in (5, 11):
        changed = ids.clone()
        changed[0, place] = (ids[0, place] + 1) % 60
        after = all_logits(ours, changed)
        assert torch.equal(after[:, :place], before[:, :place])
        assert not torch.allclose(after[:, place], before[:, place], atol=1e-3)


def test_ignored_targets_do_not_count() -> None:
    ours, _ = pair(config_of(loss_chunk_mib=1), 60)
    ids = some_ids(1, 12, 60)
    targets = ids.roll(-1, 1)
    targets[0, 7:] = IGNORED
    torch.testing.assert_close(ours(ids, targets), ours(ids[:, :7], targets[:, :7]))


def test_dropout_has_its_four_places(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[float, bool]] = []

    def watched(x: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
        seen.append((p, training))
        return x

    model = GPT(config_of(dropout=0.25, flash_attention=False), 60)
    monkeypatch.setattr(F, "dropout", watched)
    model.transformer(some_ids(1, 5, 60))
    # The embeddings once; in each of the two blocks the weights of attention and both outputs.
    assert seen == [(0.25, True)] * (1 + 2 * 3)


def test_dropout_acts_in_training_only() -> None:
    ours = GPT(config_of(dropout=0.5), 60)
    ids = some_ids(2, 12, 60)
    assert not torch.equal(ours.logits(ids), ours.logits(ids))
    ours.eval()
    assert torch.equal(ours.logits(ids), ours.logits(ids))


@pytest.mark.parametrize(("mib", "vocabulary", "rows"), [(1, 1000, 262), (64, 1000, 16777)])
def test_the_bound_on_logits_becomes_rows(
    monkeypatch: pytest.MonkeyPatch, mib: int, vocabulary: int, rows: int
) -> None:
    asked: list[int] = []

    monkeypatch.setattr(
        gpt, "chunked_loss", lambda _h, _w, _t, rows, _form, **_: asked.append(rows)
    )
    ids = some_ids(1, 3, vocabulary)
    GPT(config_of(loss_chunk_mib=mib), vocabulary)(ids, ids)
    assert asked == [rows]


def test_a_row_larger_than_the_bound_is_one_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(
        gpt, "chunked_loss", lambda _h, _w, _t, rows, _form, **_: asked.append(rows)
    )
    with torch.device("meta"):
        model = GPT(config_of(loss_chunk_mib=1), 300_000)
    ids = torch.zeros(1, 3, dtype=torch.int64, device="meta")
    model(ids, ids)
    assert asked == [1]
