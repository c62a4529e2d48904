"""A data folder of given token ids, for tests of what opens one."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from gpt2.data.meta import Meta, Split

VOCAB = 100


def make_folder(folder: Path, train: list[int], val: list[int], vocab: int = VOCAB) -> Meta:
    """Write the .bin files and meta.json; two bytes of text are said of each token."""
    folder.mkdir(parents=True, exist_ok=True)
    splits = {}
    for name, ids in (("train", train), ("val", val)):
        raw = np.array(ids, dtype="<u2").tobytes()
        (folder / f"{name}.bin").write_bytes(raw)
        splits[name] = Split(len(ids), 2 * len(ids), hashlib.sha256(raw).hexdigest())
    tokenizer = {"name": "char", "vocab_size": vocab, "end_of_text": None}
    meta = Meta(folder.name, tokenizer, {"address": "a test", "sha256": "0"}, splits)
    (folder / "meta.json").write_text(meta.to_json(), encoding="utf-8")
    return meta
