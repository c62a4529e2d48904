"""Generation against a slow loop that keeps nothing between tokens."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch

from gpt2.config.typed import ModelConfig
from gpt2.model.generate import generate
from gpt2.model.gpt import GPT, build_model

VOCABULARY = 30
BLOCK = 8
PROMPT = [3, 1, 4]


def model_of(dropout: float = 0.0, seed: int = 1) -> GPT:
    config = ModelConfig(
        model="custom",
        n_layer=2,
        n_head=2,
        n_embd=16,
        block_size=BLOCK,
        dropout=dropout,
        bias=True,
        flash_attention=True,
        loss="full",
        loss_chunk_mib=None,
    )
    model = build_model(config, VOCABULARY, torch.device("cpu"), seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(10.0)  # so that the likeliest token depends on what went before
    return model


@torch.no_grad()
def slow_logits(model: GPT, ids: list[int]) -> list[float]:
    """Logits after `ids`, from hidden states, one dot product at a time."""
    hidden = model.transformer(torch.tensor([ids[-BLOCK:]]))[0, -1]
    return [float(hidden.double() @ row.double()) for row in model.transformer.wte.weight]


def slow_greedy(model: GPT, prompt: list[int], count: int) -> list[int]:
    ids = list(prompt)
    for _ in range(count):
        logits = slow_logits(model, ids)
        ids.append(max(range(VOCABULARY), key=lambda token: logits[token]))
    return ids[len(prompt) :]


def sampled(model: GPT, **changes: Any) -> list[int]:
    options = {"prompt": PROMPT, "count": 20, "temperature": 1.0, "top_k": 0, "seed": 5}
    return generate(model, **(options | changes))


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
