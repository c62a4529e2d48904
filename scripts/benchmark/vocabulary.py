"""How many ids the random tokens of a bench have."""

from __future__ import annotations

from gpt2.config.typed import Config

GPT2_VOCABULARY, CHARACTERS = 50257, 65


def usual_vocabulary(config: Config) -> int:
    """Return the size of the vocabulary that the data of `config` would have."""
    characters = config.data.tokenizer == "char" or config.data.dataset.endswith("-char")
    return CHARACTERS if characters else GPT2_VOCABULARY
