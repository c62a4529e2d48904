"""Generation against a slow loop that keeps nothing between tokens."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch

from gpt2.config.typed import ModelConfig
from gpt2.model.build import build_model
from gpt2.model.cache import Cache
from gpt2.model.generate import Sampling, stream
from gpt2.model.gpt import GPT

VOCABULARY = 30
BLOCK = 8
PROMPT = [3, 1, 4]


def model_of(dropout: float = 0.0, seed: int = 1, flash: bool = True) -> GPT:
    config = ModelConfig(
        model="custom",
        n_layer=2,
        n_head=2,
        n_embd=16,
        block_size=BLOCK,
        dropout=dropout,
        bias=True,
        flash_attention=flash,
        activation_checkpointing="none",
        residual_precision=None,
        loss="full",
        loss_chunk_mib=None,
        init_from=None,
        keep_sparsity=None,
    )
    model = build_model(config, VOCABULARY, torch.device("cpu"), seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(10.0)  # so that the likeliest token depends on what went before
    return model


@torch.no_grad()
def slow_logits(model: GPT, ids: list[int]) -> list[float]:
    """Logits after `ids`, from hidden states, one dot product at a time."""
    hidden = model.hidden(torch.tensor([ids[-BLOCK:]]))[0, -1]
    return [float(hidden.double() @ row.double()) for row in model.transformer.wte.weight]


def slow_greedy(model: GPT, prompt: list[int], count: int) -> list[int]:
    ids = list(prompt)
    for _ in range(count):
        logits = slow_logits(model, ids)
        ids.append(max(range(VOCABULARY), key=lambda token: logits[token]))
    return ids[len(prompt) :]


def sampled(model: GPT, **changes: Any) -> list[int]:
    """Token ids that follow PROMPT; `changes` are fields of Sampling, or `prompt` and `count`."""
    options = {
        "prompt": PROMPT,
        "count": 20,
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "seed": 5,
    }
    options |= changes
    prompt, count = options.pop("prompt"), options.pop("count")
    return [token for (token,) in stream(model, prompt, count, Sampling(**options))]


def test_temperature_zero_is_the_slow_loops_argmax() -> None:
    model = model_of().eval()
    expected = slow_greedy(model, PROMPT, 20)  # goes well past the block's end
    assert len(set(expected)) > 3
    assert sampled(model, temperature=0.0) == expected
    assert sampled(model, temperature=0.0, seed=6, top_k=4) == expected
    assert sampled(model, temperature=1.0, top_k=1) == expected


@pytest.mark.parametrize("top_k", [2, 5])
def test_top_k_restricts_every_choice(top_k: int) -> None:
    model = model_of().eval()
    ids = list(PROMPT)
    ranks = set()
    for token in sampled(model, top_k=top_k, temperature=50.0, count=60):
        logits = slow_logits(model, ids)
        ranks.add(sorted(logits, reverse=True).index(logits[token]))
        ids.append(token)
    assert ranks == set(range(top_k))  # none beyond, and so hot that each of them comes up


def test_top_k_of_the_vocabulary_or_more_restricts_nothing() -> None:
    model = model_of()
    expected = sampled(model)
    assert sampled(model, top_k=VOCABULARY) == expected
    assert sampled(model, top_k=1000) == expected


def test_a_seed_repeats_and_another_does_not() -> None:
    model = model_of()
    assert sampled(model) == sampled(model)
    assert sampled(model) != sampled(model, seed=6)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    sampled(model)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_tokens_come_up_as_often_as_their_probability(temperature: float) -> None:
    model = model_of().eval()
    powers = [math.exp(value / temperature) for value in slow_logits(model, PROMPT)]
    draws = 800
    counts = Counter(
        sampled(model, count=1, seed=seed, temperature=temperature)[0] for seed in range(draws)
    )
    for token, power in enumerate(powers):
        share = power / sum(powers)
        assert abs(counts[token] / draws - share) < 5.0 * math.sqrt(share / draws) + 1.0 / draws


def test_a_long_prompt_is_cropped_to_the_block() -> None:
    model = model_of()
    prompt = [token % VOCABULARY for token in range(7, 7 + 3 * BLOCK)]
    assert sampled(model, prompt=prompt) == sampled(model, prompt=prompt[-BLOCK:])
    shorter = sampled(model, prompt=prompt[-BLOCK + 1 :], temperature=0.0, count=1)
    assert len(shorter) == 1


def test_dropout_is_off_and_the_mode_is_put_back() -> None:
    model = model_of(dropout=0.5).train()
    expected = sampled(model_of(dropout=0.0))
    assert sampled(model) == expected
    assert all(module.training for module in model.modules())
    sampled(model.eval())
    assert not any(module.training for module in model.modules())


def test_nothing_to_write_is_nothing() -> None:
    assert sampled(model_of(), count=0) == []


def test_growing_text_does_not_pass_through_what_is_compiled() -> None:
    model = model_of()
    expected = sampled(model)
    model.transformer.compile(backend=lambda *_: pytest.fail("compiled for one more length"))
    assert sampled(model) == expected


def written(model: GPT, length: int, cached: bool, **changes: Any) -> list[list[int]]:
    """20 tokens for each of two texts, well past the block, after a prompt of `length`."""
    prompt = [(7 * i + 3) % VOCABULARY for i in range(length)]
    return list(stream(model, prompt, 20, Sampling(**changes), samples=2, cached=cached))


@pytest.mark.parametrize("flash", [True, False])
@pytest.mark.parametrize("length", [1, 3, BLOCK - 1, BLOCK, BLOCK + 5])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_cache_changes_no_token(flash: bool, length: int, temperature: float) -> None:
    model = model_of(flash=flash)
    options = {"temperature": temperature, "seed": 3}
    expected = written(model, length, cached=False, **options)
    assert len({tuple(step) for step in expected}) > 3
    assert written(model, length, cached=True, **options) == expected


@pytest.mark.parametrize("flash", [True, False])
@torch.no_grad()
def test_logits_through_the_cache_are_those_without(flash: bool) -> None:
    model = model_of(flash=flash).eval()
    ids = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6], [2, 7, 1, 8, 2, 8, 1, 8]])
    cache = Cache(n_layer=2, capacity=BLOCK)
    for end, start in [(3, 0), *((end, end - 1) for end in range(4, BLOCK + 1))]:
        found = model.logits(ids[:, start:end], cache)
        assert cache.length == end
        torch.testing.assert_close(found, model.logits(ids[:, :end]), atol=2e-5, rtol=1e-5)


def test_with_the_cache_a_token_is_seen_once_until_the_window_slides() -> None:
    model = model_of()
    seen: list[int] = []
    model.transformer.wte.register_forward_hook(lambda _, ids, __: seen.append(ids[0].size(1)))
    written(model, 3, cached=True)
    assert seen == [3, 1, 1, 1, 1, 1, *[BLOCK] * 14]
    seen.clear()
    written(model, 3, cached=False)
    assert seen == [3, 4, 5, 6, 7, 8, *[BLOCK] * 14]


def test_samples_are_those_of_the_seeds_that_follow() -> None:
    model = model_of()
    together = stream(model, PROMPT, 20, Sampling(seed=5), samples=3)
    apart = [sampled(model, seed=seed) for seed in (5, 6, 7)]
    assert [list(text) for text in zip(*together, strict=True)] == apart


def test_a_stream_left_early_puts_the_mode_back() -> None:
    model = model_of().train()
    steps = stream(model, PROMPT, 20, Sampling())
    next(steps)
    assert torch.is_grad_enabled()
    steps.close()
    assert all(module.training for module in model.modules())


def slow_nucleus(logits: list[float], sampling: Sampling) -> list[float]:
    """Probability of each token, by hand: the k likeliest, of them the fewest that make up p."""
    tokens = sorted(range(len(logits)), key=lambda token: -logits[token])
    tokens = tokens[: sampling.top_k or len(tokens)]
    powers = {token: math.exp(logits[token] / sampling.temperature) for token in tokens}
    total = sum(powers.values())
    kept: list[int] = []
    while sum(powers[token] for token in kept) < sampling.top_p * total:
        kept.append(tokens[len(kept)])
    left = sum(powers[token] for token in kept)
    return [powers[t] / left if t in kept else 0.0 for t in range(len(logits))]


@pytest.mark.parametrize("top_p", [0.01, 0.3, 0.7, 0.95, 0.9999])
@pytest.mark.parametrize("top_k", [0, 6])
@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_what_is_drawn_from_is_the_slow_nucleus(
    top_p: float, top_k: int, temperature: float
) -> None:
    sampling = Sampling(temperature, top_k, top_p)
    logits = 2.0 * torch.randn(5, 40, generator=torch.Generator().manual_seed(2))
    found = sampling.probabilities(logits)
    found = found / found.sum(dim=1, keepdim=True)
    expected = torch.tensor([slow_nucleus(row, sampling) for row in logits.tolist()])
    assert ((found > 0) == (expected > 0)).all()
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_a_nucleus_restricts_the_text() -> None:
    model = model_of().eval()
    ids, counts = list(PROMPT), set()
    options = Sampling(temperature=3.0, top_p=0.6, seed=5)
    for token in sampled(model, temperature=3.0, top_p=0.6, count=40):
        chances = slow_nucleus(slow_logits(model, ids), options)
        assert chances[token] > 0.0
        counts.add(sum(chance > 0.0 for chance in chances))
        ids.append(token)
    assert 1 < max(counts) < VOCABULARY
