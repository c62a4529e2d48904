"""The tokenizer files of a Hugging Face folder."""

from __future__ import annotations

import json

from gpt2.data.tokenizer import (
    VOCABULARY,
    VOCABULARY_SHA256,
    Gpt2Tokenizer,
    Tokenizer,
    check_vocabulary,
)

_END_OF_TEXT = "<|endoftext|>"


def tokenizer_files(tokenizer: Tokenizer, block_size: int) -> dict[str, bytes]:
    """Return the files, by name, from which AutoTokenizer builds `tokenizer`.

    For GPT-2's tokens they are the published vocabulary. Raises UserError (DATA) when it is
    damaged.
    """
    if not isinstance(tokenizer, Gpt2Tokenizer):
        return _of_characters(tokenizer, block_size)
    check_vocabulary(VOCABULARY)
    merges, ids = (VOCABULARY / name for name in VOCABULARY_SHA256)
    special = dict.fromkeys(("bos_token", "eos_token", "unk_token"), _END_OF_TEXT)
    entries = {"tokenizer_class": "GPT2Tokenizer", "model_max_length": block_size, **special}
    return {
        "merges.txt": merges.read_bytes(),
        "vocab.json": ids.read_bytes(),
        "tokenizer_config.json": (json.dumps(entries, indent=2) + "\n").encode(),
    }


def _of_characters(tokenizer: Tokenizer, block_size: int) -> dict[str, bytes]:
    """Return the files of a tokenizer whose ids are single characters.

    It has no unknown token: other characters are an error in transformers, as here.
    """
    ids = {tokenizer.decode([number]): number for number in range(tokenizer.vocab_size)}
    each = {
        "type": "Split",
        "pattern": {"Regex": r"[\s\S]"},
        "behavior": "Isolated",
        "invert": False,
    }
    form: dict[str, object] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": each,
        "post_processor": None,
        "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "vocab": ids, "unk_token": "[UNK]"},
    }
    entries = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": block_size,
        "clean_up_tokenization_spaces": False,
    }
    return {
        "tokenizer.json": (json.dumps(form, indent=1) + "\n").encode(),
        "tokenizer_config.json": (json.dumps(entries, indent=2) + "\n").encode(),
    }
